"""The passes of one micro-batch, each made by the Trainer's own code."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nlp_adv.perturbation import Output


class StockPasses:
    """The forward and backward passes of one micro-batch, made by the Trainer's own code.

    `forward` is the Trainer's `compute_loss`, whoever overrides it; `backward` is the stock
    `training_step`, to which `compute_loss` hands back the loss that is ready.

    Args:
        trainer: the Trainer.
        stock_step: its `training_step` without the mixin's.
        model, inputs, num_items: what the mixin's `training_step` was given.

    Attributes:
        loss: the sum of what the stock steps returned: what this step returns.
        scale: what the stock step multiplied the last loss by.
        logits: of the last forward pass, detached; None where the model has none.
    """

    def __init__(
        self,
        trainer: Any,
        stock_step: Callable[..., Tensor],
        model: nn.Module,
        inputs: dict[str, Any],
        num_items: Tensor | int | None,
    ) -> None:
        self._trainer, self._stock_step = trainer, stock_step
        self._model, self._inputs, self._num_items = model, inputs, num_items
        self.loss = torch.zeros((), device=trainer.args.device)
        self.scale = torch.ones((), device=trainer.args.device)
        self.logits: Tensor | None = None

    def forward(self, model: nn.Module, batch: dict[str, Any]) -> Output:
        """The Trainer's `compute_loss` on a copy of the batch."""
        with self._trainer.compute_loss_context_manager():
            loss, outputs = self._trainer.compute_loss(
                model, batch, return_outputs=True, num_items_in_batch=self._num_items
            )
        logits = outputs.get("logits") if isinstance(outputs, Mapping) else None
        self.logits = logits.detach() if isinstance(logits, Tensor) else None
        return Output(loss, logits)

    def backward(self, loss: Tensor) -> None:
        """The stock `training_step` on a loss that is ready.

        Raises:
            RuntimeError: an override of `training_step` did not take the loss, or took it twice.
        """
        handed = []

        def ready(*args: Any, **kwargs: Any) -> Tensor:
            handed.append(loss)
            return loss

        # An attribute of the instance goes before every override of the class.
        attributes = vars(self._trainer)
        users = {"compute_loss": attributes["compute_loss"]} if "compute_loss" in attributes else {}
        attributes["compute_loss"] = ready
        try:
            scaled = self._stock_step(self._model, self._inputs, self._num_items)
        finally:
            del attributes["compute_loss"]
            attributes.update(users)
        if len(handed) != 1:
            raise RuntimeError(
                f"{type(self._trainer).__name__}.training_step asked compute_loss for "
                f"{len(handed)} losses instead of one, so the adversarial loss was not used as it "
                f"should be; put AdversarialMixin before the class that overrides training_step."
            )
        self.loss = self.loss + scaled
        given = loss.detach()
        self.scale = torch.where(given == 0, self.scale, scaled / given)
