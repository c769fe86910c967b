"""What the blocks of a model make of some rows: for methods that train on hidden states."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Hidden:
    """The hidden states of some rows behind each block of a model.

    Args:
        layers: the output of each block, (R, T, D), from the first to the last.
        real: (R, T), true on tokens that are no padding.
        completed: (R, T), true on the tokens of completions.
    """

    layers: tuple[Tensor, ...]
    real: Tensor
    completed: Tensor

    def __getitem__(self, rows: slice) -> Hidden:
        """Those of some of the rows."""
        layers = tuple(layer[rows] for layer in self.layers)
        return Hidden(layers, self.real[rows], self.completed[rows])


def over_tokens(values: Tensor, counted: Tensor) -> Tensor:
    """(R,): the mean of (R, T) over the tokens that count; 0 of none."""
    return torch.where(counted, values, 0.0).sum(1) / counted.sum(1).clamp_min(1)
