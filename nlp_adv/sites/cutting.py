"""What of a batch belongs to which of its rows."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from copy import copy
from typing import Any

import torch
from torch import Tensor

from nlp_adv.errors import UserError
from nlp_adv.perturbation import Segments


def rows_in(batch: Mapping[str, Any]) -> int:
    """How many examples a batch has."""
    for key in ("input_ids", "pixel_values", "labels"):
        value = batch.get(key)
        if isinstance(value, Tensor) and value.ndim:
            return len(value)
    return next(len(v) for v in batch.values() if isinstance(v, Tensor) and v.ndim)


def some_of(value: Any, kept: Tensor, size: int) -> Any:
    """What some rows of a batch of so many have of it; all of what is not one thing a row.

    Args:
        value: a tensor, a list or anything else in a batch.
        kept: (B,), true for the rows, or their indices.
        size: B.
    """
    if isinstance(value, Segments):
        return value[kept]
    if isinstance(value, Tensor):
        return value[kept.to(value.device)] if value.ndim and len(value) == size else value
    if isinstance(value, list | tuple) and len(value) == size:
        places = kept.nonzero().flatten() if kept.dtype == torch.bool else kept
        return type(value)(value[place] for place in places.tolist())
    return value


def batch_of(batch: Mapping[str, Any], kept: Tensor, size: int) -> Mapping[str, Any]:
    """The batch that has some of the rows, of its own type."""
    found: MutableMapping[str, Any] = (
        copy(batch) if isinstance(batch, MutableMapping) else dict(batch)
    )
    for key, value in batch.items():
        found[key] = some_of(value, kept, size)
    return found


def refuse_uncertain(batch: Mapping[str, Any], size: int) -> None:
    """Refuse a batch in which something has neither one thing a row nor one for all rows.

    Raises:
        UserError: with its name.
    """
    for key, value in batch.items():
        if isinstance(value, Tensor):
            certain = value.ndim == 0 or len(value) in (size, 1)
            shape = f"the shape {tuple(value.shape)}"
        else:
            certain = not isinstance(value, Mapping | list | tuple) or (
                not isinstance(value, Mapping) and len(value) == size
            )
            shape = f"the type {type(value).__name__}"
        if not certain:
            raise UserError(
                f"A share of the rows (--adv_share) cannot be cut out of this batch of {size}: "
                f"{key} has {shape}, so that its rows are not known; leave the share off."
            )
