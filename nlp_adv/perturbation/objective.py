"""The minibatch seen as a function of δ: what a method may ask of model and data.

Model, batch, padding, mixed precision, accumulation and DDP stay behind `Objective`. So a method
runs unchanged on word embeddings (B, T, D) and on pixels (B, C, H, W), under the Trainer, under
Accelerate and in a bare loop.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from nlp_adv.perturbation.frozen_dropout import FrozenDropout


class Output(NamedTuple):
    """What a forward pass returns: `loss` (), `logits` (B, C) where the model has them."""

    loss: Tensor
    logits: Tensor | None


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

    def forward(self, delta: Tensor | None = None) -> Output:
        """The loss and logits at x + δ."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Accumulate ∇θ, and ∇δ (up to a positive factor: loss scaling) into a leaf δ."""
        ...

    def gradient(self, delta: Tensor, loss_fn: Callable[[Output], Tensor] | None = None) -> Tensor:
        """∇δ alone, of the loss or of `loss_fn(output)`: no parameter gradient is computed."""
        ...


@dataclass
class ModelObjective:
    """The one implementation, over any function of δ that runs a model.

    Args:
        run: δ → Output; None runs the model untouched. Text hooks the embedding, images add and
            clamp.
        x: the clean point, the shape of δ.
        mask: 1 where δ may move, the shape of δ.
        model: the module whose trainable parameters inner passes freeze.
        seed: of the random starts. None takes one number from torch's global stream for it; give
            one to keep that stream where a run without attack would have it.
        backward_fn: accumulates ∇θ, e.g. `accelerator.backward`.
        unsynced: a context in which no gradient is exchanged between processes, e.g.
            `model.no_sync`; entered, forward included, by every pass but the last.
        passes: how many backward passes the method makes (`method.passes`), so that the last one
            is known; 0 exchanges gradients at every pass, which is correct and slower.
        loss_scale: the factor fp16 training multiplies its losses by, so that an inner pass does
            not underflow.
        table: the matrix that x is looked up in, where there is one.
    """

    run: Callable[[Tensor | None], Output]
    x: Tensor
    mask: Tensor
    model: nn.Module
    seed: int | None = None
    backward_fn: Callable[[Tensor], None] = torch.autograd.backward
    unsynced: Callable[[], AbstractContextManager[None]] = nullcontext
    passes: int = 0
    loss_scale: Tensor | float = 1.0
    table: nn.Parameter | None = None

    delta: Tensor | None = field(default=None, init=False)
    """The last δ that a forward pass saw, detached and masked."""
    nonfinite: Tensor = field(init=False)
    """(): True once a loss or a gradient was inf or nan in this step."""
    generator: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        seed = int(torch.empty((), dtype=torch.int64).random_()) if self.seed is None else self.seed
        self.generator = torch.Generator(self.x.device).manual_seed(seed)
        self._frozen_dropout = FrozenDropout(self.x.device)
        self._backwards = 0
        self.nonfinite = torch.zeros((), dtype=torch.bool, device=self.x.device)

    def forward(self, delta: Tensor | None = None) -> Output:
        """The loss and logits at x + mask·δ, with a graph to θ."""
        with self._synchronisation(), self._frozen_dropout():
            return self._run(delta)

    def backward(self, loss: Tensor) -> None:
        """Accumulate ∇θ, and ∇δ into a leaf δ that `forward` was given."""
        self.note(loss)
        with self._synchronisation(), self._frozen_dropout.restored_on_error():
            self.backward_fn(loss)
        self._backwards += 1

    def gradient(self, delta: Tensor, loss_fn: Callable[[Output], Tensor] | None = None) -> Tensor:
        """∇δ at δ, float32 or wider.

        Freezing the parameters and calling `backward` prunes the weight gradients in eager and in
        compiled mode, and survives reentrant checkpointing, where `autograd.grad` does not.

        Cost: one forward and about half a backward: ⅔ of a clean step.
        """
        leaf = delta.detach().requires_grad_()
        with self.unsynced(), _frozen_parameters(self.model):
            with self._frozen_dropout():
                output = self._run(leaf)
            loss = output.loss if loss_fn is None else loss_fn(output)
            with self._frozen_dropout.restored_on_error():
                torch.autograd.backward(loss * self.loss_scale)
        return _grad(leaf) / self.loss_scale

    def _run(self, delta: Tensor | None) -> Output:
        if delta is None:
            return self.run(None)
        masked = delta * self.mask  # exact zeros on padding, in δ and through the chain rule in ∇δ
        self.delta = masked.detach()
        if delta.requires_grad:
            delta.register_hook(self.note)  # type: ignore[no-untyped-call]
        return self.run(masked)

    def _synchronisation(self) -> AbstractContextManager[None]:
        last = self.passes == 0 or self._backwards >= self.passes - 1
        return nullcontext() if last else self.unsynced()

    def note(self, value: Tensor) -> None:
        """Remember an inf or nan; on the device, without waiting for it."""
        self.nonfinite = self.nonfinite | ~torch.isfinite(value.detach()).all()


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

    def forward(self, delta: Tensor | None = None) -> Output:
        """Forward at scale·δ′."""
        return self.objective.forward(None if delta is None else delta * self.scale)

    def backward(self, loss: Tensor) -> None:
        """Accumulate ∇θ, and ∇δ′ into a leaf δ′."""
        self.objective.backward(loss)

    def gradient(self, delta: Tensor, loss_fn: Callable[[Output], Tensor] | None = None) -> Tensor:
        """∇δ′ = scale·∇δ."""
        return self.objective.gradient(delta * self.scale, loss_fn) * self.scale


class Pass(NamedTuple):
    """What one full pass leaves behind: `loss` () unweighted, `grad` ∇δ."""

    loss: Tensor
    grad: Tensor


def full_pass(objective: Objective, delta: Tensor, *, weight: float = 1.0) -> Pass:
    """One forward and backward at δ: ∇θ accumulates `weight` times, ∇δ comes free.

    Cost: one clean step.
    """
    leaf = delta.detach().requires_grad_()
    loss = objective.forward(leaf).loss
    objective.backward(weight * loss)
    return Pass(loss.detach(), _grad(leaf))


def _grad(leaf: Tensor) -> Tensor:
    if leaf.grad is None:
        raise RuntimeError("The loss does not depend on δ: the perturbation went nowhere.")
    return leaf.grad


@contextmanager
def _frozen_parameters(model: nn.Module) -> Iterator[None]:
    trainable = [p for p in model.parameters() if p.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
