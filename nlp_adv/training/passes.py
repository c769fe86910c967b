"""The passes of one micro-batch, each made by the Trainer's own code."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer

from nlp_adv.perturbation import Output, StepError, logits_of, model_forward
from nlp_adv.training.bookkeeping import Bookkeeping
from nlp_adv.training.exchange import without_engine
from nlp_adv.training.heard_logits import HeardLogits
from nlp_adv.training.replaced import replaced_attributes


class StockPasses:
    """The forward and backward passes of one micro-batch, made by the Trainer's own code.

    `forward` is the Trainer's `compute_loss`, whoever overrides it; `backward` is the stock
    `training_step`, to which `compute_loss` hands back the loss that is ready. Overrides of
    `training_step` lie around all passes, and run once.

    What `compute_loss` counts on the Trainer (metrics, tokens) it counts once a micro-batch: in the
    first pass that θ is trained on.

    Args:
        trainer: the Trainer.
        compute_loss: the user's, without ours.
        model, inputs, options: what `compute_loss` was called with.
        heard: the logits that the model returns inside `compute_loss`.
        asks: ask `compute_loss` for its outputs: trl computes the logits a second time for them.
        compares: the method compares outputs, and needs their gradient.

    Attributes:
        loss: the sum of the losses that θ was trained on.
        scale: what the stock step multiplied the last loss by (1 / accumulation steps, or 1).
        logits: of the last forward pass, detached; None where the model has none.
        outputs: of the last forward pass, where they were asked for.
    """

    def __init__(
        self,
        trainer: Any,
        compute_loss: Callable[..., Any],
        model: nn.Module,
        inputs: dict[str, Any],
        options: dict[str, Any],
        heard: HeardLogits,
        *,
        asks: bool,
        compares: bool = False,
    ) -> None:
        self._trainer, self._compute_loss = trainer, compute_loss
        self._model, self._inputs, self._heard = model, inputs, heard
        self._compares = compares
        self._options = options | ({"return_outputs": True} if asks or compares else {})
        self._bookkeeping = Bookkeeping(trainer)
        self._counted = False
        self.loss = torch.zeros((), device=trainer.args.device)
        self.scale = torch.ones((), device=trainer.args.device)
        self.logits: Tensor | None = None
        self.outputs: Any = None

    def forward(self, model: nn.Module, batch: dict[str, Any]) -> Output:
        """The Trainer's `compute_loss`, on a batch of its own.

        Raises:
            StepError: `compute_loss` returned no loss, or outputs without a gradient to a method
                that compares them.
        """
        # Passes for δ alone run with frozen parameters.
        trained = torch.is_grad_enabled() and _is_trained(model)
        counts = not self._counted and trained
        if not trained:
            model = without_engine(self._trainer.accelerator, model)
        self._heard.forget()
        with (
            self._bookkeeping.kept(counts),
            self._trainer.compute_loss_context_manager(),
        ):
            returned = self._loss_of(model, batch)
        self._counted |= counts
        loss, self.outputs = returned if isinstance(returned, tuple) else (returned, None)
        if loss is None and self._heard.logits is not None and not self._has_labels():
            self.logits = self._heard.logits.detach()
            return Output(self.logits.new_zeros(()), self._heard.logits, labelled=False)
        if not isinstance(loss, Tensor):
            raise StepError(
                f"{type(self._trainer).__name__}.compute_loss returned {type(loss).__name__} where "
                f"a loss, a tensor, is needed."
            )
        logits, heard = logits_of(self.outputs, model), self._heard.logits
        if heard is not None and (logits is None or not logits.requires_grad):
            logits = heard  # outputs may come from a second pass, made for them without a graph
        if self._compares and loss.requires_grad:
            self._check_graph(logits)
        self.logits = None if logits is None else logits.detach()
        return Output(loss, logits)

    def forward_alone(self, model: nn.Module, batch: dict[str, Any]) -> Output:
        """The model by itself, for methods whose losses are their own.

        `compute_loss` and what it counts stay out of it.
        """
        if not _is_trained(model):
            model = without_engine(self._trainer.accelerator, model)
        with self._trainer.compute_loss_context_manager():
            return model_forward(model, batch)

    def _loss_of(self, model: nn.Module, batch: dict[str, Any]) -> Any:
        """What `compute_loss` returns; None where it fails for want of labels."""
        without = not self._has_labels()
        try:
            returned = self._compute_loss(model, batch, **self._options)
        except (ValueError, KeyError) as error:
            if without and self._heard.logits is not None and self._wants_labels(error):
                return None
            raise
        loss = returned[0] if isinstance(returned, tuple) else returned
        # A model that returns a tuple has its logits where the loss would be.
        return None if without and isinstance(loss, Tensor) and loss.ndim > 0 else returned

    def _wants_labels(self, error: Exception) -> bool:
        """The stock Trainer says that there is no loss; a user's code looks for the labels."""
        names = ("labels", *self._trainer.label_names)
        missing = isinstance(error, KeyError) and error.args and error.args[0] in names
        return bool(missing) or "did not return a loss" in str(error)

    def _has_labels(self) -> bool:
        return any(name in self._inputs for name in ("labels", *self._trainer.label_names))

    def _check_graph(self, logits: Tensor | None) -> None:
        if logits is not None and not logits.requires_grad:
            raise StepError(
                f"This method compares outputs, and the logits that "
                f"{type(self._trainer).__name__}.compute_loss returns carry no gradient: its loss "
                f"was computed without them; use a method that asks for the loss alone, such as "
                f"freelb, pgd or fgm."
            )

    def backward(self, loss: Tensor) -> None:
        """The stock `training_step` on a loss that is ready."""
        factor: list[Tensor] = []
        watched = watch(loss, factor)
        with replaced_attributes(
            self._trainer,
            compute_loss=lambda *args, **kwargs: watched,
            _prepare_inputs=lambda inputs: inputs,  # the user's own has prepared them
        ):
            num_items = self._options.get("num_items_in_batch")
            Trainer.training_step(self._trainer, self._model, self._inputs, num_items)
        self.loss = self.loss + loss.detach()
        self.scale = factor[0] / loss_scale(self._trainer)

    def ready(self, taken: list[Tensor]) -> Tensor:
        """The loss to hand to whoever called `compute_loss`: its gradient is there already.

        Args:
            taken: gets what the caller's backward multiplied it by, fp16's own factor included.
        """
        nothing = torch.zeros((), device=self.loss.device, requires_grad=True)
        return watch(nothing + self.loss, taken)


def loss_scale(trainer: Any) -> Tensor:
    """What fp16 training multiplies all its losses by; 1 elsewhere."""
    scaler = trainer.accelerator.scaler
    one = torch.ones((), device=trainer.args.device)
    return one if scaler is None else scaler.scale(one)


def _is_trained(model: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in model.parameters())


def watch(loss: Tensor, factor: list[Tensor]) -> Tensor:
    """The same loss; a backward pass through it appends what it was multiplied by to `factor`."""
    watched: Tensor = _Watched.apply(loss, factor)  # type: ignore[no-untyped-call]
    return watched


class _Watched(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor, factor: list[Tensor]) -> Tensor:
        ctx.factor = factor
        return loss.view_as(loss)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        ctx.factor.append(grad.detach())
        return grad, None
