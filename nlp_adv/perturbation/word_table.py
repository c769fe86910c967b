"""A row of numbers for each word, looked up and set by the tokens of a minibatch."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class WordTable:
    """The rows of a table that a minibatch's tokens have.

    Args:
        values: (V + 1, D), changed in place; the last row takes what is not free.
        rows: (B, T), each token's row, below V.
    """

    values: Tensor
    rows: Tensor

    def look_up(self) -> Tensor:
        """(B, T, D): each token's row."""
        return self.values[self.rows]

    def assign(self, new: Tensor, mask: Tensor) -> Tensor:
        """Set each row to the mean of `new` (B, T, D) over its free tokens; others stay.

        Nothing here waits for the device.

        Args:
            new: what each token asks for.
            mask: 1 where it is free, the shape of `new`.

        Returns:
            (B·T,), the rows that were set; the last one for tokens that are not free.
        """
        free = mask.amax(-1).flatten() > 0
        rows = torch.where(free, self.rows.flatten(), len(self.values) - 1)
        ones = torch.ones_like(rows, dtype=self.values.dtype)
        counts = torch.zeros_like(self.values[:, 0]).index_add_(0, rows, ones)
        means = new.flatten(0, 1) / counts[rows, None]
        self.values.index_fill_(0, rows, 0.0)
        self.values.index_add_(0, rows, means.to(self.values.dtype))
        return rows
