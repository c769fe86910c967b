"""What one norm covers: an example, a token, or a segment of an example.

Each function takes δ, or numbers that broadcast against it, and returns what it computes of each
slice with dimensions kept, so that the result broadcasts against δ: (B, 1, 1) per example,
(B, T, 1) per token and per segment.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Segments:
    """Groups of tokens with a norm of their own: modules' δ, calls', or texts packed in one row.

    Args:
        index: (B, T), the number of each token's segment, from 0.
        count: how many segments a row may have.
    """

    index: Tensor
    count: int

    def __getitem__(self, kept: Tensor) -> "Segments":
        """Those of some of the rows."""
        return Segments(self.index[kept.to(self.index.device)], self.count)

    def reduced(self, values: Tensor, how: str) -> Tensor:
        """(B, S, 1) of values (B, T, 1): their sum or their largest, of numbers ≥ 0."""
        sums = values.new_zeros(len(values), self.count, 1)
        return sums.scatter_reduce(1, self.index[..., None], values, how)

    def spread(self, values: Tensor) -> Tensor:
        """(B, T, 1) of values (B, S, 1): each token has its segment's."""
        return values.gather(1, self.index[..., None])

    def rows(self, delta: Tensor) -> Tensor:
        """(B, S, L·D): each segment's numbers in order, and 0 up to the longest one's length L."""
        places, longest = self._places
        empty = delta.new_zeros(len(delta), self.count * longest, delta.shape[2])
        filled = empty.scatter(1, places.expand_as(delta), delta)
        return filled.view(len(delta), self.count, -1)

    def of_rows(self, rows: Tensor) -> Tensor:
        """(B, T, D) of what `rows` made."""
        places, longest = self._places
        each = rows.reshape(len(rows), self.count * longest, -1)
        return each.gather(1, places.expand(-1, -1, each.shape[2]))

    @cached_property
    def _places(self) -> tuple[Tensor, int]:
        """Where each token stands, with L tokens for each segment, (B, T, 1); and L.

        Waits for the device.
        """
        numbers = torch.arange(self.count, device=self.index.device)
        order = (self.index[..., None] == numbers).cumsum(1)
        longest = int(order.max())
        place = order.gather(2, self.index[..., None]) - 1
        return self.index[..., None] * longest + place, longest


Per = Literal["example", "token"] | Segments


def check_per(per: Per) -> None:
    """Raises:
    ValueError: it is neither "example" nor "token", nor segments.
    """
    if not isinstance(per, Segments) and per not in ("example", "token"):
        raise ValueError(f'per must be "example" or "token", not {per!r}.')


def slice_dims(delta: Tensor, per: Per) -> tuple[int, ...]:
    """The dimensions that one slice covers; of segments, those of one token.

    Raises:
        ValueError: δ has no tokens.
    """
    if per == "example":
        return tuple(range(1, delta.ndim))
    if delta.ndim != 3:
        raise ValueError(
            f'per="token" needs δ of shape (B, T, D), not {tuple(delta.shape)}; use per="example".'
        )
    return (2,)


def slice_norm(delta: Tensor, per: Per) -> Tensor:
    """The L2 norm of each slice."""
    norm: Tensor = torch.linalg.vector_norm(delta, dim=slice_dims(delta, per), keepdim=True)
    if isinstance(per, Segments):
        return per.spread(per.reduced(norm.square(), "sum")).sqrt()
    return norm


def slice_sum(delta: Tensor, per: Per) -> Tensor:
    """The sum of each slice."""
    total = delta.sum(dim=slice_dims(delta, per), keepdim=True)
    return per.spread(per.reduced(total, "sum")) if isinstance(per, Segments) else total


def slice_amax(delta: Tensor, per: Per) -> Tensor:
    """The largest of each slice, of numbers ≥ 0."""
    largest = delta.amax(dim=slice_dims(delta, per), keepdim=True)
    return per.spread(per.reduced(largest, "amax")) if isinstance(per, Segments) else largest


def slice_rows(delta: Tensor, per: Per) -> Tensor:
    """Slices as rows: (B, n) per example, (B, T, D) per token, (B, S, L·D) per segment."""
    slice_dims(delta, per)
    if isinstance(per, Segments):
        return per.rows(delta)
    return delta.flatten(1) if per == "example" else delta


def from_rows(rows: Tensor, like: Tensor, per: Per) -> Tensor:
    """What `slice_rows` made rows of, in the shape of `like`."""
    return per.of_rows(rows) if isinstance(per, Segments) else rows.view_as(like)


def row_values(values: Tensor, per: Per) -> Tensor:
    """One number ≥ 0 for each row, (…, 1), of one for each slice."""
    if isinstance(per, Segments):
        return per.reduced(values, "amax")
    return slice_rows(values, per)


def slice_values(values: Tensor, per: Per) -> Tensor:
    """(N,) of one number ≥ 0 for each token: the largest of each of N examples or segments."""
    if isinstance(per, Segments):
        return per.reduced(values, "amax").flatten()
    return values.flatten(1).amax(1)


def draw_slices(
    like: Tensor, per: Per, generator: torch.Generator | None, law: Callable[..., Tensor]
) -> Tensor:
    """One random number for each slice, in the shape of `like`, which holds one for each."""
    if isinstance(per, Segments):
        numbers = like.new_empty(len(like), per.count, 1)
        return per.spread(law(numbers, generator=generator))
    return draw(like, generator, law)


def draw(like: Tensor, generator: torch.Generator | None, law: Callable[..., Tensor]) -> Tensor:
    """One random number for each coordinate."""
    return law(torch.empty_like(like, memory_format=torch.contiguous_format), generator=generator)
