"""The minibatch seen as a function of δ: what a method may ask of model and data.

Model, batch, padding, mixed precision, accumulation and DDP stay behind `Objective`. So a method
runs unchanged on word embeddings (B, T, D) and on pixels (B, C, H, W), under the Trainer, under
Accelerate and in a bare loop.
"""

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from nlp_adv.perturbation.balls import Ball, WithinBox
from nlp_adv.perturbation.divergences import Outputs, divergence, mean_over_examples
from nlp_adv.perturbation.first_block import FirstBlock
from nlp_adv.perturbation.frozen_dropout import FrozenDropout
from nlp_adv.perturbation.inner_pass import inner_pass, still_statistics
from nlp_adv.perturbation.memory import Memory, NoMemory, StepError

_OTHER_STREAM = 0x9E3779B97F4A7C15 >> 1  # a model seeded like the objective gets other masks


class Output(NamedTuple):
    """What a forward pass returns: `loss` (), `logits` (B, C) where the model has them."""

    loss: Tensor
    logits: Tensor | None

    def detached(self) -> "Output":
        """The same values without their graph."""
        logits = None if self.logits is None else self.logits.detach()
        return Output(self.loss.detach(), logits)


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

    def forward(self, delta: Tensor | None = None) -> Output:
        """The loss and logits at x + δ."""
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
        passes: how many passes with a graph to θ the method makes (`method.passes`), so that the
            last one is known; 0 exchanges gradients at every pass, which is correct and slower.
        loss_scale: the factor fp16 training multiplies its losses by, so that an inner pass does
            not underflow.
        memory: what the method keeps from step to step, the same one for all of a run; methods
            that keep something refuse to go without.
        outputs: logits → what they hold (see `divergences`), for methods that compare outputs.
        counted: (B, T), true where a token's output counts in such a comparison; None is all.
        share: this minibatch's share in the loss of an accumulated step, for such comparisons; 1
            where the caller divides by itself.
        table: the matrix that x is looked up in, where there is one.
        ids: the rows of it that x holds, (B, T).
        first_block: finds the model's first block, for methods that run it alone.
        low, high: bounds of δ beside a method's ball, the shape of δ, as pixels have them.
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
    memory: Memory = field(default_factory=NoMemory)
    outputs: Callable[[Tensor], Outputs] = field(default=lambda logits: "classes")
    counted: Tensor | None = None
    share: Tensor | float = 1.0
    table: nn.Parameter | None = None
    ids: Tensor | None = None
    first_block: FirstBlock | Callable[[], FirstBlock] | None = None
    low: Tensor | None = None
    high: Tensor | None = None

    unit: float = field(default=1.0, init=False)
    """How long a δ of 1 is: this objective's lengths are absolute."""
    delta: Tensor | None = field(default=None, init=False)
    """The last δ that a forward pass saw, detached and masked."""
    nonfinite: Tensor = field(init=False)
    """(): True once a loss or a gradient was inf or nan in this step."""
    generator: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        seed = int(torch.empty((), dtype=torch.int64).random_()) if self.seed is None else self.seed
        self.generator = torch.Generator(self.x.device).manual_seed(seed)
        self._frozen_dropout = FrozenDropout(self.x.device)
        self._forwards = 0
        self.nonfinite = torch.zeros((), dtype=torch.bool, device=self.x.device)

    def forward(self, delta: Tensor | None = None) -> Output:
        """The loss and logits at x + mask·δ, with a graph to θ unless gradients are off."""
        trained_on = torch.is_grad_enabled()
        self._forwards += trained_on
        statistics = nullcontext() if trained_on else still_statistics(self.model)
        with self._synchronisation(), self._frozen_dropout(), statistics:
            return self._run(delta)

    def forward_redrawn(self) -> Output:
        """The same at the clean point, under a dropout mask of its own."""
        self._forwards += torch.is_grad_enabled()
        seed = self.generator.initial_seed() ^ _OTHER_STREAM
        with self._synchronisation(), self._frozen_dropout.redrawn(seed):
            return self._run(None)

    def backward(self, loss: Tensor) -> None:
        """Accumulate ∇θ, and ∇δ into a leaf δ that `forward` was given."""
        self.note(loss)
        with self._synchronisation(), self._frozen_dropout.restored_on_error():
            self.backward_fn(loss)

    def gradient(self, delta: Tensor, loss_fn: Callable[[Output], Tensor] | None = None) -> Tensor:
        """∇δ at δ, float32 or wider.

        Freezing the parameters and calling `backward` prunes the weight gradients in eager and in
        compiled mode, and survives reentrant checkpointing, where `autograd.grad` does not.

        Cost: one forward and about half a backward: ⅔ of a clean step.
        """
        leaf = delta.detach().requires_grad_()
        with self.unsynced(), inner_pass(self.model):
            with self._frozen_dropout():
                output = self._run(leaf)
            loss = output.loss if loss_fn is None else loss_fn(output)
            with self._frozen_dropout.restored_on_error():
                torch.autograd.backward(loss * self.loss_scale)
        return _grad(leaf) / self.loss_scale

    def within(self, ball: Ball) -> Ball:
        """The ball met with the bounds `low` and `high`, where there are any."""
        if self.low is None or self.high is None:
            return ball
        return WithinBox(ball, self.low, self.high)

    def divergence(self, p: Output, q: Output, *, symmetric: bool = False) -> Tensor:
        """D(p, q), the mean over examples (and over an example's counted tokens).

        Raises:
            StepError: the model returns no logits, or other tokens than the batch has.
        """
        if p.logits is None or q.logits is None:
            raise StepError("This method compares logits, and the model returns none.")
        kind = self.outputs(p.logits)
        values = divergence(p.logits, q.logits, kind, symmetric=symmetric)
        counted = None if values.ndim == 1 else self.counted
        if counted is not None and counted.shape != values.shape:
            raise StepError(
                f"This method compares outputs token by token, and the model returns "
                f"{tuple(values.shape)} of them for {tuple(counted.shape)} in the batch."
            )
        return self.share * mean_over_examples(values, counted)

    def split_pass(self, delta: Tensor, *, weight: float = 1.0) -> "SplitPass":
        """A full pass that also keeps p = ∂L/∂h at the output h of the first block."""
        with self._block().watched() as gradients:
            loss, grad = full_pass(self, delta, weight=weight)
        if not gradients:
            raise RuntimeError("No gradient reached the first block, so its p is unknown.")
        return SplitPass(loss, grad, gradients[0])

    def prefix_gradient(self, delta: Tensor, p: Tensor) -> Tensor:
        """∇δ ⟨p, h(x + δ)⟩, up to a positive factor; the model above the first block is not run.

        Cost: ⅔ of a clean step, divided by the number of blocks.
        """
        leaf = delta.detach().requires_grad_()
        with inner_pass(self.model):
            with self._frozen_dropout():
                hidden = self._block().prefix(self._masked(leaf))
            torch.autograd.backward((hidden.to(p.dtype) * p).sum())
        return _grad(leaf)

    def weight_gradient(self, delta: Tensor, weights: list[nn.Parameter]) -> list[Tensor]:
        """∇w L at δ, up to a positive factor; every `.grad` is left as it is.

        Cost: one clean step.
        """
        self._forwards += 1
        parameters = list(self.model.parameters())
        kept = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            parameter.grad = None
        try:
            with self.unsynced():
                with self._frozen_dropout(), still_statistics(self.model):
                    loss = self._run(delta.detach()).loss
                self.note(loss)
                with self._frozen_dropout.restored_on_error():
                    torch.autograd.backward(loss * self.loss_scale)
            grads = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights]
            for grad in grads:
                self.note(torch.linalg.vector_norm(grad))
            return grads
        finally:
            for parameter, before in zip(parameters, kept, strict=True):
                parameter.grad = before

    def example_names(self) -> list[str]:
        """A name for each example that stays the same from epoch to epoch: what it consists of."""
        if self.ids is not None:
            free = (self.mask.flatten(2).amax(2) > 0).cpu()
            rows = [row[kept].tolist() for row, kept in zip(self.ids.cpu(), free, strict=True)]
        else:
            rows = self.x.flatten(1).tolist()
        return [hashlib.blake2b(repr(row).encode(), digest_size=12).hexdigest() for row in rows]

    def _block(self) -> FirstBlock:
        if self.first_block is None:
            raise StepError("This method needs to know the model's first block.")
        if isinstance(self.first_block, FirstBlock):
            return self.first_block
        self.first_block = self.first_block()
        return self.first_block

    def _masked(self, delta: Tensor) -> Tensor:
        masked = delta * self.mask  # exact zeros on padding, in δ and through the chain rule in ∇δ
        self.delta = masked.detach()
        if delta.requires_grad:
            delta.register_hook(self.note)  # type: ignore[no-untyped-call]
        return masked

    def _run(self, delta: Tensor | None) -> Output:
        return self.run(None if delta is None else self._masked(delta))

    def _synchronisation(self) -> AbstractContextManager[None]:
        last = self.passes == 0 or self._forwards >= self.passes
        return nullcontext() if last and torch.is_grad_enabled() else self.unsynced()

    def note(self, value: Tensor) -> None:
        """Remember an inf or nan; on the device, without waiting for it."""
        self.nonfinite = self.nonfinite | ~torch.isfinite(value.detach()).all()


class Pass(NamedTuple):
    """What one full pass leaves behind: `loss` () unweighted, `grad` ∇δ."""

    loss: Tensor
    grad: Tensor


class SplitPass(NamedTuple):
    """The same, and `p`: the loss's gradient at the output of the first block, shaped like it."""

    loss: Tensor
    grad: Tensor
    p: Tensor


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
