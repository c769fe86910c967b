"""One example under attack: what may be changed, what was asked, what is left of the budget.

An attack's search is a generator over one example: it yields a request and is sent the answer.
Whoever drives it (`engine.py`) answers the requests of all examples together, so a search reads as
its paper has it and runs in batches all the same.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from nlp_adv.attacks.words.constraints import Constraints
from nlp_adv.attacks.words.encoding import Row, Template
from nlp_adv.attacks.words.own_functions import OwnFunction
from nlp_adv.attacks.words.protocols import Protocol
from nlp_adv.attacks.words.words import Words
from nlp_adv.perturbation.evaluating import answers, logit_margin

T = TypeVar("T")
Steps = Generator["Request", Any, T]  # yields requests, is sent their answers, returns a T


@dataclass(frozen=True)
class LogitsRequest:
    """Answered with (rows, classes)."""

    rows: list[Row]


@dataclass(frozen=True)
class GradientRequest:
    """Answered with ∇ of the margin by the row's embeddings, (tokens, width)."""

    row: Row
    label: int


@dataclass(frozen=True)
class FillRequest:
    """What a masked language model expects at a word; answered per (text, place).

    An answer has one list a token of the word: the likeliest tokens there, best first, as
    (id, log p).
    """

    texts: list[Words]
    places: list[int]
    count: int


@dataclass(frozen=True)
class SimilarityRequest:
    """Answered with the cosine of each text with the first one."""

    texts: list[str]


Request = LogitsRequest | GradientRequest | FillRequest | SimilarityRequest


@dataclass(frozen=True)
class Answer:
    """What the model said to a variant.

    Args:
        words: the variant.
        logits: (C,).
        score: what the attack raises; 0 at a tie, above it where another class leads.
        succeeded: whether the goal is reached.
    """

    words: Words
    logits: Tensor
    score: float
    succeeded: bool

    @property
    def prediction(self) -> int:
        """The class answered; `NO_CLASS` where the logits name none."""
        return int(answers(self.logits))


@dataclass(frozen=True)
class Goal:
    """Untargeted: any answer but the label. Targeted: one class, whatever the label.

    Args:
        target: the class, or None.
        own: a goal of one's own instead, a function of logits (N, C) and the label that returns a
            score for each row, above 0 where the goal is reached.
    """

    target: int | None = None
    own: OwnFunction | None = None

    def judged(self, logits: Tensor, label: int, text: str = "") -> list[tuple[float, bool]]:
        """Score and success of each row, of variants of a text.

        Untargeted max_{j≠y} z_j − z_y, targeted z_t − max_{j≠t} z_j. Logits that name no class (a
        tie, an inf or a nan, see `answers`) are wrong, and not the target.
        """
        which = label if self.target is None else self.target
        classes = torch.full((len(logits),), which)
        margins = logit_margin(logits, classes)
        says = answers(logits) == classes
        finite = torch.isfinite(logits).all(1)
        if self.own is not None:  # an answer that is none is wrong by any goal
            own = torch.full((len(logits),), torch.inf, dtype=torch.float64)
            if finite.any():
                own[finite] = self.own.scores(logits[finite], label, text)
            return list(zip(own.tolist(), (own > 0).tolist(), strict=True))
        scores, reached = (margins, ~says) if self.target is None else (-margins, says)
        scores = torch.where(finite, scores, torch.inf if self.target is None else -torch.inf)
        return list(zip(scores.tolist(), reached.tolist(), strict=True))


@dataclass
class Example:
    """One text, its label and its account.

    Args:
        id: its number in the data.
        template: its text, ready to be varied.
        label: the right class.
        goal: what counts as success.
        protocol: budget and counting.
        constraints: which places and candidates are allowed.
        rng: its own random numbers, so that no other example changes them.
    """

    id: int
    template: Template
    label: int
    goal: Goal
    protocol: Protocol
    constraints: Constraints
    rng: random.Random
    queries: int = 0
    forwards: int = 0
    tokens: int = 0
    spent: bool = False
    original: Answer | None = None
    _known: dict[Row, Tensor] = field(default_factory=dict)

    @property
    def words(self) -> Words:
        """The original text, of which only those words count that the model reads."""
        return self.template.words

    def ask(self, variants: Sequence[Words]) -> Steps[list[Answer]]:
        """Put variants to the model; fewer answers come back when the budget ends.

        A variant with the ids of an earlier one is not run again; whether it counts is the
        protocol's, but where the text is cut it never does: what it changes may be what the model
        does not read.
        """
        rows = self._affordable(self.template.rows(variants))
        new = [row for row in dict.fromkeys(rows) if row not in self._known]
        if new:
            logits = yield LogitsRequest(new)
            self._known |= zip(new, logits, strict=True)
            self.forwards += len(new)
            self.tokens += sum(len(row.ids) for row in new)
        if not rows:
            return []
        logits = torch.stack([self._known[row] for row in rows])
        judged = self.goal.judged(logits, self.label, self.words.text)
        triples = zip(variants, logits, judged, strict=False)
        return [Answer(words, one, *verdict) for words, one, verdict in triples]

    def gradient(self, words: Words) -> Steps[Tensor]:
        """∇ of the score by the embeddings of a variant, (tokens, width); one query."""
        (row,) = self.template.rows([words])
        if not self._affordable([row], known=False):
            return torch.zeros(len(row.ids), 1)
        goal = self.goal.target
        grad: Tensor = yield GradientRequest(row, self.label if goal is None else goal)
        self.forwards += 1
        self.tokens += len(row.ids)
        return grad if goal is None else -grad

    def start_over(self) -> None:
        """Forget what was asked, and have every variant tokenized whole."""
        self.template.splices = False
        self.queries = self.forwards = self.tokens = 0
        self.spent = False
        self._known.clear()

    def _affordable(self, rows: list[Row], *, known: bool = True) -> list[Row]:
        """As many as the budget pays for, counted."""
        budget = self.protocol.budget(len(self.words))
        asked = set(self._known) if known else set()
        bought: list[Row] = []
        for row in rows:
            unpaid = self.protocol.count == "uncached" or self.template.fills(row)
            if row not in asked or not unpaid:
                if self.queries >= budget:
                    self.spent = True
                    break
                self.queries += 1
            asked.add(row)
            bought.append(row)
        return bought
