"""FGM whose gradient is remembered: an attack that costs no pass.

A full pass at x + δ gives ∇δ beside ∇θ. Shafahi et al., "Universal Adversarial Training", AAAI
2020, https://arxiv.org/abs/1811.11304, move one δ for all images by it; Benz et al., "Universal
Adversarial Training with Class-Wise Perturbations", ICME 2021, https://arxiv.org/abs/2104.03000,
one for each class. Sentences differ in their words, so that here a table M has a row for each word,
or for each word of each label, or for each example:

    δ_i = ε · argmax_{‖v‖≤1} ⟨v, M[i]⟩,    g = ∇δ L(θ, x + δ, y),    M[i] ← μ·M[i] + g_i / ‖g‖

where i runs over an example's tokens and M[i] is the row of the i-th.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor, nn

from nlp_adv.methods.freelb import NamedExamples
from nlp_adv.methods.method import StepReport, check_bounded, check_weight, mixed
from nlp_adv.methods.scaled import Scaled
from nlp_adv.perturbation import (
    Ball,
    L2Ball,
    LInfBall,
    Objective,
    StepError,
    full_pass,
    unwrapped,
)
from nlp_adv.perturbation.word_table import WordTable

By = Literal["word", "label_word", "example"]


@dataclass(frozen=True)
class FGMRemembered:
    """FGM along what the gradient was when the same words, or the same example, came before.

    What has never come before has δ = 0; in the first step of a run that is everything.

    Args:
        ball: the constraint on δ, which lies on its surface; L2 per example as FGM's.
        momentum: μ in [0, 1), how much of M's row stays when it is visited. So a rare word forgets
            no faster than a frequent one.
        by: what has a row of M: a word, a word in the texts of one label, or an example. The next
            visit of the last is an epoch later.
        clean_weight: w adds a clean pass of weight w, and gives the other 1 − w.

    Errors: StepError for "word" and "label_word" where x is not looked up in a table, and for
    "label_word" without one whole-numbered label for each example.

    Deviations: the papers keep δ itself, move it by α·sign(g) and project it; here M is a running
    sum of directions, and δ goes along it to the ball's surface, so that no step size has to fit ε.
    A word's row gets the mean over its occurrences in the batch. Each DDP process keeps a table of
    its own.

    Cost: 1, with a clean term 2. M holds V·D numbers, for "label_word" times the labels, and is
    saved with checkpoints; for "example" it is as large as the embeddings of all examples.
    """

    ball: Ball
    momentum: float = 0.9
    by: By = "label_word"
    clean_weight: float = 0.0

    name: ClassVar[str] = "fgm_remembered"
    inner_passes: ClassVar[int] = 0
    mixes_rows: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_weight(self.clean_weight)
        check_bounded(self.ball, "fgm_remembered steps to its surface")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), not {self.momentum}.")
        if self.by not in get_args(By):
            raise ValueError(f"by must be one of {', '.join(get_args(By))}, not {self.by!r}.")

    @property
    def passes(self) -> int:
        """The adversarial pass, and a clean one when it has weight."""
        return 1 + (self.clean_weight > 0)

    @property
    def reads_table(self) -> bool:
        """Whether M has a row for each word of the embedding matrix."""
        return self.by != "example"

    @property
    def waits_an_epoch(self) -> bool:
        """Whether δ is 0 until examples come a second time."""
        return self.by == "example"

    def step(self, objective: Objective) -> StepReport:
        """One step of training at the remembered δ."""
        w, ball, clean = self.clean_weight, objective.within(self.ball), None
        rows = self._rows(objective)
        remembered = rows.look_up() * objective.mask
        delta = ball.project(self.ball.epsilon * ball.steepest(remembered))
        if w > 0:
            clean = full_pass(objective, torch.zeros_like(delta), weight=w).loss
        loss, grad = full_pass(objective, delta, weight=1 - w)
        unit = objective.within(L2Ball(1.0))
        rows.assign(self.momentum * remembered + unit.steepest(grad), objective.mask)
        return mixed(w, clean, loss)

    def _rows(self, objective: Objective) -> "_Rows":
        if self.by == "example":
            return _ExampleRows.of(objective)
        return _word_rows(objective, with_labels=self.by == "label_word")

    @classmethod
    def preset(cls) -> Scaled:
        """By label and word; ε is FGM's here."""
        return Scaled(cls(L2Ball(0.03)), unit="relative")

    @classmethod
    def image_preset(cls) -> "FGMRemembered":
        """By example, since pixels are no words, in the usual ball on pixels."""
        return cls(LInfBall(8 / 255), by="example")


class _Rows(Protocol):
    """The rows of M that a minibatch has."""

    def look_up(self) -> Tensor:
        """M[i], the shape of δ."""
        ...

    def assign(self, new: Tensor, mask: Tensor) -> Any:
        """M[i] ← new."""
        ...


@dataclass(frozen=True)
class _ExampleRows:
    """The rows of examples, which an objective's memory finds by their names."""

    objective: Objective
    names: list[str]

    @classmethod
    def of(cls, objective: Objective) -> "_ExampleRows":
        if not isinstance(objective, NamedExamples):
            raise StepError('by="example" needs an objective that names its examples.')
        return cls(objective, objective.example_names())

    def look_up(self) -> Tensor:
        mask = self.objective.mask
        each = self.objective.within(L2Ball(1.0)).per
        return self.objective.memory.recall(self.names, torch.zeros_like(mask), mask, each)

    def assign(self, new: Tensor, mask: Tensor) -> None:
        each = self.objective.within(L2Ball(1.0)).per
        self.objective.memory.keep(self.names, new, mask, each)


@runtime_checkable
class _Labelled(Objective, Protocol):
    """An objective of looked-up words with labels; only tables of words ask for it."""

    @property
    def table(self) -> nn.Parameter | None: ...
    @property
    def ids(self) -> Tensor | None: ...
    @property
    def labels(self) -> Tensor | None: ...
    @property
    def model(self) -> nn.Module: ...


def _word_rows(objective: Objective, *, with_labels: bool) -> WordTable:
    """M by words, made at the first step; texts without a label (−100) have rows of their own."""
    if not isinstance(objective, _Labelled) or objective.table is None or objective.ids is None:
        raise StepError(
            "fgm_remembered needs inputs that are looked up in an embedding matrix; elsewhere use "
            'by="example" (--adv_by example).'
        )
    words, rows, texts = len(objective.table), objective.ids, 1
    if with_labels:
        labels, texts = _labels(objective)
        rows = rows + words * labels[:, None]
    kept, mask = objective.memory.tensors, objective.mask
    key = "fgm_remembered/table"
    if key not in kept:
        kept[key] = mask.new_zeros(words * texts + 1, mask.shape[-1])
    kept[key] = kept[key].to(mask.device)
    return WordTable(kept[key], rows)


def _labels(objective: _Labelled) -> tuple[Tensor, int]:
    """(B,), from 0, and how many there are, "no label" being the last."""
    labels = objective.labels
    if labels is None:
        raise StepError(
            "fgm_remembered by label and word needs labels, and this batch has none; use "
            'by="word" (--adv_by word) where the loss does without, and vat alone where there is '
            "no loss."
        )
    count = getattr(getattr(unwrapped(objective.model), "config", None), "num_labels", None)
    if labels.ndim != 1 or labels.is_floating_point() or count is None:
        raise StepError(
            "fgm_remembered by label and word needs one whole-numbered label for each example, and "
            'a model whose configuration has num_labels; use by="word" (--adv_by word).'
        )
    return torch.where(labels == -100, count, labels), count + 1
