"""One batch under attack: what falls leaves it, and all that was seen is written down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from nlp_adv.errors import UserError
from nlp_adv.perturbation import (
    BALLS,
    Ball,
    ModelObjective,
    Output,
    Per,
    ScaledObjective,
    Unit,
    unit_length,
)
from nlp_adv.perturbation.evaluating import answers, logit_margin
from nlp_adv.robustness.repeatable import repeats
from nlp_adv.sites.embeddings import EmbeddingTap, NoGraphError
from nlp_adv.sites.objective import text_objective

Loss = Literal["margin", "cross_entropy"]

_NO_CLASSES = "Accuracy under attack needs a classifier with one label an example."


class Rows:
    """The rows of one batch that still stand, as functions of δ.

    Rows that the model has wrong without attack never stand. A row falls in the pass that sees
    another answer than the right one, or none (see `answers`).

    Attributes:
        repeatable: the first gradient's pass, which is at δ = 0, said what the clean pass said.

    Args:
        model: in eval mode.
        tap: the installed hook on its embedding.
        batch: what its forward takes, labels (B,) included.
        norm, per, unit: of the radii to come.
        special_ids: ids that are not perturbed.
        seed: of `generator`.

    Raises:
        UserError: the model or the batch is not for single-label classification.

    Cost: one forward pass.
    """

    def __init__(
        self,
        model: nn.Module,
        tap: EmbeddingTap,
        batch: dict[str, Tensor],
        *,
        norm: str,
        per: Per,
        unit: Unit,
        special_ids: Sequence[int],
        seed: int,
    ) -> None:
        self._model, self._tap, self._special_ids, self._batch = model, tap, special_ids, batch
        self._norm, self._per, self._unit = norm, per, unit
        # One stream for all draws of the batch: no two starts are the same.
        self.generator = torch.Generator(next(model.parameters()).device).manual_seed(seed)
        self.epsilon = 0.0
        self.ball: Ball = BALLS[norm](1.0, per)
        objective = self._unscaled()
        labels = batch.get("labels")
        if labels is None or labels.is_floating_point():
            raise UserError(_NO_CLASSES)
        with torch.no_grad():
            logits = objective.forward().logits
        if logits is None or logits.ndim != 2 or logits.shape[1] < 2:
            raise UserError(_NO_CLASSES)
        # Fewer rows than in the first pass may be summed in another order.
        self._resolution, self.repeatable = 16 * torch.finfo(logits.dtype).eps, True
        logits = _wide(logits)
        predictions = answers(logits)
        right = predictions == labels
        self._facts = {
            "broken_at": torch.zeros(len(labels), device=labels.device),
            "predictions": predictions,
            "logits": logits,
            "gradient_passes": torch.zeros_like(predictions),
            "gradient_norms": torch.full_like(logits[:, 0], torch.nan),
            "tokens": self._tokens(objective),
            "unit_lengths": self._lengths(objective, unit),
            "embedding_lengths": self._lengths(objective, "relative"),
        }
        self._facts["broken_at"][right] = torch.inf
        # Of each row as it was last seen; what stands has taken part in every pass.
        self._answers, self._confidences = predictions.clone(), logits.softmax(-1).amax(-1)
        self._forwards = torch.ones_like(predictions)
        self._after_radius: list[tuple[Tensor, Tensor, Tensor]] = []
        self._indices = torch.arange(len(labels), device=labels.device)
        self._passes, self._gradients, self._last = 1, 0, logits
        self._keep(right)

    def __len__(self) -> int:
        """How many stand."""
        return len(self._indices)

    @property
    def mask(self) -> Tensor:
        """(rows, T, D) of the standing rows: 1 where δ may move."""
        return self._objective.mask

    def enter(self, epsilon: float) -> None:
        """Go on in the ball of this radius."""
        self.epsilon, self.ball = epsilon, BALLS[self._norm](epsilon, self._per)
        if len(self):
            self._measure()

    def leave(self) -> None:
        """Write down how things stand after this radius."""
        self._write()
        rows = (self._answers, self._confidences, self._forwards)
        self._after_radius.append((rows[0].clone(), rows[1].clone(), rows[2].clone()))

    def gradient(self, delta: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
        """δ and ∇δ of the loss there, of those rows that do not fall at δ.

        The gradient is 0 where the model cuts its logits off from the embeddings.

        Args:
            delta: (rows, T, D), of the standing rows; 0 in the first call.
            loss: what is summed over them.

        Cost: one forward and half a backward pass.
        """
        seen: list[Tensor] = []
        labels = self._batch["labels"]

        def summed(output: Output) -> Tensor:
            assert output.logits is not None
            logits = _wide(output.logits)
            seen.append(logits.detach())
            if not logits.requires_grad:
                raise _NoGraph
            return _LOSSES[loss](logits, labels)

        try:
            grad = self._objective.gradient(delta, summed)
        except (_NoGraph, NoGraphError):
            grad = torch.zeros_like(delta)
            if not seen:
                seen.append(self._logits(delta))
        if self._gradients == 0:
            norms = self._facts["gradient_norms"]
            norms[self._indices] = _norms(grad).to(norms.dtype)
            clean = self._facts["logits"][self._indices]  # which the first gradient is taken at
            self.repeatable = repeats(clean, seen[0], self._resolution)
        self._gradients += 1
        stood = self._look(seen[0])
        return (delta, grad) if stood is None else (delta[stood], grad[stood])

    def forward(self, delta: Tensor) -> None:
        """Drop the rows that fall at δ."""
        self._look(self._logits(delta))

    def measured(self) -> dict[str, Tensor]:
        """What is known of all rows of the batch, on the CPU; see `EmbeddingRobustness`."""
        names = ("answers", "confidences", "forwards")
        columns = zip(*self._after_radius, strict=True)
        after = {name: torch.stack(one, 1) for name, one in zip(names, columns, strict=True)}
        return {name: value.cpu() for name, value in (self._facts | after).items()}

    def _logits(self, delta: Tensor) -> Tensor:
        with torch.no_grad():
            logits = self._objective.forward(delta).logits
        assert logits is not None
        return _wide(logits)

    def _look(self, logits: Tensor) -> Tensor | None:
        """Take in one more pass; where rows fell, drop them and say which stood."""
        self._passes, self._last = self._passes + 1, logits
        stood = answers(logits) == self._batch["labels"]
        if stood.all():
            return None
        self._write()
        self._facts["broken_at"][self._indices[~stood]] = self.epsilon
        self._keep(stood)
        if len(self):
            self._measure()
        return stood

    def _write(self) -> None:
        self._answers[self._indices] = answers(self._last)
        self._confidences[self._indices] = self._last.softmax(-1).amax(-1)
        self._forwards[self._indices] = self._passes
        self._facts["gradient_passes"][self._indices] = self._gradients

    def _keep(self, standing: Tensor) -> None:
        self._indices, self._last = self._indices[standing], self._last[standing]
        self._batch = {key: value[standing] for key, value in self._batch.items()}

    def _measure(self) -> None:
        objective = self._unscaled()
        scale = unit_length(objective, self.ball, self._unit)
        self._objective = ScaledObjective(objective, scale)

    def _unscaled(self) -> ModelObjective:
        return text_objective(
            self._model,
            self._batch,
            tap=self._tap,
            seed=0,
            special_ids=self._special_ids,
        )

    def _lengths(self, objective: ModelObjective, unit: Unit) -> Tensor:
        length = unit_length(objective, self.ball, unit)
        ones = torch.ones_like(objective.mask[:, :1, :1])
        return (ones * length).flatten()

    def _tokens(self, objective: ModelObjective) -> Tensor:
        attention = self._batch.get("attention_mask")
        seen = objective.mask[:, :, 0] if attention is None else attention
        return (seen != 0).flatten(1).sum(1)


_LOSSES: dict[Loss, Callable[[Tensor, Tensor], Tensor]] = {
    "margin": lambda logits, labels: logit_margin(logits, labels).sum(),
    "cross_entropy": lambda logits, labels: nn.functional.cross_entropy(
        logits, labels, reduction="sum"
    ),
}


class _NoGraph(Exception):
    """The logits do not depend on δ."""


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _norms(grad: Tensor) -> Tensor:
    """‖g‖₂ of each row, 0 only where g is 0: squares of small numbers would underflow."""
    rows = grad.flatten(1)
    peak = rows.abs().amax(1)
    scaled = rows / torch.where(peak > 0, peak, 1.0)[:, None]
    norms: Tensor = peak * torch.linalg.vector_norm(scaled, dim=1)
    return norms
