"""A run whose numbers are not numbers stops."""

from typing import Any

import torch
from torch import Tensor

from nlp_adv.errors import UserError


class NonFiniteAlarm:
    """Counts optimizer steps in a row whose loss is inf or nan.

    The Trainer replaces such losses by the mean of earlier ones in its log, so that a run which has
    blown up looks like one that has converged.

    Args:
        trainer: its `args.adv_nonfinite_steps` is how many in a row end the run; 0 lets it go on.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._device = getattr(trainer.args, "device", torch.device("cpu"))
        self._bad = self._in_a_row = self._worst = torch.zeros(
            (), dtype=torch.long, device=self._device
        )

    @property
    def limit(self) -> int:
        """How many steps in a row end the run."""
        return int(getattr(self._trainer.args, "adv_nonfinite_steps", 3))

    def add(self, loss: Any) -> None:
        """Take in the loss of one micro-batch."""
        if isinstance(loss, Tensor):
            finite = torch.isfinite(loss.detach()).all().to(self._device)
            self._bad = self._bad | ~finite

    def may_wait(self) -> bool:
        """Whether a look at the device costs nothing: the Trainer looks at every loss by itself."""
        return bool(self._device.type == "cpu" or self._trainer.args.logging_nan_inf_filter)

    def step_ends(self, step: int) -> None:
        """After an optimizer step."""
        self._in_a_row = torch.where(self._bad > 0, self._in_a_row + 1, 0)
        self._worst = torch.maximum(self._worst, self._in_a_row)
        self._bad = torch.zeros_like(self._bad)
        if self.may_wait():
            self.check(step)

    def check(self, step: int) -> None:
        """Stop where too many steps were lost.

        Raises:
            UserError: with the step.
        """
        if self.limit and int(self._worst) >= self.limit:
            raise UserError(
                f"The loss was inf or nan for {int(self._worst)} optimizer steps in a row, up to "
                f"step {step}: training has diverged; lower the learning rate or ε, clip "
                f"gradients, or let it go on with --adv_nonfinite_steps 0."
            )

    def check_weights(self) -> None:
        """At the end of a run: refuse weights that are not numbers.

        Raises:
            UserError: with the name of one.
        """
        if not self.limit:
            return
        for name, weight in self._trainer.model.named_parameters():
            if not torch.isfinite(weight.detach()).all():
                raise UserError(
                    f"Training has diverged: the weight {name} holds inf or nan; lower the "
                    f"learning rate or ε, or clip gradients (--adv_nonfinite_steps 0 keeps such a "
                    f"model)."
                )
