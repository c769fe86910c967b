"""Models of any make as attacks need them: token ids and a mask in, logits and a loss out."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from nlp_adv.errors import UserError

_NEEDED = ("input_ids", "attention_mask")


def torch_model(model: Any) -> nn.Module:
    """The module to attack: the model itself, or that of a transformers pipeline.

    Raises:
        UserError: it is neither, or its forward does not take token ids and a mask.
    """
    if not isinstance(model, nn.Module):
        from transformers import Pipeline

        kind = type(model).__name__
        model = model.model if isinstance(model, Pipeline) else None
        if not isinstance(model, nn.Module):
            raise UserError(
                f"A {kind} cannot be attacked: attacks run a model on token ids of "
                f"their own; give a torch.nn.Module whose forward takes input_ids and "
                f"attention_mask and returns logits, such as "
                f"AutoModelForSequenceClassification.from_pretrained(NAME), or put a function of "
                f"texts that returns scores in nlp_adv.robustness.Predictor."
            )
    taken = _taken(model)
    missing = [name for name in _NEEDED if taken is not None and name not in taken]
    if missing:
        raise UserError(
            f"The forward of {type(model).__name__} takes no {' and no '.join(missing)}; attacks "
            f"run padded batches, so write it as forward(input_ids, attention_mask, …)."
        )
    module: nn.Module = model
    return module


def a_tensor_of(model: nn.Module) -> Tensor:
    """One of its parameters or buffers, for its device and dtype; on the CPU without any."""
    return next(chain(model.parameters(), model.buffers()), torch.empty(0))


@contextmanager
def answering(model: nn.Module) -> Iterator[None]:
    """For the time of a block the model takes every batch and returns "logits" and "loss".

    Segment numbers and labels are kept from a forward that has no place for them, a tuple or a bare
    tensor becomes a mapping, and a missing loss is the cross entropy.

    Raises:
        UserError: in the block, where the model returns no logits.
    """
    taken, labels = _taken(model), list[Any]()

    def give(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        labels[:] = [kwargs.get("labels")]
        return args, {k: v for k, v in kwargs.items() if taken is None or k in taken}

    def take(_: nn.Module, args: Any, output: Any) -> Any:
        loss, logits = _answer(output)
        if logits is None:
            raise UserError(
                f"{type(model).__name__} returns a {type(output).__name__} without logits; attacks "
                f"need them: return a tensor (texts, classes), or a mapping with the key logits."
            )
        if loss is None and labels[0] is not None and logits.ndim == 2:
            loss = nn.functional.cross_entropy(logits, labels[0])
        return {"loss": loss, "logits": logits}

    # On the model as it was given: what is compiled or distributed inside sees no hook.
    before = model.register_forward_pre_hook(give, with_kwargs=True)
    behind = model.register_forward_hook(take, prepend=True)
    try:
        yield
    finally:
        before.remove()
        behind.remove()


def _taken(model: nn.Module) -> set[str] | None:
    """The names that the model's forward takes; None where it takes any."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):  # of a model in TorchScript
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {parameter.name for parameter in parameters}


def _answer(output: Any) -> tuple[Any, Tensor | None]:
    """(loss, logits) of whatever a forward returned; None for what is not there."""
    if isinstance(output, Mapping):
        return output.get("loss"), output.get("logits")
    if isinstance(output, Tensor):
        return None, output
    if isinstance(output, tuple | list):  # (loss, logits, …) or (logits, …)
        tensors = [one for one in output if isinstance(one, Tensor)]
        losses = [one for one in tensors[:1] if one.ndim == 0]
        others = [one for one in tensors if one.ndim > 0]
        return next(iter(losses), None), next(iter(others), None)
    return getattr(output, "loss", None), getattr(output, "logits", None)
