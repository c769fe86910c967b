"""Examples under attack: what the model says of them at a point, and which way is up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from nlp_adv.attacks.losses import RowLoss
from nlp_adv.errors import UserError
from nlp_adv.perturbation import Ball
from nlp_adv.perturbation.evaluating import answers


class View(Protocol):
    """How the model is run on some examples at a point: what a kind of input differs in.

    A point is what the attack moves: the pixels x′ themselves, or δ on embeddings and layers.
    """

    @property
    def x(self) -> Tensor:
        """What the model computes with without attack, (b, …)."""
        ...

    @property
    def frozen(self) -> bool:
        """Whether the model's parameters take no gradients while it is attacked."""
        ...

    @property
    def tokens(self) -> Tensor:
        """(b,): how many tokens each example has without padding; 0 of images."""
        ...

    @property
    def pictures(self) -> bool:
        """Whether a point is a picture, which can be rounded and saved; else it is a δ."""
        ...

    @property
    def several(self) -> bool:
        """Whether an example has several answers: it is fooled where all of them are wrong."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of the model's arithmetic."""
        ...

    def logits(self, point: Tensor) -> Tensor:
        """(b, C) at a point, float32 or wider, with a graph to it where the model has one."""
        ...

    def contents(self) -> Iterable[bytes]:
        """Of each example what it consists of, whatever batch it is in: starts are drawn from it.

        Padding and what may not move are no part of it.
        """
        ...

    def within(self, ball: Ball) -> Ball:
        """The ball of each of several modules, where δ enters them."""
        ...

    def erasing(self, rows: Rows, ball: Ball) -> Tensor:
        """(b,): how long δ must be, in absolute terms, to leave nothing of the input."""
        ...

    def rows(self, kept: Tensor) -> View:
        """That of some of the examples; `kept` is a mask or indices."""
        ...


class NoGradientError(UserError):
    """The logits do not depend on the point in a way that can be differentiated."""


@dataclass(frozen=True)
class Rows:
    """Examples, what they are to be taken for or not, and the model that looks at them.

    Attributes:
        view: how the model is run on them.
        clean: the point without attack, (b, …): the pixels, or δ = 0; float32 or wider.
        y: (b,), the right class, or the target.
        towards: y is a target.
        mask: 1 where the point may move, the shape of `clean`.
        whole: it is 1 everywhere, and need not be applied.
        leaves: examples are to be dropped as soon as they are fooled. That waits for the device at
            every step, and saves the steps that are left.
        looked: (b, C), the logits without attack, where somebody has looked.
        factor: on the logits: it changes no answer, only how sure the model seems.
        stretch: how many times as long as asked balls and steps are, 1.0 or (b, 1, …).
    """

    view: View
    clean: Tensor
    y: Tensor
    towards: bool
    mask: Tensor
    whole: bool = False
    leaves: bool = False
    looked: Tensor | None = None
    factor: float = 1.0
    stretch: Tensor | float = 1.0

    def __len__(self) -> int:
        return len(self.y)

    def logits(self, point: Tensor) -> Tensor:
        """Logits (b, C) at a point, with a graph to it.

        Raises:
            UserError: not one row an example.
        """
        logits = self.view.logits(point)
        if len(logits) != len(point):
            raise UserError(f"The model returned {len(logits)} answers to {len(point)} examples.")
        return logits if self.factor == 1 else self.factor * logits

    def gradient(self, point: Tensor, loss: RowLoss) -> tuple[Tensor, Tensor, Tensor]:
        """∇ of the loss at a point (0 where it may not move), the losses (b,), the logits.

        Raises:
            NoGradientError: there is none.

        Cost: one forward and half a backward pass.
        """
        leaf, logits = self.watched(point)
        losses = loss(logits, self.y, self.towards)
        return self.slope(losses, leaf), losses.detach(), logits.detach()

    def watched(self, point: Tensor) -> tuple[Tensor, Tensor]:
        """A leaf that holds the point, and the logits with a graph to it."""
        leaf = point.detach().requires_grad_()
        logits = self.logits(leaf)
        if not logits.requires_grad:
            raise NoGradientError(
                "The logits do not depend on the input in a way that can be differentiated: the "
                "model works without gradients."
            )
        return leaf, logits

    def slope(self, values: Tensor, leaf: Tensor, *, again: bool = False) -> Tensor:
        """∇ of the sum of some values at the leaf, 0 where the point may not move.

        Args:
            values: (b,), with a graph to the leaf.
            leaf: from `watched`.
            again: the graph is needed for more.
        """
        leaf.grad = None
        # Reentrant checkpoints bear no list of inputs; where parameters are not frozen, as of a
        # plain function, their own gradients must be spared.
        inputs = None if self.view.frozen else [leaf]
        torch.autograd.backward(values.sum(), retain_graph=again, inputs=inputs)
        grad = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        return grad if self.whole else torch.where(self.mask != 0, grad, 0.0)

    def held(self, point: Tensor) -> Tensor:
        """The clean point where it may not move."""
        return point if self.whole else torch.where(self.mask != 0, point, self.clean)

    def fooled(self, logits: Tensor) -> Tensor:
        """(b,): the answer is the target, or is not the right one; see `answers` for ties."""
        says = answers(logits) == self.y
        return says if self.towards else ~says

    def rows(self, kept: Tensor) -> Rows:
        """Some of the examples; `kept` is a mask or indices."""
        return replace(
            self,
            view=self.view.rows(kept),
            clean=self.clean[kept],
            y=self.y[kept],
            mask=self.mask[kept],
            looked=None if self.looked is None else self.looked[kept],
            stretch=self.stretch[kept] if isinstance(self.stretch, Tensor) else self.stretch,
        )

    def towards_class(self, target: int) -> Rows:
        """The same examples, which were looked at, to be led to a class.

        Raises:
            UserError: the model has no such class.
        """
        assert self.looked is not None
        if self.view.several:
            raise UserError("An example with several answers cannot be led to one class.")
        classes = self.looked.shape[1]
        if not 0 <= target < classes:
            raise UserError(f"The target {target} is no class: the model has {classes}.")
        return replace(self, y=torch.full_like(self.y, target), towards=True)

    def scaled(self, factor: float) -> Rows:
        """The same examples, with the model's logits multiplied."""
        looked = None if self.looked is None else factor * self.looked
        return replace(self, factor=factor * self.factor, looked=looked)

    def look(self) -> Rows:
        """The same examples, with the model's logits without attack.

        Cost: one forward pass, or none where they are known.
        """
        if self.looked is not None:
            return self
        with torch.no_grad():
            return replace(self, looked=self.logits(self.clean))


def column(values: Tensor, like: Tensor) -> Tensor:
    """One number an example, (b,) → (b, 1, …), to broadcast against points."""
    return values.view(-1, *[1] * (like.ndim - 1))


class Standing:
    """The examples that an attack still moves, and where the others have ended.

    Attributes:
        rows: those that are left.
        index: (b,), their places among all.
        ended: (B, …), the last point of each of all the examples.
    """

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.index = torch.arange(len(rows), device=rows.clean.device)
        self.ended = rows.clean.clone()

    def __len__(self) -> int:
        return len(self.index)

    def leave(self, point: Tensor, leaving: Tensor) -> Tensor | None:
        """Drop some of the examples, which end at their point.

        Args:
            point: (b, …), of those that are left so far.
            leaving: (b,), who is to leave.

        Returns:
            (b,), who stays, to select what the attack keeps beside; None where all do.
        """
        if not leaving.any():
            return None
        stays = ~leaving
        self.ended[self.index[leaving]] = point[leaving]
        self.rows, self.index = self.rows.rows(stays), self.index[stays]
        return stays

    def end(self, point: Tensor) -> Tensor:
        """All of them at their last points, (B, …)."""
        self.ended[self.index] = point
        return self.ended
