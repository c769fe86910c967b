"""A minibatch of which some rows alone are moved."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from nlp_adv.perturbation.balls import Ball
from nlp_adv.perturbation.memory import Memory
from nlp_adv.perturbation.objective import Objective, Output


@runtime_checkable
class RowedObjective(Objective, Protocol):
    """An objective that can be cut into rows."""

    def rows(self, kept: Tensor, *, enters: bool = True) -> Objective:
        """The same minibatch as a function of some rows' δ: see `RowsObjective`."""
        ...


@dataclass(frozen=True)
class RowsObjective:
    """The whole minibatch as a function of some rows' δ: the others stay at x.

    Full passes run on the whole batch. Passes for ∇δ alone run on the rows that move, which is
    what it is for: their gradient is the whole batch's, up to a positive factor, where each row has
    a loss of its own.

    Args:
        whole: the minibatch.
        cut: the minibatch that has these rows alone, for ∇δ.
        kept: (m,), the indices of the rows.
        enters: δ enters full passes; without it, it is found and left out.
    """

    whole: Objective
    cut: Objective
    kept: Tensor
    enters: bool = True

    @property
    def x(self) -> Tensor:
        """The clean point of the rows."""
        return self.cut.x

    @property
    def mask(self) -> Tensor:
        """The mask of the rows."""
        return self.cut.mask

    @property
    def generator(self) -> torch.Generator:
        """The minibatch's."""
        return self.whole.generator

    @property
    def memory(self) -> Memory:
        """The minibatch's."""
        return self.whole.memory

    def forward(self, delta: Tensor | None = None, *, needs_loss: bool = True) -> Output:
        """The loss and logits of the whole batch, these rows at x + δ."""
        if delta is not None:
            rows = delta if self.enters else 0 * delta
            delta = torch.zeros_like(self.whole.mask).index_copy(0, self.kept, rows)
        return self.whole.forward(delta, needs_loss=needs_loss)

    def backward(self, loss: Tensor) -> None:
        """Accumulate ∇θ of the whole batch, and ∇δ into a leaf δ of the rows."""
        self.whole.backward(loss)

    def gradient(self, delta: Tensor, loss_fn: Callable[[Output], Tensor] | None = None) -> Tensor:
        """∇δ of the rows, of a pass that runs on them alone."""
        return self.cut.gradient(delta, loss_fn)

    def within(self, ball: Ball) -> Ball:
        """The ball of these rows."""
        return self.cut.within(ball)

    def divergence(self, p: Output, q: Output, *, symmetric: bool = False) -> Tensor:
        """The minibatch's, of outputs of full passes."""
        return self.whole.divergence(p, q, symmetric=symmetric)
