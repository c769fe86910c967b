"""GCG: a suffix of tokens behind the prompt, found by gradients and tried as text.

Zou et al., "Universal and Transferable Adversarial Attacks on Aligned Language Models", 2023,
https://arxiv.org/abs/2307.15043, Algorithm 1, for one prompt:

    repeat:  X_i = Top-k( ⟨∇_{e_i} ℓ, W⟩ ) for each place i of the suffix
             B candidates: one place, drawn uniformly, gets a token of X_i, drawn uniformly
             the suffix becomes the best of them, or stays where none is better

with ℓ the target's mean log-probability and W the embedding matrix.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nlp_adv.attacks.chat.answering import FORWARD, REFUSED, Answering
from nlp_adv.attacks.chat.prompted import Prompted
from nlp_adv.attacks.losses import LOSSES
from nlp_adv.attacks.subject import Subject
from nlp_adv.errors import UserError
from nlp_adv.perturbation.evaluating import answers

Batches = Callable[[Sequence[str]], dict[str, Tensor]]
"""Texts of prompts → a batch of them with the target, "labels" (B,) 0, as `Answering` takes it."""


class Suffixed(NamedTuple):
    """What came of one prompt.

    Attributes:
        text: the prompt with its suffix.
        logits: (2,), at that text.
        fooled: the judge says that it was answered.
        forwards, gradient_passes: that it took.
    """

    text: str
    logits: Tensor
    fooled: bool
    forwards: int
    gradient_passes: int


@dataclass(frozen=True)
class GCG:
    """Greedy coordinate gradient on the ids of a suffix.

    Args:
        length: tokens of the suffix.
        steps: at most; a prompt is done with its first success.
        candidates: B, tried at once at each step.
        top_k: k, for each place.
        seed: of the draws; with the prompt it decides all of them.

    Deviations: a suffix never gets worse. Every candidate is written out and **tokenized again in
    its whole prompt**; those that come out as other ids are not tried, so that each success is that
    of a text.

    Cost: a step is one gradient, the judge's look and at most B forward passes of the prompt.
    """

    length: int = 20
    steps: int = 250
    candidates: int = 512
    top_k: int = 256
    seed: int = 0

    name = "gcg"

    def __post_init__(self) -> None:
        if min(self.length, self.steps, self.candidates, self.top_k) < 1:
            raise UserError("length, steps, candidates and top_k of gcg must be at least 1.")

    def run(
        self, subject: Subject, judge: Answering, batches: Batches, prompted: Prompted, prompt: str
    ) -> Suffixed:
        """Attack one prompt.

        Args:
            subject: the model with the judge `target`, quiet and hooked (see `Subject.opened`).
            judge: the same model with the judge that decides.
            batches, prompted: of prompts.
            prompt: the user's text.
        """
        draws = random.Random(f"{self.seed}/{prompt}")
        searching: Any = subject.model
        table: Tensor = searching.get_input_embeddings().weight.detach()
        plain = _plain_tokens(prompted.tokenizer, table.device)
        at = _Suffix.begun(batches, prompted, prompt, self.length)
        forwards = gradients = 0
        logits, fooled = _judged(judge, at.batch)
        for _ in range(self.steps):
            if fooled:
                break
            rows = subject.rows(at.batch)
            grad, value, _ = rows.gradient(rows.clean, LOSSES["margin"])
            scores = grad[0, at.begin : at.begin + self.length].to(table.dtype) @ table[plain].T
            best = plain[scores.topk(min(self.top_k, len(plain))).indices].tolist()
            tried, kept = at.tokenized([at.swapped(draws, best) for _ in range(self.candidates)])
            forwards, gradients = forwards + 3 + len(kept), gradients + 1
            if not kept:
                continue
            with torch.no_grad():
                values = searching(**_without_labels(tried)).logits[:, 1]
            best_one = int(values.argmax())
            if values[best_one] > value[0] and (moved := at.moved(kept[best_one])) is not None:
                at = moved
                logits, fooled = _judged(judge, at.batch)
        return Suffixed(at.text, logits, fooled, forwards + 1, gradients)


@dataclass(frozen=True)
class _Suffix:
    """A prompt with a suffix, and where that lies among the ids of the whole."""

    batches: Batches
    prompted: Prompted
    prompt: str
    ids: tuple[int, ...]
    begin: int
    batch: Mapping[str, Tensor]

    @classmethod
    def begun(cls, batches: Batches, prompted: Prompted, prompt: str, length: int) -> _Suffix:
        """With a suffix of one token, again and again, that stays as many tokens as it was."""
        tokenizer = prompted.tokenizer
        bare = batches([prompt])["input_ids"][0].tolist()
        for filler in ("!", "x", "the", "a", "."):
            one = tokenizer(f" {filler}", add_special_tokens=False)["input_ids"]
            if len(one) != 1 or one[0] == tokenizer.unk_token_id:
                continue
            text = _joined(prompt, tokenizer.decode(one * length))
            batch = batches([text])
            whole = batch["input_ids"][0].tolist()
            begin = next((i for i in range(len(bare)) if whole[i] != bare[i]), len(bare))
            if whole == bare[:begin] + one * length + bare[begin:]:
                return cls(batches, prompted, prompt, tuple(one * length), begin, batch)
        raise UserError(
            f"No filler word makes a suffix of {length} tokens behind the prompt {prompt!r:.60} in "
            f"this tokenizer, so that gcg has nowhere to begin; leave gcg out of --attacks."
        )

    @property
    def text(self) -> str:
        """All of it."""
        return self._text(self.ids)

    def swapped(self, draws: random.Random, best: Sequence[Sequence[int]]) -> tuple[int, ...]:
        """With another token in one place."""
        place = draws.randrange(len(self.ids))
        new = draws.choice(best[place])
        return (*self.ids[:place], new, *self.ids[place + 1 :])

    def tokenized(
        self, suffixes: Sequence[tuple[int, ...]]
    ) -> tuple[dict[str, Tensor], list[tuple[int, ...]]]:
        """The batch of those that stay the same ids once they are text, and these suffixes.

        All are written out and tokenized in one call.
        """
        different = list(dict.fromkeys(suffixes))
        own = self.batch["input_ids"][0]
        written = self.prompted.ids([self._text(one) for one in different])
        begins = own[: self.begin].tolist()
        ends = own[self.begin + len(self.ids) : int(self.batch["answer_begins"][0])].tolist()
        pairs = zip(different, written, strict=True)
        kept = [one for one, ids in pairs if ids == [*begins, *one, *ends]]
        if not kept:
            return {}, kept
        rows = own.repeat(len(kept), 1)
        rows[:, self.begin : self.begin + len(self.ids)] = torch.tensor(kept, device=own.device)
        batch = {name: one.expand(len(kept), *one.shape[1:]) for name, one in self.batch.items()}
        return batch | {"input_ids": rows}, kept

    def moved(self, ids: tuple[int, ...]) -> _Suffix | None:
        """With another suffix; None where a template that reads prompts makes other ids of it."""
        batch = self.batches([self._text(ids)])
        begin, end = self.begin, self.begin + len(ids)
        there, own = batch["input_ids"][0].tolist(), self.batch["input_ids"][0].tolist()
        if there != [*own[:begin], *ids, *own[end:]]:
            return None
        return replace(self, ids=ids, batch=batch)

    def _text(self, ids: Sequence[int]) -> str:
        return _joined(self.prompt, self.prompted.tokenizer.decode(list(ids)))


def _joined(prompt: str, suffix: str) -> str:
    return f"{prompt}{suffix}" if suffix[:1].isspace() else f"{prompt} {suffix}"


def _plain_tokens(tokenizer: Any, device: torch.device) -> Tensor:
    """The ids that a suffix may hold: printable, and no special token."""
    special = set(tokenizer.all_special_ids) | set(tokenizer.get_added_vocab().values())
    fine = [
        number
        for number in range(len(tokenizer))
        if number not in special and tokenizer.decode([number]).strip().isprintable()
    ]
    return torch.tensor(fine, device=device)


def _without_labels(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: one for name, one in batch.items() if name in FORWARD}


def _judged(judge: Answering, batch: Mapping[str, Tensor]) -> tuple[Tensor, bool]:
    """The two logits, (2,), and whether they say that the prompt was answered."""
    with torch.no_grad():
        logits = judge(**_without_labels(batch)).logits
    return logits[0].cpu(), bool(answers(logits)[0] != REFUSED)
