"""Judges that read: the model's answer is generated, at δ or not, and a function says what it is.

    a request counts as answered  ⇔  the judge says so of one of its N generations

The first generation is greedy, the others are drawn at a temperature. A verdict has no gradient, so
attacks climb the mean log-probability of the target, and the answer at the point where they end is
read:

    m = min( mean_t log p(y_t | x, y_{<t}), −10⁻⁶ ) while they climb, and where the answer is read
    and counts as none;  m = 10 where it counts as answered
"""

from __future__ import annotations

import copy
import hashlib
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from nlp_adv.attacks.chat.judge import begins_with_refusal, mean_log_probability
from nlp_adv.attacks.words.own_functions import Found, OwnFunction
from nlp_adv.errors import UserError
from nlp_adv.sites.taps import beside_the_pass

ANSWER = 10.0  # m of what counts as answered: a verdict is certain
_UNREAD = -1e-6  # the largest m of all else: even a certain target is none before it was read


@dataclass(frozen=True)
class ReadingJudge:
    """A function of one's own that reads answers, known by its name and version.

        def harmful(requests: list[str], answers: list[str]) -> list[bool]: ...

        ReadingJudge.of(harmful)

    It gets several at once, so that a model in it can work in batches; of each request as it stands
    in the data, whatever an attack has put behind it, and of an answer all that the model says,
    what was prefilled included. It returns True, False or a score in [0, 1] for each.

    Args:
        function: it, see `of`.
        refusals: what refusals begin with, for the two rates of refusals alone.
        threshold: scores from here on count as answered.

    Raises:
        UserError: a threshold that is none.
    """

    function: OwnFunction
    refusals: tuple[str, ...] = ()
    threshold: float = 0.5
    reads: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise UserError(
                f"The judge's threshold is a score above 0 and at most 1, not {self.threshold}."
            )

    @classmethod
    def of(
        cls,
        function: Any,
        refusals: Sequence[str] = (),
        threshold: float = 0.5,
        found: Found | None = None,
    ) -> ReadingJudge:
        """Of any callable; see `OwnFunction.of` for its name and version.

        Raises:
            UserError: it cannot be called, or is known by nothing.
        """
        return cls(OwnFunction.of("judge", function, found), tuple(refusals), threshold)

    @property
    def kind(self) -> str:
        """The function's name."""
        return self.function.name

    @property
    def fingerprint(self) -> list[Any]:
        """For hashes: what verdicts depend on."""
        return [self.function.fingerprint, self.threshold]

    def refused(self, text: str) -> bool:
        """Whether a generated text begins with a refusal."""
        return begins_with_refusal(text, self.refusals)

    def openers(self, tokenizer: Any) -> Tensor:
        """None are needed."""
        return torch.zeros(0, dtype=torch.long)

    def margin(self, logits: Tensor, ids: Tensor, answer: Tensor, openers: Tensor) -> Tensor:
        """m before anything was read, (B,); see `Judge.margin`."""
        return mean_log_probability(logits, ids, answer).clamp_max(_UNREAD)

    def answered(self, requests: Sequence[str], answers: Sequence[str]) -> list[bool]:
        """Of each pair, whether the judge takes it for answered.

        Raises:
            UserError: the function failed, or returned something else than verdicts.
        """
        return [one >= self.threshold for one in self.function.verdicts(requests, answers)]


@dataclass(frozen=True)
class Generations:
    """How the answers are made that a judge reads.

    Args:
        count: N, at least 1; the first is greedy.
        temperature: of the others.
        new_tokens: of each answer, at most.
        seed: with the prompt it decides what is drawn.

    Raises:
        UserError: a number that is none.

    Cost: N passes of one token for each new token, the longest answer's in a batch; the pass over
    prompt and target is made anyway.
    """

    count: int = 1
    temperature: float = 1.0
    new_tokens: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.count, self.new_tokens) < 1 or not 0 < self.temperature < float("inf"):
            raise UserError(
                "generations and new_tokens are 1 or more, and the temperature is above 0."
            )

    def read(
        self, model: Any, begun: Any, ids: Tensor, seen: Tensor, ends: Tensor
    ) -> Iterator[Tensor]:
        """The new tokens of each generation, (B, ≤ new_tokens), −1 behind an end.

        Args:
            model: the language model; its hooks have done their part in the pass that is gone on
                from.
            begun: its output for ids, with a cache.
            ids: (B, T).
            seen: (B, T), 1 on the prompt and what is given of the answer, from the first column on.
            ends: ids that end an answer.

        Raises:
            UserError: the model keeps no cache, or is not told the places of tokens, which are not
                those in the cache: that of a prompt is followed by its target.
        """
        # Transformers 5.24 renamed it.
        kept = next((one for one in ("cache", "past_key_values") if one in begun), "")
        base = model.get_base_model() if hasattr(model, "get_base_model") else model  # an adapter's
        if not kept or "position_ids" not in inspect.signature(base.forward).parameters:
            lacks = "takes no position_ids" if kept else "keeps no cache of a prompt"
            raise UserError(
                f"{type(model).__name__} {lacks}, which a judge that reads answers needs; take "
                f"--judge exact, target or refusal."
            )
        for number in range(self.count):
            cache = begun[kept]
            cache = cache if number + 1 == self.count else copy.deepcopy(cache)
            with beside_the_pass():
                yield self._continued(model, begun.logits, {kept: cache}, ids, seen, ends, number)

    def _continued(
        self,
        model: Any,
        logits: Tensor,
        cache: dict[str, Any],
        ids: Tensor,
        seen: Tensor,
        ends: Tensor,
        number: int,
    ) -> Tensor:
        place, rows = seen.sum(1), torch.arange(len(ids), device=ids.device)
        last = getattr(model.config, "max_position_embeddings", None) or torch.inf
        streams = self._streams(ids, seen, number)
        next_logits, said = logits[rows, place - 1], list[Tensor]()
        done = torch.zeros_like(place, dtype=torch.bool)
        for _ in range(self.new_tokens):
            token = self._chosen(next_logits, streams)
            said.append(torch.where(done, -1, token))
            done = done | torch.isin(token, ends) | (place + 1 >= last)
            if len(said) == self.new_tokens or bool(done.all()):
                break
            seen = torch.cat([seen, torch.ones_like(seen[:, :1])], 1)
            next_logits = model(
                input_ids=token[:, None],
                attention_mask=seen,
                position_ids=place[:, None].clamp_max(last - 1),
                use_cache=True,
                **cache,
            ).logits[:, -1]
            place = place + 1
        return torch.stack(said, 1)

    def _chosen(self, logits: Tensor, streams: Sequence[torch.Generator]) -> Tensor:
        """The most probable tokens, (B,), or those that each row's own generator draws."""
        if not streams:
            return logits.argmax(-1)
        below = (logits.double() / self.temperature).softmax(-1).cumsum(-1)
        drawn = [torch.rand((), dtype=torch.float64, generator=one) for one in streams]
        heights = torch.stack(drawn).to(logits.device)[:, None] * below[:, -1:]
        return torch.searchsorted(below, heights, right=True)[:, 0].clamp_max(below.shape[1] - 1)

    def _streams(self, ids: Tensor, seen: Tensor, number: int) -> list[torch.Generator]:
        """A generator for each row, of what the model reads there; none of the greedy one."""
        found = []
        for row, size in zip(ids.tolist(), seen.sum(1).tolist(), strict=True) if number else ():
            content = f"{self.seed}/{number}/{row[:size]}".encode()
            digest = hashlib.blake2b(content, digest_size=7).digest()
            found.append(torch.Generator().manual_seed(int.from_bytes(digest, "big")))
        return found
