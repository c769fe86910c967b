"""Whether a model takes gradients as it answers: a defence that is fitted anew to every input."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from nlp_adv.robustness.check_result import Check

_ASKED = (torch.Tensor.backward, torch.autograd.backward, torch.autograd.grad)


class GradientsWithin(TorchFunctionMode):
    """While it is entered, `taken` counts the gradients that anybody asks of torch.

        with GradientsWithin() as within:
            model(x)

    `torch.func.grad` ends in one of those that are counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.taken = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """What torch would do, looked at as it passes."""
        self.taken += func in _ASKED
        return func(*args, **(kwargs or {}))


def check_adaptive(taken: int) -> Check:
    """(i) The model answers without gradients, so that attacks on it as it stands are enough.

    Args:
        taken: gradients within passes from which the attack took none.
    """
    return Check(
        name="adaptive",
        passed=taken == 0,
        finding=f"As it answers, the model takes {taken or 'no'} gradients.",
        meaning="It is fitted to its input before it answers: the attack's gradient is of what it "
        "was, not of what it does. It needs an attack that is made for it.",
    )
