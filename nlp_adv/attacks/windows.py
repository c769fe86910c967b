"""Where Square changes an example: squares of an image, or runs of tokens and some dimensions.

Each example draws from a stream of its own, as many numbers for a proposal whatever is padded.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from nlp_adv.attacks.region import Region

_TILES = 5  # of a side of an image, at the start in L2
_NARROWEST = 3  # a window in L2 has a profile, and needs a few pixels for it


@dataclass(frozen=True)
class Proposal:
    """A window proposed anew, each (b, …) as the point.

    Attributes:
        inside: where it is.
        signs: what to put there, up to its length; 0 outside.
        beside: another window, whose mass it takes.
    """

    inside: Tensor
    signs: Tensor
    beside: Tensor


@dataclass(frozen=True)
class Windows(ABC):
    """The windows of some examples.

    Attributes:
        region: of the examples.
        streams: of random numbers, one an example.
    """

    region: Region
    streams: list[torch.Generator]

    @property
    def channels(self) -> int:
        """How many share the mass of a ball."""
        return 1

    @abstractmethod
    def start(self, *, flat: bool) -> Tensor:
        """Signs of the first point, (b, …)."""

    @abstractmethod
    def propose(self, share: float, *, flat: bool) -> Proposal:
        """A random window of a share of the numbers.

        Args:
            share: p.
            flat: one value a channel; a profile else.
        """

    @abstractmethod
    def norm(self, delta: Tensor) -> Tensor:
        """‖δ‖₂ of each channel, or of each part that has a ball of its own; broadcasts."""

    def rows(self, kept: Tensor) -> Windows:
        """Those of some of the examples; `kept` is a mask."""
        streams = [one for one, stays in zip(self.streams, kept.tolist(), strict=True) if stays]
        return type(self)(self.region.rows(kept), streams)

    def _numbers(self, count: int) -> Tensor:
        """Uniform numbers, (b, count)."""
        drawn = [torch.rand(count, generator=s, dtype=torch.float64) for s in self.streams]
        return torch.stack(drawn).to(self.region.examples.clean.device)

    def _signs(self, numbers: Tensor) -> Tensor:
        like = self.region.examples.clean
        return torch.where(numbers < 0.5, -1.0, 1.0).to(like.dtype)


class Squares(Windows):
    """Of images (B, C, H, W); (B, H, W) has one channel, and (B, N) is one row of pixels."""

    @property
    def _shape(self) -> tuple[int, int, int, int]:
        shape = self.region.examples.clean.shape
        wide = (shape[0], *[1] * (4 - len(shape)), *shape[1:])
        return wide[0], wide[1], math.prod(wide[2:-1]), wide[-1]

    @property
    def channels(self) -> int:
        """C."""
        return self._shape[1]

    def start(self, *, flat: bool) -> Tensor:
        """Stripes from top to bottom, or tiles of a fifth of the side."""
        b, c, h, w = self._shape
        if flat:
            return self._point(self._signs(self._numbers(c * w)).view(b, c, 1, w))
        side = max(1, min(h, w) // _TILES)
        down, across = h // side, w // side
        numbers = self._numbers((c + 1) * down * across).view(b, c + 1, down, across)
        numbers = numbers.repeat_interleave(side, 2).repeat_interleave(side, 3)
        tile = _profile(side).to(self.region.examples.clean)
        upright, lying = tile.repeat(down, across), tile.T.repeat(down, across)
        tiled = torch.where(numbers[:, -1:] < 0.5, lying, upright) * self._signs(numbers[:, :-1])
        signs = torch.zeros(b, c, h, w, dtype=tiled.dtype, device=tiled.device)
        top, left = (h - side * down) // 2, (w - side * across) // 2
        signs[:, :, top : top + side * down, left : left + side * across] = tiled
        return self._point(signs)

    def propose(self, share: float, *, flat: bool) -> Proposal:
        """A square, and another of its size."""
        b, c, h, w = self._shape
        side = max(1, round((share * h * w) ** 0.5))
        if not flat:
            side = max(_NARROWEST, side + (side % 2 == 0))
        side = min(side, h, w)
        numbers = self._numbers(5 + c)
        signs = self._signs(numbers[:, 5:]).view(b, c, 1, 1)
        down, across = self._places(side, numbers[:, :2])
        inside, beside = (
            _within(side, *self._places(side, numbers[:, at : at + 2])) for at in (0, 2)
        )
        profile = torch.ones(side, side) if flat else _profile(side)
        profile = profile.to(signs)
        down, across = (one.clamp(0, side - 1) for one in (down, across))
        place = (down[:, :, None], across[:, None, :])
        lying, upright = profile.T[place], profile[place]
        shape = torch.where(numbers[:, 4].view(-1, 1, 1) < 0.5, lying, upright)[:, None]
        return Proposal(
            self._point(inside),
            self._point(signs * torch.where(inside, shape, 0.0)),
            self._point(beside),
        )

    def norm(self, delta: Tensor) -> Tensor:
        """Of each channel, (b, C, 1, 1) in the shape of the point."""
        wide = delta.view(self._shape)
        length: Tensor = torch.linalg.vector_norm(wide, dim=(2, 3), keepdim=True)
        return length.expand_as(wide).reshape(delta.shape)

    def _point(self, values: Tensor) -> Tensor:
        """In the shape of the point."""
        return values.expand(self._shape).reshape(self.region.examples.clean.shape)

    def _places(self, side: int, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """How far below and right of a square's corner each row and column is, (b, h), (b, w)."""
        found = []
        for length, number in zip(self._shape[2:], numbers.T, strict=True):
            corner = (number * (length - side + 1)).long()
            found.append(torch.arange(length, device=corner.device) - corner[:, None])
        return found[0], found[1]


class Spans(Windows):
    """Of what a layer or the embeddings compute, (B, T, …): runs of tokens, and some dimensions."""

    def start(self, *, flat: bool) -> Tensor:
        """One sign a dimension, the same for all tokens."""
        b, _, d = self._shape
        return self._point(self._signs(self._numbers(d)).view(b, 1, d))

    def propose(self, share: float, *, flat: bool) -> Proposal:
        """A run of tokens, or some dimensions of one, and another of its size."""
        b, _, d = self._shape
        numbers = self._numbers(2 + 3 * d)
        signs, keys = numbers[:, 2 : 2 + d], numbers[:, 2 + d :].view(b, 2, d)
        inside, beside = (
            self._window(share, numbers[:, place], keys[:, place]) for place in (0, 1)
        )
        laid = self._signs(signs).view(b, 1, d) * inside
        return Proposal(self._point(inside), self._point(laid), self._point(beside))

    def norm(self, delta: Tensor) -> Tensor:
        """Of each part that the ball measures by itself."""
        return self.region.ball.norm(delta)

    @property
    def _shape(self) -> tuple[int, int, int]:
        shape = self.region.examples.clean.shape
        tokens = 1 if len(shape) == 2 else shape[1]
        return shape[0], tokens, shape[1:].numel() // tokens

    def _point(self, values: Tensor) -> Tensor:
        """In the shape of the point, 0 where it may not move."""
        shaped = values.expand(self._shape).reshape(self.region.examples.clean.shape)
        free = self.region.examples.mask
        return shaped & (free != 0) if shaped.dtype == torch.bool else shaped * free

    def _window(self, share: float, place: Tensor, keys: Tensor) -> Tensor:
        """(b, T, D): counted in tokens that may move, so that padding shifts none."""
        free = self.region.examples.mask.reshape(self._shape).amax(2) > 0
        count = free.sum(1)
        asked = share * count
        tokens = asked.round().clamp_min(1)
        first = (place * (count - tokens + 1).clamp_min(0)).floor()
        rank = free.cumsum(1) - 1
        chosen = free & (rank >= first[:, None]) & (rank < (first + tokens)[:, None])
        wanted = (asked.clamp_max(1) * keys.shape[1]).round().clamp_min(1)
        some = keys.argsort(1).argsort(1) < wanted[:, None]
        return chosen[:, :, None] & some[:, None, :]


def windows_of(region: Region, seed: int) -> Windows:
    """Squares of images, spans of anything else."""
    kind = Squares if region.examples.view.pictures else Spans
    return kind(region, region.streams(seed))


def _within(side: int, down: Tensor, across: Tensor) -> Tensor:
    """(b, 1, h, w): both are in [0, side)."""
    rows, columns = ((one >= 0) & (one < side) for one in (down, across))
    return rows[:, None, :, None] & columns[:, None, None, :]


def _profile(side: int) -> Tensor:
    """η: a mound and a pit beside it, ‖η‖ = 1, (side, side)."""
    upper = side // 2
    whole: Tensor = torch.cat([_mound(upper, side), -_mound(side - upper, side)])
    whole /= whole.norm()
    return whole


def _mound(rows: int, columns: int) -> Tensor:
    """Σ_{k ≥ d} 1/(k + 1)², d the larger distance from the middle in rows or columns, of norm 1."""
    if rows == 0:
        return torch.zeros(0, columns, dtype=torch.float64)
    reach = max(rows, columns) // 2 + 1
    terms = 1 / torch.arange(1, reach + 1, dtype=torch.float64) ** 2
    tails = terms.flip(0).cumsum(0).flip(0)
    down, across = ((torch.arange(n) - n // 2).abs() for n in (rows, columns))
    mound: Tensor = tails[torch.maximum(down[:, None], across[None, :])]
    mound /= mound.norm()
    return mound
