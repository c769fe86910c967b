"""Objectives whose passes for ∇δ alone run otherwise than the full ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from nlp_adv.perturbation.balls import Ball
from nlp_adv.perturbation.log_probs import Completions
from nlp_adv.perturbation.memory import Memory
from nlp_adv.perturbation.objective import (
    LossOfCompletions,
    Objective,
    Output,
    PairedObjective,
)


@runtime_checkable
class RowedObjective(Objective, Protocol):
    """An objective that can be cut into rows."""

    def rows(self, kept: Tensor, *, enters: bool = True) -> Objective:
        """The same minibatch as a function of some rows' δ: see `RowsObjective`."""
        ...


@runtime_checkable
class InnerVerbs(Objective, Protocol):
    """An objective whose passes for ∇δ alone can run otherwise."""

    @property
    def model(self) -> nn.Module:
        """The model that is run."""
        ...

    def inner_within(
        self, context: Callable[[], AbstractContextManager[Any]], *, prefix_once: bool = False
    ) -> Objective:
        """The same minibatch, the forward halves of passes for ∇δ alone within a context.

        With `prefix_once`, what lies below δ is computed in the first of them alone.
        """
        ...


@dataclass(frozen=True)
class _Inner:
    """One objective for full passes, and another for ∇δ alone.

    Args:
        whole: the minibatch.
        inner: what answers `gradient`.
    """

    whole: Objective
    inner: Objective

    @property
    def x(self) -> Tensor:
        """The clean point."""
        return self.inner.x

    @property
    def mask(self) -> Tensor:
        """Where δ may move."""
        return self.inner.mask

    @property
    def generator(self) -> torch.Generator:
        """The minibatch's."""
        return self.whole.generator

    @property
    def memory(self) -> Memory:
        """The minibatch's."""
        return self.whole.memory

    @property
    def model(self) -> nn.Module:
        """The minibatch's."""
        return cast(InnerVerbs, self.whole).model

    # What only methods that keep a table ask for, where the objective has it:

    @property
    def table(self) -> nn.Parameter | None:
        """The matrix that x is looked up in."""
        return cast(nn.Parameter | None, cast(Any, self.inner).table)

    @property
    def ids(self) -> Tensor | None:
        """Its rows that x holds."""
        return cast(Tensor | None, cast(Any, self.inner).ids)

    @property
    def labels(self) -> Tensor | None:
        """Of these examples."""
        return cast(Tensor | None, cast(Any, self.inner).labels)

    def example_names(self) -> list[str]:
        """The minibatch's."""
        return list(cast(Any, self.whole).example_names())

    def forward(self, delta: Tensor | None = None, *, needs_loss: bool = True) -> Output:
        """The minibatch's."""
        return self.whole.forward(delta, needs_loss=needs_loss)

    def backward(self, loss: Tensor) -> None:
        """The minibatch's."""
        self.whole.backward(loss)

    def gradient(self, delta: Tensor, loss_fn: Callable[[Output], Tensor] | None = None) -> Tensor:
        """∇δ of the other objective."""
        return self.inner.gradient(delta, loss_fn)

    @property
    def pairs(self) -> int:
        """The minibatch's."""
        return cast(PairedObjective, self.whole).pairs

    def completions(self, delta: Tensor, *groups: str) -> Mapping[str, Completions]:
        """The minibatch's."""
        return cast(PairedObjective, self.whole).completions(delta, *groups)

    def completions_gradient(
        self, delta: Tensor, groups: Sequence[str], loss_fn: LossOfCompletions
    ) -> Tensor:
        """∇δ of the other objective."""
        return cast(PairedObjective, self.inner).completions_gradient(delta, groups, loss_fn)

    def reference(self, *groups: str) -> Mapping[str, Completions]:
        """The minibatch's."""
        return cast(PairedObjective, self.whole).reference(*groups)

    def mean(self, values: Tensor) -> Tensor:
        """The minibatch's."""
        return cast(PairedObjective, self.whole).mean(values)

    def within(self, ball: Ball) -> Ball:
        """The ball met with the bounds of δ."""
        return self.inner.within(ball)

    def divergence(self, p: Output, q: Output, *, symmetric: bool = False) -> Tensor:
        """The minibatch's."""
        return self.whole.divergence(p, q, symmetric=symmetric)

    def inner_within(
        self, context: Callable[[], AbstractContextManager[Any]], *, prefix_once: bool = False
    ) -> Objective:
        """The same, passes for ∇δ within a context."""
        inner = cast(InnerVerbs, self.inner)
        changed = inner.inner_within(context, prefix_once=prefix_once)
        return replace(self, inner=cast(_Inner, changed).inner)


class InnerObjective(_Inner):
    """The minibatch, whose passes for ∇δ alone another objective of the same δ makes."""

    def rows(self, kept: Tensor, *, enters: bool = True) -> RowsObjective:
        """Some rows, their passes for ∇δ made likewise."""
        cut = cast(RowsObjective, cast(RowedObjective, self.inner).rows(kept, enters=enters))
        return RowsObjective(self.whole, cut.inner, kept, enters)

    def weight_gradient(self, delta: Tensor, weights: list[nn.Parameter]) -> list[Tensor]:
        """The minibatch's: what makes passes for ∇δ alone asks for no more."""
        found: list[Tensor] = cast(Any, self.whole).weight_gradient(delta, weights)
        return found


@dataclass(frozen=True)
class RowsObjective(_Inner):
    """The whole minibatch as a function of some rows' δ: the others stay at x.

    Full passes run on the whole batch. Passes for ∇δ alone run on the rows that move, which is
    what it is for: their gradient is the whole batch's, up to a positive factor, where each row has
    a loss of its own.

    Args:
        whole: the minibatch.
        inner: the minibatch that has these rows alone, for ∇δ.
        kept: (m,), the indices of the rows.
        enters: δ enters full passes; without it, it is found and left out.
    """

    kept: Tensor
    enters: bool = True

    def forward(self, delta: Tensor | None = None, *, needs_loss: bool = True) -> Output:
        """The loss and logits of the whole batch, these rows at x + δ."""
        if delta is not None:
            rows = delta if self.enters else 0 * delta
            delta = torch.zeros_like(self.whole.mask).index_copy(0, self.kept, rows)
        return self.whole.forward(delta, needs_loss=needs_loss)

    def example_names(self) -> list[str]:
        """Of these rows, or of their segments."""
        names = super().example_names()
        each = len(names) // len(self.whole.mask)
        kept = self.kept.tolist()
        return [name for row in kept for name in names[row * each : (row + 1) * each]]
