"""A language model as a classifier of requests: refused or answered, so that all attacks fit."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from nlp_adv.attacks.chat.judge import Judge, Likely
from nlp_adv.attacks.chat.reading import ANSWER, Generations, ReadingJudge

REFUSED, ANSWERED = 0, 1
NAMES = ("refused", "answered")
FORWARD = ("input_ids", "attention_mask", "completion_mask", "answer_begins", "request")
"""What `Answering` takes."""


class Answering(nn.Module):
    """Prompt and target in, logits (B, 2) out: 0 for refused, the judge's m for answered.

    PGD on the logit margin then climbs towards the target, at any site of the model; an example
    is fooled where the judge says that it was answered. A judge that reads does so in passes
    without a graph: those with one are steps of an attack, which ends with a look.

    Args:
        model: a causal language model.
        judge: what counts as answered.
        tokenizer: of the model.
        requests: the requests of the data, which a judge that reads is told.
        generations: that it reads; None reads nothing, and nothing counts as answered then.
    """

    def __init__(
        self,
        model: Any,
        judge: Judge | ReadingJudge | Likely,
        tokenizer: Any,
        requests: Sequence[str] = (),
        generations: Generations | None = None,
    ) -> None:
        super().__init__()
        self.model, self.judge, self.config = model, judge, model.config
        self.tokenizer, self.requests, self.generations = tokenizer, requests, generations
        self._openers = judge.openers(tokenizer)
        self._verdicts: dict[tuple[str, str], bool] = {}  # a judge may be slow

    def get_input_embeddings(self) -> nn.Module:
        """The language model's."""
        found: nn.Module = self.model.get_input_embeddings()
        return found

    def searching(self) -> Answering:
        """The same with what a search in texts climbs: how likely the target is."""
        return Answering(self.model, Likely(), self.tokenizer)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        completion_mask: Tensor,
        answer_begins: Tensor | None = None,
        request: Tensor | None = None,
    ) -> SimpleNamespace:
        """Logits of the two classes.

        Args:
            input_ids, attention_mask: (B, T), prompts and targets, padded on the right.
            completion_mask: (B, T), 1 on what is judged of the targets.
            answer_begins: (B,), the first column behind the prompt.
            request: (B,), which of the requests each row is.
        """
        reads = self.generations is not None and isinstance(self.judge, ReadingJudge)
        reads = reads and not torch.is_grad_enabled()
        more = {"use_cache": True} if reads else {}
        found = self.model(input_ids=input_ids, attention_mask=attention_mask, **more)
        logits, openers = found.logits, self._openers.to(found.logits.device)
        margin = self.judge.margin(logits, input_ids, completion_mask, openers)
        if reads:
            assert answer_begins is not None
            assert request is not None
            seen = attention_mask * (completion_mask.cumsum(1) == 0)
            asked = [self.requests[one] for one in request.tolist()]
            said = self._answered(found, input_ids, seen, answer_begins.tolist(), asked)
            margin = torch.where(said, ANSWER, margin)
        return SimpleNamespace(logits=torch.stack([torch.zeros_like(margin), margin], 1), loss=None)

    def _answered(
        self, begun: Any, ids: Tensor, seen: Tensor, begins: list[int], asked: list[str]
    ) -> Tensor:
        """(B,): the judge says that one of the generations answers."""
        assert isinstance(self.judge, ReadingJudge)
        assert self.generations is not None
        sizes, found = seen.sum(1).tolist(), [False] * len(ids)
        for new in self.generations.read(self.model, begun, ids, seen, self._ends(ids.device)):
            columns = zip(ids.tolist(), new.tolist(), begins, sizes, strict=True)
            answers = [
                self.tokenizer.decode(
                    [*row[begin:size], *(one for one in own if one >= 0)], skip_special_tokens=True
                )
                for row, own, begin, size in columns
            ]
            pairs = list(zip(asked, answers, strict=True))
            if unread := [one for one in dict.fromkeys(pairs) if one not in self._verdicts]:
                verdicts = self.judge.answered(*map(list, zip(*unread, strict=True)))
                self._verdicts |= zip(unread, verdicts, strict=True)
            found = [one or self._verdicts[pair] for one, pair in zip(found, pairs, strict=True)]
        return torch.tensor(found, device=ids.device)

    def _ends(self, device: torch.device) -> Tensor:
        given = [self.tokenizer.eos_token_id]
        own = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        given += own if isinstance(own, list) else [own]
        return torch.tensor([one for one in given if one is not None], device=device).long()
