"""The one implementation of `Objective`: a function of δ that runs a model."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from nlp_adv.perturbation.balls import Ball, WithinBox, segmented
from nlp_adv.perturbation.divergences import Outputs, divergence, fitted, mean_over_examples
from nlp_adv.perturbation.finite import Finiteness
from nlp_adv.perturbation.first_block import FirstBlock
from nlp_adv.perturbation.frozen_dropout import FrozenDropout
from nlp_adv.perturbation.full_pass import WENT_NOWHERE, SplitPass, full_pass, grad_of
from nlp_adv.perturbation.hidden import Hidden
from nlp_adv.perturbation.inner_objective import InnerObjective, RowsObjective
from nlp_adv.perturbation.inner_pass import inner_pass, still_statistics
from nlp_adv.perturbation.log_probs import Completions
from nlp_adv.perturbation.memory import Memory, NoMemory, StepError
from nlp_adv.perturbation.objective import LossOfCompletions, Output
from nlp_adv.perturbation.slices import Segments, slice_rows

Run = Callable[[Tensor | None], Output]
"""δ → what the model makes of the minibatch there."""

NO_PAIRS = (
    "This method trains on pairs of completions: give data with the columns prompt, chosen and "
    "rejected, and data_collator=PairCollator(tokenizer) (nlp_adv.data.pairs)."
)
_OTHER_STREAM = 0x9E3779B97F4A7C15 >> 1  # a model seeded like the objective gets other masks


@dataclass
class ModelObjective:
    """The minibatch as a function of δ, over any function of δ that runs a model.

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
        outputs: logits → what they hold, and in which dimension (see `divergences`), for methods
            that compare outputs.
        counted: (B, T), true where a token's output counts in such a comparison, or (B, H, W) for
            pixels; None is all.
        share: this minibatch's share in the loss of an accumulated step, for such comparisons; 1
            where the caller divides by itself.
        table: the matrix that x is looked up in, where there is one.
        ids: the rows of it that x holds, (B, T).
        names: names the examples, or the segments of each row, by what they consist of, for methods
            that remember them; without it x does.
        first_block: finds the model's first block, for methods that run it alone.
        labels: of the batch, where they are integers: with −100 alone there is no label in it.
        generators: sources of random numbers that `run` draws from, beside the global ones: see
            `FrozenDropout`.
        low, high: bounds of δ beside a method's ball, the shape of δ, as pixels have them.
        segments: which of several modules, calls and packed texts each token of δ belongs to; each
            has a ball and a unit.
        texts: the examples that `counted` is of, where a row holds several.
        run_rows: indices of rows → `run` of the batch that has these rows alone.
        run_groups: groups of rows → a run of these rows, whose outputs are `completions`.
        run_reference: the same at x, of the model before its training.
        run_hidden, run_hidden_before: these two, with hidden states in place of completions.
        pairs: how many pairs there are.
        prefix_once: makes what each of several passes goes through, so that what lies below δ is
            computed in the first of them alone.
    """

    run: Run
    x: Tensor
    mask: Tensor
    model: nn.Module
    seed: int | None = None
    backward_fn: Callable[[Tensor], None] = torch.autograd.backward
    unsynced: Callable[[], AbstractContextManager[None]] = nullcontext
    passes: int = 0
    loss_scale: Tensor | float = 1.0
    memory: Memory = field(default_factory=NoMemory)
    outputs: Callable[[Tensor], tuple[Outputs, int | None]] = lambda logits: ("classes", None)
    counted: Tensor | None = None
    share: Tensor | float = 1.0
    table: nn.Parameter | None = None
    ids: Tensor | None = None
    names: Callable[[], list[str]] | None = None
    first_block: FirstBlock | Callable[[], FirstBlock] | None = None
    labels: Tensor | None = None
    generators: Sequence[Any] = ()
    low: Tensor | None = None
    high: Tensor | None = None
    segments: Segments | None = None
    texts: Segments | None = None
    run_rows: Callable[[Tensor], Run] | None = None
    prefix_once: Callable[[], Callable[[], AbstractContextManager[None]]] | None = None
    run_groups: Callable[[tuple[str, ...]], Run] | None = None
    run_reference: Callable[[Sequence[str]], Mapping[str, Completions]] | None = None
    run_hidden: Callable[[tuple[str, ...]], Run] | None = None
    run_hidden_before: Callable[[Sequence[str]], Mapping[str, Hidden]] | None = None
    pairs: int = 0

    unit: float = field(default=1.0, init=False)
    """How long a δ of 1 is: this objective's lengths are absolute."""
    delta: Tensor | None = field(default=None, init=False)
    """The last δ that a forward pass saw, detached and masked."""
    generator: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        seed = int(torch.empty((), dtype=torch.int64).random_()) if self.seed is None else self.seed
        self.generator = torch.Generator(self.x.device).manual_seed(seed)
        self._frozen_dropout = FrozenDropout(self.x.device, self.generators)
        self._no_label: bool | None = None
        self._forwards = 0
        self._finiteness = Finiteness(self.x.device)

    def forward(self, delta: Tensor | None = None, *, needs_loss: bool = True) -> Output:
        """The loss and logits at x + mask·δ, with a graph to θ unless gradients are off."""
        return self._forward(self.run, delta, needs_loss=needs_loss)

    def _forward(self, run: Run, delta: Tensor | None, *, needs_loss: bool) -> Output:
        trained_on = torch.is_grad_enabled()
        if trained_on and self._forwards == 0:
            self._finiteness.begins_on(self._gradients())
        self._forwards += trained_on
        statistics = nullcontext() if trained_on else still_statistics(self.model)
        with self._synchronisation(), self._frozen_dropout(), statistics:
            return self._run(run, delta, needs_loss=needs_loss)

    def forward_redrawn(self) -> Output:
        """The same at the clean point, under a dropout mask of its own."""
        self._forwards += torch.is_grad_enabled()
        seed = self.generator.initial_seed() ^ _OTHER_STREAM
        with self._synchronisation(), self._frozen_dropout.redrawn(seed):
            return self._run(self.run, None)

    def backward(self, loss: Tensor) -> None:
        """Accumulate ∇θ, and ∇δ into a leaf δ that `forward` was given."""
        self.note(loss)
        with self._synchronisation(), self._frozen_dropout.restored_on_error():
            self.backward_fn(loss)
        if self._is_last_pass():
            self._finiteness.ends_on(self._gradients())

    def gradient(self, delta: Tensor, loss_fn: Callable[[Output], Tensor] | None = None) -> Tensor:
        """∇δ at δ, float32 or wider.

        Freezing the parameters and calling `backward` prunes the weight gradients in eager and in
        compiled mode, and survives reentrant checkpointing, where `autograd.grad` does not.

        Cost: one forward and about half a backward: ⅔ of a clean step.
        """
        needs_loss = loss_fn is None
        loss_fn = loss_fn or (lambda output: output.loss)
        return self._gradient(self.run, delta, loss_fn, needs_loss=needs_loss)

    def _gradient(
        self, run: Run, delta: Tensor, loss_fn: Callable[[Output], Tensor], *, needs_loss: bool
    ) -> Tensor:
        leaf = delta.detach().requires_grad_()
        with self.unsynced(), inner_pass(self.model):
            with self._frozen_dropout():
                output = self._run(run, leaf, needs_loss=needs_loss)
            loss = loss_fn(output)
            self.note(loss)
            if not loss.requires_grad:
                self._frozen_dropout.restore()
                raise StepError(WENT_NOWHERE)
            with self._frozen_dropout.restored_on_error():
                torch.autograd.backward(loss * self.loss_scale)
        return grad_of(leaf) / self.loss_scale

    def completions(self, delta: Tensor, *groups: str) -> Mapping[str, Completions]:
        """What the model finds of the completions of these groups: see `PairedObjective`."""
        output = self._forward(self._groups(groups), delta, needs_loss=False)
        return cast("Mapping[str, Completions]", output.completions)

    def completions_gradient(
        self, delta: Tensor, groups: Sequence[str], loss_fn: LossOfCompletions
    ) -> Tensor:
        """∇δ of a loss on these groups, whose rows alone are run.

        Cost: as `gradient`, times their share of the rows.
        """

        def loss(output: Output) -> Tensor:
            return loss_fn(cast("Mapping[str, Completions]", output.completions))

        return self._gradient(self._groups(tuple(groups)), delta, loss, needs_loss=False)

    def reference(self, *groups: str) -> Mapping[str, Completions]:
        """The same at x, of the model before its training: no graph, evaluation mode."""
        if self.run_reference is None:
            raise StepError(NO_PAIRS)
        return self.run_reference(groups)

    def hidden(self, *groups: str) -> Mapping[str, Hidden]:
        """What each block makes of clean groups: see `HiddenObjective`."""
        if self.run_hidden is None:
            raise StepError(NO_PAIRS)
        output = self._forward(self.run_hidden(groups), None, needs_loss=False)
        return cast("Mapping[str, Hidden]", output.hidden)

    def hidden_before(self, *groups: str) -> Mapping[str, Hidden]:
        """The same of the model before its training: no graph, evaluation mode."""
        if self.run_hidden_before is None:
            raise StepError(NO_PAIRS)
        return self.run_hidden_before(groups)

    def mean(self, values: Tensor) -> Tensor:
        """(): the mean of (R,), this minibatch's share of an accumulated step; 0 of no rows."""
        return self.share * values.sum() / max(1, len(values))

    def _groups(self, groups: tuple[str, ...]) -> Run:
        if self.run_groups is None:
            raise StepError(NO_PAIRS)
        return self.run_groups(groups)

    def within(self, ball: Ball) -> Ball:
        """The ball of each segment, met with the bounds `low` and `high`, where there are any."""
        if self.segments is not None:
            ball = segmented(ball, self.segments)
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
        kind, dim = self.outputs(p.logits)
        values = divergence(p.logits, q.logits, kind, symmetric=symmetric, dim=dim)
        if values.ndim == 1 or self.counted is None:
            return self.share * mean_over_examples(values)
        counted = fitted(self.counted, values)
        if counted is None:
            raise StepError(
                f"This method compares outputs token by token, and the model returns "
                f"{tuple(values.shape)} of them for {tuple(self.counted.shape)} in the batch."
            )
        return self.share * mean_over_examples(values, counted, self.texts)

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
        # FSDP2 would exchange here what the passes before have left, and `inner_pass` drop it.
        with self.unsynced(), inner_pass(self.model):
            with self._frozen_dropout():
                hidden = self._block().prefix(self._masked(leaf))
            torch.autograd.backward((hidden.to(p.dtype) * p).sum())
        return grad_of(leaf)

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
                    loss = self._run(self.run, delta.detach()).loss
                self.note(loss)
                with self._frozen_dropout.restored_on_error():
                    torch.autograd.backward(loss * self.loss_scale)
            grads = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights]
            self.note(*grads)
            return grads
        finally:
            for parameter, before in zip(parameters, kept, strict=True):
                parameter.grad = before

    def rows(self, kept: Tensor, *, enters: bool = True) -> RowsObjective:
        """The same minibatch as a function of some rows' δ.

        Args:
            kept: (m,), the indices of the rows.
            enters: see `RowsObjective`.

        Raises:
            StepError: the batch cannot be cut into rows.
        """
        if self.run_rows is None:
            raise StepError("This method runs on some rows, which this objective does not cut out.")
        cut = copy(self)  # the same dropout masks, generator and memory
        cut.run, cut.run_rows = self.run_rows(kept), None
        cut._no_label = None
        for name in ("x", "mask", "low", "high", "segments", "counted", "texts", "labels", "ids"):
            value = getattr(self, name)
            setattr(cut, name, None if value is None else value[kept])
        return RowsObjective(self, cut, kept, enters)

    def inner_within(
        self, context: Callable[[], AbstractContextManager[Any]], *, prefix_once: bool = False
    ) -> InnerObjective:
        """The same minibatch, the forward halves of passes for ∇δ alone within a context.

        Args:
            context: of each pass.
            prefix_once: what lies below δ is computed in the first of them alone.

        Raises:
            StepError: there is nothing below δ.
        """
        if prefix_once and self.prefix_once is None:
            raise StepError("inner_prefix (--adv_inner_prefix) needs δ on a layer of a model.")

        def within(run: Run) -> Run:
            once = self.prefix_once() if prefix_once and self.prefix_once else nullcontext

            def run_within(delta: Tensor | None) -> Output:
                with context(), once():
                    return run(delta)

            return run_within

        inner, rows, groups = copy(self), self.run_rows, self.run_groups
        inner.run = within(self.run)
        inner.run_groups = None if groups is None else cache(lambda names: within(groups(names)))
        inner.run_rows = None if rows is None else lambda kept: within(rows(kept))
        return InnerObjective(self, inner)

    def example_names(self) -> list[str]:
        """A name for each example that stays the same from epoch to epoch: what it consists of."""
        if self.names is not None:
            return self.names()
        rows = slice_rows(self.x, self.segments or "example").flatten(0, -2).tolist()
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

    def _run(self, run: Run, delta: Tensor | None, *, needs_loss: bool = True) -> Output:
        output = run(None if delta is None else self._masked(delta))
        if output.labelled and not needs_loss and self._has_no_label():
            return output.without_loss()
        if output.labelled or not needs_loss:
            return output
        raise StepError(
            "The model returned no loss: the batch needs labels, without which vat alone trains."
        )

    def _has_no_label(self) -> bool:
        """Waits for the device, once a step: the mean of no losses is nan."""
        if self._no_label is None:
            labels = self.labels
            whole = isinstance(labels, Tensor) and not labels.is_floating_point()
            self._no_label = whole and not bool((cast(Tensor, labels) != -100).any())
        return self._no_label

    def _gradients(self) -> list[Tensor]:
        """What has been accumulated of ∂L/∂θ."""
        return [p.grad for p in self.model.parameters() if p.grad is not None]

    def _is_last_pass(self) -> bool:
        return self.passes == 0 or self._forwards >= self.passes

    def _synchronisation(self) -> AbstractContextManager[None]:
        last = self._is_last_pass() and torch.is_grad_enabled()
        return nullcontext() if last else self.unsynced()

    def check_passes(self) -> None:
        """After a step: refuse fewer passes than `passes`, when processes wait for the last one.

        Raises:
            StepError: they have exchanged no gradients.
        """
        if self._forwards < self.passes:
            raise StepError(
                f"The method declares {self.passes} passes with a graph to θ and made "
                f"{self._forwards}, so that processes would not have exchanged gradients: let "
                f"`passes` be the number that this step makes."
            )

    def note(self, *values: Tensor) -> None:
        """Remember an inf or nan; on the device, without waiting for it."""
        self._finiteness.note(*values)

    @property
    def nonfinite(self) -> Tensor:
        """(): whether a loss or a gradient was inf or nan in this step."""
        return self._finiteness.broken()
