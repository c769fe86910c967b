"""Whether the numbers of a step are numbers: one look a pass at most, and no wait for the device.

A number that is inf or nan makes the largest of its tensor inf or nan. So a pass leaves its loss as
it is and the largest of its ∇δ, and a step looks at what was left when it is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm


class Finiteness:
    """What the passes of one step have left.

    Args:
        device: where the answer lies.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._left: list[Tensor] = []
        self._gradients_before: Tensor | None = None

    def note(self, *values: Tensor) -> None:
        """Leave the largest of these.

        Cost: one reduction; of a number alone, nothing.
        """
        if all(value.ndim == 0 for value in values):
            self._left += [value.detach() for value in values]
        else:
            self._left += [found for found in [largest(values)] if found is not None]

    def begins_on(self, gradients: list[Tensor]) -> None:
        """Before a step's first backward pass: what lies there of earlier micro-batches."""
        self._gradients_before = largest(gradients)

    def ends_on(self, gradients: list[Tensor]) -> None:
        """After its last: what fp16 overflows in the weights' gradients need not show at δ.

        What was broken before is not this step's.
        """
        after, before = largest(gradients), self._gradients_before
        if after is not None:
            mine = after if before is None else torch.where(torch.isfinite(before), after, 0.0)
            self._left.append(mine)

    def broken(self) -> Tensor:
        """(): whether one of them is inf or nan; on the device, without waiting for it."""
        if not self._left:
            return torch.zeros((), dtype=torch.bool, device=self._device)
        widest = reduce(torch.promote_types, [value.dtype for value in self._left])
        left = torch.stack([value.to(self._device, widest) for value in self._left])
        return ~torch.isfinite(left).all()


def largest(values: Sequence[Tensor]) -> Tensor | None:
    """(): the largest absolute value in them, inf or nan where one is; None of nothing."""
    # Of weights in shards, those that this process has: nobody is to be waited for.
    local = [value.to_local() if isinstance(value, DTensor) else value for value in values]
    dense = [value.detach() for value in local if not value.is_sparse and value.numel()]
    if len(dense) == 1:
        found: Tensor = torch.linalg.vector_norm(dense[0], torch.inf)
        return found
    return get_total_norm(dense, torch.inf) if dense else None
