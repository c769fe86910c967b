"""Columns that only the perturbation sees: a token mask, and which rows are pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from transformers import Trainer

from nlp_adv.columns import ADV_MASK, ADV_ROWS, CHOSEN, COMPLETION_MASK, REJECTED
from nlp_adv.errors import UserError
from nlp_adv.sites.cutting import batch_of
from nlp_adv.training.replaced import replaced_attributes

if TYPE_CHECKING:  # the mixin goes before any Trainer; only the type checker takes it for one
    _Trainer = Trainer
else:
    _Trainer = object


class MaskMixin(_Trainer):
    """The Trainer's data with columns that the model does not see.

    `adv_mask` is hidden from collators too. Of a paired batch (`nlp_adv.data.pairs`) the Trainer
    itself, its loss and its evaluation see the rows that ordinary training learns: chosen and
    utility.
    """

    _adv_mask: Tensor | None = None
    """That of the micro-batch in hand."""
    _pairs: Mapping[str, Any] | None = None
    """All rows of it, where it is paired."""

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        columns = cast("list[str]", self._signature_columns)
        wanted = (ADV_MASK, *getattr(self.data_collator, "columns", ()))
        columns += [name for name in wanted if name not in columns]

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        tokenizer = getattr(self.data_collator, "tokenizer", None) or self.processing_class
        side = getattr(tokenizer, "padding_side", "right")
        with replaced_attributes(self, data_collator=CollatesMask(self.data_collator, side)):
            return super()._get_dataloader(*args, **kwargs)

    def _prepare_inputs(self, inputs: Any) -> Any:
        prepared = super()._prepare_inputs(inputs)
        if isinstance(prepared, Mapping) and ADV_MASK in prepared:
            self._adv_mask = prepared[ADV_MASK]
            prepared = copy(prepared)  # the same batch may come again
            del prepared[ADV_MASK]
        if isinstance(prepared, Mapping) and ADV_ROWS in prepared:
            self._pairs, prepared = prepared, learnt_rows(prepared)
        return prepared


def learnt_rows(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The rows of a paired batch that ordinary training learns, as the model takes them.

    Waits for the device.
    """
    groups = batch[ADV_ROWS]
    kept = (groups != REJECTED).nonzero()[:, 0]
    rows = batch_of(batch, kept, len(groups))
    return {key: value for key, value in rows.items() if key not in (ADV_ROWS, COMPLETION_MASK)}


def preferences(batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """A batch of trl's DPOTrainer as a paired one: its rows are [chosen | rejected]."""
    ids, completed = batch.get("input_ids"), batch.get(COMPLETION_MASK)
    if not isinstance(ids, Tensor) or not isinstance(completed, Tensor) or len(ids) % 2:
        return batch
    numbers = torch.tensor([CHOSEN, REJECTED], device=ids.device)
    known = ("input_ids", "attention_mask", COMPLETION_MASK)
    given = {key: batch[key] for key in known if key in batch}
    return given | {ADV_ROWS: numbers.repeat_interleave(len(ids) // 2)}


class CollatesMask:
    """A collator that pads `adv_mask` as the user's pads the ids: with 0, which holds δ still.

    Args:
        collator: the user's; it does not see the column.
        side: where the tokenizer pads, "right" or "left".
    """

    def __init__(self, collator: Callable[[list[Any]], Any], side: str) -> None:
        self.collator, self.side = collator, side
        self.columns: Sequence[str] = getattr(collator, "columns", ())

    def __call__(self, features: list[Any]) -> Any:
        """The user's batch, with the masks of its rows, (B, T).

        Raises:
            UserError: some rows have no mask, or one that does not fit the row's ids.
        """
        having = [isinstance(row, Mapping) and ADV_MASK in row for row in features]
        if not any(having):
            return self.collator(features)
        if not all(having):
            raise UserError(f"Some rows of the data have the column {ADV_MASK}, and some do not.")
        masks = [_nested(row[ADV_MASK]) for row in features]
        for row, mask in zip(features, masks, strict=True):
            _check(mask, row.get("input_ids"))
        rows = [{key: value for key, value in row.items() if key != ADV_MASK} for row in features]
        batch = self.collator(rows)
        batch[ADV_MASK] = self._like(masks, batch)
        return batch

    def _like(self, masks: list[Any], batch: Mapping[str, Any]) -> Tensor:
        ids = batch.get("input_ids")
        if not isinstance(ids, Tensor):
            return torch.as_tensor(masks)
        flat = [one for mask in masks for one in (mask if _is_nested(mask) else [mask])]
        lengths = [len(mask) for mask in flat]
        if len(flat) > 1 and ids.ndim == 2 and ids.shape == (1, sum(lengths)):  # packed in one row
            return torch.as_tensor([one for mask in flat for one in mask])[None]
        width = ids.shape[-1]
        if max(lengths) > width:
            raise UserError(
                f"The collator cuts rows to {width} tokens, and the column {ADV_MASK} has "
                f"{max(lengths)}: cut both before."
            )
        padded = [self._padded(mask, width) for mask in flat]
        return torch.as_tensor(padded).reshape(ids.shape)

    def _padded(self, mask: list[Any], width: int) -> list[Any]:
        missing = [0] * (width - len(mask))
        return missing + mask if self.side == "left" else mask + missing


def _nested(mask: Any) -> list[Any]:
    values = mask.tolist() if hasattr(mask, "tolist") else mask
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise UserError(f"{ADV_MASK} is a list of 0 and 1, one a token, not {mask!r}.")
    return list(values)


def _is_nested(values: Any) -> bool:
    return bool(len(values)) and isinstance(values[0], Sequence | Tensor)


def _check(mask: list[Any], ids: Any) -> None:
    """Refuse a mask that has not one number for each of the row's ids."""
    if ids is None or not len(ids):
        return
    pairs = [(mask, ids)]
    if _is_nested(ids) and len(mask) == len(ids) and _is_nested(mask):  # choices
        pairs = list(zip(mask, ids, strict=True))
    for one, row in pairs:
        if len(one) != len(row):
            raise UserError(
                f"A row has {len(row)} input_ids and an {ADV_MASK} of {len(one)}: it needs one "
                f"number for each token, 1 where δ may move."
            )
