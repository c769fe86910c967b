"""Several texts packed in one row: where one ends and the next begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nlp_adv.perturbation import Segments


def texts_in(
    ids: Tensor,
    real: Tensor | None,
    calls: Sequence[Mapping[str, Any]],
    *,
    pad_id: int | None = None,
) -> tuple[Tensor, Segments] | None:
    """Which tokens are real, (B, T), and their texts; None where no row holds several.

    `seq_idx` and `cu_seq_lens_q` say it outright. `position_ids` do where they start again behind a
    real token; padding in front of a text or behind it starts nothing.

    Args:
        ids: (B, T).
        real: (B, T), of an attention mask; without one all is real, but for padding that fills up a
            packed row.
        calls: what may tell, the first that does: calls of the modules around, and the batch.
        pad_id: of padding.

    Cost: waits for the device, once for a batch that has one of the three.
    """
    starts, filled = _starts(ids, real, calls)
    if starts is None:
        return None
    if real is None:
        real = torch.ones_like(ids, dtype=torch.bool)
        if filled is not None and pad_id is not None:
            padding = filled & (ids == pad_id)
            real = padding.int().flip(1).cumprod(1).flip(1) == 0
            starts = starts & real
    texts = (starts.long().cumsum(1) - 1).clamp_min(0)
    count = 1 + int(texts.max())
    return (real, Segments(texts, count)) if count > 1 else None


def _starts(
    ids: Tensor, real: Tensor | None, calls: Sequence[Mapping[str, Any]]
) -> tuple[Tensor | None, Tensor | None]:
    """Where a text begins; and what padding behind the last text would look like."""
    numbers = _told(calls, "seq_idx")
    if numbers is not None and numbers.shape == ids.shape:
        return _changes(numbers != _before(numbers)), None
    bounds = _told(calls, "cu_seq_lens_q")
    if bounds is not None and bounds.ndim == 1 and len(ids) == 1:
        starts = torch.zeros_like(ids, dtype=torch.bool)
        inside = bounds[bounds < ids.shape[1]].long()
        return starts.index_fill(1, inside.to(ids.device), True), None
    positions = _told(calls, "position_ids")
    if positions is None or positions.ndim != 2 or positions.shape[1] != ids.shape[1]:
        return None, None
    positions = positions.expand_as(ids)
    again = positions <= _before(positions)
    if real is None:
        return _changes(again), positions == positions[:, :1]
    return real & _changes(again | ~_before(real)), None


def _told(calls: Sequence[Mapping[str, Any]], name: str) -> Tensor | None:
    return next((call[name] for call in calls if isinstance(call.get(name), Tensor)), None)


def _before(values: Tensor) -> Tensor:
    """Each token's predecessor in the row; the first has itself."""
    return torch.cat([values[:, :1], values[:, :-1]], 1)


def _changes(starts: Tensor) -> Tensor:
    """A row begins with a text."""
    return torch.cat([torch.ones_like(starts[:, :1]), starts[:, 1:]], 1)
