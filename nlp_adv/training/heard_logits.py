"""The logits of a model that is called inside somebody else's `compute_loss`."""

from typing import Any

import torch
from torch import Tensor, nn

from nlp_adv.perturbation import logits_of, unwrapped


class HeardLogits:
    """Remembers what the model returned last, in a forward pass with a graph.

    `compute_loss` need not return outputs, and asking for them makes some Trainers run the model
    again, so that they are taken where they are made.

    Args:
        model: wrapped or not.
    """

    def __init__(self, model: nn.Module) -> None:
        self.logits: Tensor | None = None
        self._handle = unwrapped(model).register_forward_hook(self._hear)

    def forget(self) -> None:
        """Before a pass that may not call the model."""
        self.logits = None

    def end(self) -> None:
        """Leave nothing in the model."""
        self._handle.remove()
        self.logits = None

    def _hear(self, module: nn.Module, args: Any, outputs: Any) -> None:
        if torch.is_grad_enabled():
            self.logits = logits_of(outputs, module)
