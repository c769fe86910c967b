"""The change of the unit of length."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from nlp_adv.perturbation.balls import Ball, WithinBox
from nlp_adv.perturbation.full_pass import SplitPass
from nlp_adv.perturbation.log_probs import Completions
from nlp_adv.perturbation.memory import Memory
from nlp_adv.perturbation.model_objective import ModelObjective
from nlp_adv.perturbation.objective import LossOfCompletions, Objective, Output


@dataclass(frozen=True)
class ScaledObjective:
    """The same minibatch as a function of δ′ = δ / scale: a change of the unit of length.

    Units of ε and the warm-up ramp are both this, so no method needs to know of either.

    Args:
        objective: the objective in absolute units.
        scale: how long one unit is, a number or (B, 1, 1).
    """

    objective: Objective
    scale: Tensor | float

    @property
    def x(self) -> Tensor:
        """The clean point, in the new unit."""
        return self.objective.x / self.scale

    @property
    def mask(self) -> Tensor:
        """The objective's mask."""
        return self.objective.mask

    @property
    def generator(self) -> torch.Generator:
        """The objective's generator."""
        return self.objective.generator

    @property
    def memory(self) -> Memory:
        """The objective's memory; what lies in it is in the new unit."""
        return self.objective.memory

    def forward(self, delta: Tensor | None = None, *, needs_loss: bool = True) -> Output:
        """Forward at scale·δ′."""
        delta = None if delta is None else delta * self.scale
        return self.objective.forward(delta, needs_loss=needs_loss)

    def backward(self, loss: Tensor) -> None:
        """Accumulate ∇θ, and ∇δ′ into a leaf δ′."""
        self.objective.backward(loss)

    def gradient(self, delta: Tensor, loss_fn: Callable[[Output], Tensor] | None = None) -> Tensor:
        """∇δ′ = scale·∇δ."""
        return self.objective.gradient(delta * self.scale, loss_fn) * self.scale

    def divergence(self, p: Output, q: Output, *, symmetric: bool = False) -> Tensor:
        """The objective's."""
        return self.objective.divergence(p, q, symmetric=symmetric)

    def within(self, ball: Ball) -> Ball:
        """The ball met with the objective's bounds, in the new unit."""
        bounded = self.objective.within(ball)
        if not isinstance(bounded, WithinBox):
            return bounded
        return WithinBox(bounded.ball, bounded.low / self.scale, bounded.high / self.scale)

    def rows(self, kept: Tensor, *, enters: bool = True) -> "ScaledObjective":
        """The objective's, in the same unit."""
        scale = self.scale[kept] if isinstance(self.scale, Tensor) else self.scale
        return ScaledObjective(self._more.rows(kept, enters=enters), scale)

    def inner_within(
        self, context: Callable[[], AbstractContextManager[Any]], *, prefix_once: bool = False
    ) -> "ScaledObjective":
        """The objective's, in the same unit."""
        inner = self._more.inner_within(context, prefix_once=prefix_once)
        return ScaledObjective(inner, self.scale)

    # What only some methods ask for, where the objective has it:

    @property
    def _more(self) -> ModelObjective:
        return cast(ModelObjective, self.objective)

    @property
    def table(self) -> nn.Parameter | None:
        """The matrix that x is looked up in, in absolute units."""
        return self._more.table

    @property
    def ids(self) -> Tensor | None:
        """The rows of it that x holds."""
        return self._more.ids

    @property
    def labels(self) -> Tensor | None:
        """The batch's."""
        return self._more.labels

    @property
    def unit(self) -> Tensor | float:
        """How long a δ′ of 1 is in absolute units."""
        return self.scale * self._more.unit

    @property
    def model(self) -> nn.Module:
        """The objective's model."""
        return self._more.model

    def example_names(self) -> list[str]:
        """The objective's."""
        return self._more.example_names()

    @property
    def pairs(self) -> int:
        """The objective's."""
        return self._more.pairs

    def completions(self, delta: Tensor, *groups: str) -> Mapping[str, Completions]:
        """Of a pass at scale·δ′."""
        return self._more.completions(delta * self.scale, *groups)

    def completions_gradient(
        self, delta: Tensor, groups: Sequence[str], loss_fn: LossOfCompletions
    ) -> Tensor:
        """∇δ′ = scale·∇δ."""
        return self._more.completions_gradient(delta * self.scale, groups, loss_fn) * self.scale

    def reference(self, *groups: str) -> Mapping[str, Completions]:
        """The objective's."""
        return self._more.reference(*groups)

    def mean(self, values: Tensor) -> Tensor:
        """The objective's."""
        return self._more.mean(values)

    def split_pass(self, delta: Tensor, *, weight: float = 1.0) -> SplitPass:
        """A full pass at scale·δ′."""
        loss, grad, p = self._more.split_pass(delta * self.scale, weight=weight)
        return SplitPass(loss, grad * self.scale, p)

    def prefix_gradient(self, delta: Tensor, p: Tensor) -> Tensor:
        """∇δ′ = scale·∇δ."""
        return self._more.prefix_gradient(delta * self.scale, p) * self.scale

    def weight_gradient(self, delta: Tensor, weights: list[nn.Parameter]) -> list[Tensor]:
        """∇w at scale·δ′."""
        return self._more.weight_gradient(delta * self.scale, weights)
