"""The minibatch seen as a function of δ: what a method may ask of model and data.

Model, batch, padding, mixed precision, accumulation and DDP stay behind `Objective`. So a method
runs unchanged on word embeddings (B, T, D) and on pixels (B, C, H, W), under the Trainer, under
Accelerate and in a bare loop.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from nlp_adv.perturbation.balls import Ball
from nlp_adv.perturbation.hidden import Hidden
from nlp_adv.perturbation.log_probs import Completions
from nlp_adv.perturbation.memory import Memory


class Output(NamedTuple):
    """What a forward pass returns: `loss` (), `logits` (B, C) where the model has them.

    Without a single label there is no loss: `labelled` is false, and `loss` is 0 without a graph.
    Of groups of rows it is `completions` alone, or `hidden`.
    """

    loss: Tensor
    logits: Tensor | None
    labelled: bool = True
    completions: Mapping[str, Completions] | None = None
    hidden: Mapping[str, Hidden] | None = None

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


LossOfCompletions = Callable[[Mapping[str, Completions]], Tensor]
"""Of the completions of each group of rows, one number."""


@runtime_checkable
class PairedObjective(Objective, Protocol):
    """A minibatch of pairs: rejected and chosen completions of prompts that δ lies on, (P, T, D).

    Methods that train towards one completion and away from another ask it, by groups of rows:
    "rejected" and "chosen" at x + δ, "rejected_clean", "chosen_clean" and "utility" at x.
    """

    @property
    def pairs(self) -> int:
        """P; a minibatch of utility rows alone has 0, and nothing to attack."""
        ...

    def completions(self, delta: Tensor, *groups: str) -> Mapping[str, Completions]:
        """What the model finds of the completions of these groups, in one pass with a graph to θ.

        Raises:
            StepError: the minibatch holds no pairs.
        """
        ...

    def completions_gradient(
        self, delta: Tensor, groups: Sequence[str], loss_fn: LossOfCompletions
    ) -> Tensor:
        """∇δ alone of a loss on these groups; only their rows are run."""
        ...

    def reference(self, *groups: str) -> Mapping[str, Completions]:
        """What the model found of clean groups before it was trained: detached, no graph.

        Raises:
            StepError: nobody knows how to run it without its training.
        """
        ...

    def mean(self, values: Tensor) -> Tensor:
        """(): the mean over rows (R,), in an accumulated step its share of one; 0 of no rows."""
        ...


@runtime_checkable
class HiddenObjective(PairedObjective, Protocol):
    """Pairs whose hidden states a method may ask for as well, those of clean groups."""

    def hidden(self, *groups: str) -> Mapping[str, Hidden]:
        """What each block makes of these groups, in one pass with a graph to θ.

        Raises:
            StepError: the minibatch holds no pairs, or the states have no graph.
        """
        ...

    def hidden_before(self, *groups: str) -> Mapping[str, Hidden]:
        """The same of the model before it was trained: detached, no graph.

        Raises:
            StepError: nobody knows how to run it without its training.
        """
        ...
