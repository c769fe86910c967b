"""How a minibatch is run through a model."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from torch import nn

from nlp_adv.perturbation.memory import StepError
from nlp_adv.perturbation.objective import Output

ForwardFn = Callable[[nn.Module, dict[str, Any]], Output]
"""(model, batch) → loss and logits."""

NoSync = Callable[[], AbstractContextManager[None]]
"""A context without gradient exchange between processes."""


def model_forward(model: nn.Module, batch: dict[str, Any]) -> Output:
    """`model(**batch)`, its loss and its logits.

    Raises:
        StepError: the model returned no loss.
    """
    outputs = model(**batch)
    if outputs.get("loss") is None:
        raise StepError("The model returned no loss: the batch needs labels.")
    return Output(outputs["loss"], outputs.get("logits"))


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DDP, DeepSpeed and torch.compile wrappers."""
    while True:
        if hasattr(model, "_orig_mod"):
            model = model._orig_mod  # type: ignore[assignment]
        elif not hasattr(model, "config") and isinstance(getattr(model, "module", None), nn.Module):
            model = model.module  # type: ignore[assignment]
        else:
            return model
