"""How a minibatch is run through a model."""

from collections.abc import Callable, Mapping, MutableMapping
from contextlib import AbstractContextManager
from copy import copy as shallow
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nlp_adv.perturbation.memory import StepError
from nlp_adv.perturbation.objective import Output

ForwardFn = Callable[[nn.Module, dict[str, Any]], Output]
"""(model, batch) → loss and logits."""

NoSync = Callable[[], AbstractContextManager[None]]
"""A context without gradient exchange between processes."""


def model_forward(model: nn.Module, batch: dict[str, Any]) -> Output:
    """`model(**batch)`, its loss and its logits, from a dictionary, an object or a tuple.

    Without labels in the batch there are logits alone.

    Raises:
        StepError: the model returned neither.
    """
    outputs = model(**batch)
    if isinstance(outputs, Mapping):
        loss = outputs.get("loss")
    elif isinstance(outputs, tuple):  # models made with return_dict=False
        loss = outputs[0] if outputs and _is_loss(outputs[0]) else None
    else:
        loss = getattr(outputs, "loss", None)
    logits = logits_of(outputs, model)
    if loss is not None:
        return Output(loss, logits)
    if logits is None:
        raise StepError("The model returned no loss and no logits: the batch needs labels.")
    return Output(logits.new_zeros(()), logits, labelled=False)


def logits_of(outputs: Any, model: Any = None) -> Tensor | None:
    """The logits among what a model or a `compute_loss` returned; None where there are none.

    The start and end logits of question answering, two distributions over the tokens, come as one
    tensor (B, 2, T).

    Args:
        outputs: a dictionary, an object with attributes, a tuple (loss, logits, …) or the logits.
        model: whose they are, wrapped or not: a tuple does not say that it holds two logits.
    """
    if isinstance(outputs, Tensor):
        return None if _is_loss(outputs) else outputs
    if isinstance(outputs, tuple | list):
        rest = outputs[1:] if outputs and _is_loss(outputs[0]) else outputs
        if answers_with_spans(model) and len(rest) > 1 and _are_alike(rest[0], rest[1]):
            return torch.stack((rest[0], rest[1]), dim=1)
        return rest[0] if rest and isinstance(rest[0], Tensor) else None
    get = outputs.get if isinstance(outputs, Mapping) else partial(_attribute, outputs)
    logits, start, end = (get(name) for name in ("logits", "start_logits", "end_logits"))
    if logits is None and isinstance(start, Tensor) and isinstance(end, Tensor):
        return torch.stack((start, end), dim=1)
    return logits if isinstance(logits, Tensor) else None


def answers_with_spans(model: Any) -> bool:
    """Whether a model, wrapped or not, gives the start and the end of an answer."""
    inner = unwrapped(model) if isinstance(model, nn.Module) else model
    return "QuestionAnswering" in type(inner).__name__


def _are_alike(start: Any, end: Any) -> bool:
    return isinstance(start, Tensor) and isinstance(end, Tensor) and start.shape == end.shape


def copied(batch: Any) -> Any:
    """A batch of one's own: tensors and containers are copied, all else is shared.

    Code that writes into the batch then finds it as it was at every pass. What was one tensor under
    two names stays one.
    """
    return _copied(batch, {})


def _copied(value: Any, made: dict[int, Any]) -> Any:
    if id(value) in made:
        return made[id(value)]
    if isinstance(value, Tensor):
        copy: Any = value.clone()
    elif isinstance(value, MutableMapping):  # its own type: a BatchEncoding stays one
        copy = shallow(value)
        for key, inner in value.items():
            copy[key] = _copied(inner, made)
    elif type(value) in (list, tuple):
        copy = type(value)(_copied(inner, made) for inner in value)
    else:
        return value
    made[id(value)] = copy
    return copy


def _is_loss(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 0 and value.is_floating_point()


def _attribute(outputs: Any, name: str) -> Any:
    return getattr(outputs, name, None)


def _wraps(model: nn.Module) -> bool:
    """DeepSpeed's engine passes on what it is asked for, the model's configuration too."""
    engine = any(one.__name__ == "DeepSpeedEngine" for one in type(model).__mro__)
    return engine or not hasattr(model, "config")


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DDP, DeepSpeed and torch.compile wrappers."""
    while True:
        if hasattr(model, "_orig_mod"):
            model = model._orig_mod  # type: ignore[assignment]
        elif _wraps(model) and isinstance(getattr(model, "module", None), nn.Module):
            model = model.module  # type: ignore[assignment]
        else:
            return model
