"""The minibatch seen as a function of δ: what a method may ask of model and data.

Model, batch, padding, mixed precision, accumulation and DDP stay behind `Objective`. So a method
runs unchanged on word embeddings (B, T, D) and on pixels (B, C, H, W), under the Trainer, under
Accelerate and in a bare loop.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from nlp_adv.perturbation.balls import Ball
from nlp_adv.perturbation.memory import Memory


class Output(NamedTuple):
    """What a forward pass returns: `loss` (), `logits` (B, C) where the model has them.

    Without a single label there is no loss: `labelled` is false, and `loss` is 0 without a graph.
    """

    loss: Tensor
    logits: Tensor | None
    labelled: bool = True

    def detached(self) -> "Output":
        """The same values without their graph."""
        logits = None if self.logits is None else self.logits.detach()
        return Output(self.loss.detach(), logits, self.labelled)

    def without_loss(self) -> "Output":
        """The logits alone."""
        assert self.logits is not None
        return Output(self.logits.new_zeros(()), self.logits, labelled=False)


class Objective(Protocol):
    """L(θ, x + δ, y) on one minibatch, the same dropout mask at every call."""

    @property
    def x(self) -> Tensor:
        """The clean point: word embeddings (B, T, D) or pixels (B, C, H, W), detached."""
        ...

    @property
    def mask(self) -> Tensor:
        """1 where δ may move, 0 on padding (and special tokens when asked); the shape of δ."""
        ...

    @property
    def generator(self) -> torch.Generator:
        """The source of random starts; the model's own random stream is left alone."""
        ...

    @property
    def memory(self) -> Memory:
        """What the method keeps from step to step."""
        ...

    def forward(self, delta: Tensor | None = None, *, needs_loss: bool = True) -> Output:
        """The loss and logits at x + δ.

        Raises:
            StepError: a batch without labels has no loss, and it is needed.
        """
        ...

    def backward(self, loss: Tensor) -> None:
        """Accumulate ∇θ, and ∇δ (up to a positive factor: loss scaling) into a leaf δ."""
        ...

    def gradient(self, delta: Tensor, loss_fn: Callable[[Output], Tensor] | None = None) -> Tensor:
        """∇δ alone, of the loss or of `loss_fn(output)`: no parameter gradient is computed."""
        ...

    def within(self, ball: Ball) -> Ball:
        """The ball met with what else bounds δ: the range of the pixels, nothing for text."""
        ...

    def divergence(self, p: Output, q: Output, *, symmetric: bool = False) -> Tensor:
        """D(p, q) (): KL(p ‖ q), squared error for scores, averaged over examples as the loss is.

        Gradients flow through both; detach what shall be held still.
        """
        ...
