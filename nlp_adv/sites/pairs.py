"""Pairs of completions of one prompt as a function of one δ, which lies on the prompt.

A paired batch has the rows [rejected | chosen | utility] (see `nlp_adv.data.pairs`). δ is that of
the P prompts, (P, T, D). It is tiled over the completions of each prompt, and utility rows have
none; so losses on all of them come out of one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from nlp_adv.columns import ADV_ROWS, CHOSEN, COMPLETION_MASK, REJECTED, UTILITY
from nlp_adv.errors import UserError
from nlp_adv.perturbation import (
    Completions,
    ForwardFn,
    Labelled,
    Output,
    StepError,
    completions,
    unwrapped,
)
from nlp_adv.perturbation.evaluating import evaluating
from nlp_adv.perturbation.hidden import Hidden
from nlp_adv.sites.cutting import batch_of
from nlp_adv.sites.layer import heard_blocks
from nlp_adv.sites.site import Entry, Site, without_mask
from nlp_adv.sites.span import NO_LABEL, Span

GROUPS: dict[str, tuple[int, bool]] = {
    "rejected": (REJECTED, True),
    "chosen": (CHOSEN, True),
    "rejected_clean": (REJECTED, False),
    "chosen_clean": (CHOSEN, False),
    "utility": (UTILITY, False),
}
"""Of each group that a method may ask for: its rows, and whether δ enters them."""


@dataclass(eq=False)
class Pairs:
    """A paired batch at a site.

    Args:
        model: wrapped or not.
        entry: the rejected rows there, whose prompts δ lies on; of a batch without a pair one
            utility row, which nothing may move.
        batch: what the model sees, without labels.
        labels: (R, T), the completions of all rows, −100 elsewhere.
        rows: of each group of rows, their numbers in the batch.
        reference_model: a frozen one, where the adapter cannot be switched off.
    """

    model: nn.Module
    entry: Entry
    batch: Mapping[str, Any]
    labels: Tensor
    rows: dict[int, Tensor]
    reference_model: nn.Module | None = None
    _rows_of: dict[tuple[str, ...], tuple[Tensor, int]] = field(default_factory=dict)
    _labels_of: dict[tuple[str, ...], Labelled] = field(default_factory=dict)

    def __len__(self) -> int:
        """How many pairs it has."""
        return len(self.rows[REJECTED])

    def ordinary(self, delta: Tensor | None) -> Output:
        """There is no such loss.

        Raises:
            StepError: always.
        """
        raise StepError(
            "This minibatch holds pairs of completions, and this method does not read completions: "
            "take cat, capo, lat or rr, or a batch without the column adv_rows."
        )

    def run(self, groups: tuple[str, ...]) -> Callable[[Tensor | None], Output]:
        """δ → what the model finds of the completions of these groups, in one forward pass.

        Columns that none of their rows needs are left away.
        """
        kept, width = self._kept(groups)
        owners, moves = [], []
        for number, moved in (GROUPS[name] for name in groups):
            own = self.rows[number]
            owners.append(torch.arange(len(own), device=own.device) * int(moved))
            moves.append(torch.full_like(own, int(moved)))
        source = torch.cat(owners)  # the pair whose δ a row has
        enters = torch.cat(moves).to(self.entry.mask.dtype)[:, None, None]
        entry = _cut(self.entry, source, self._batch(kept, width), width)

        def run(delta: Tensor | None) -> Output:
            if delta is not None:
                delta = _columns(delta, self.entry, width)[source] * enters
            found = self._found(entry.run(self.model, delta).logits, groups)
            return Output(self.entry.mask.new_zeros(()), None, False, found)

        return run

    def reference(self, groups: Sequence[str]) -> Mapping[str, Completions]:
        """The same at the clean point, of the model as it was before training, without a graph.

        That is the model with its adapter switched off, or the frozen one that was given; in
        evaluation mode.

        Raises:
            StepError: there is neither.
        """
        with self._before() as model:
            return self._found(self._clean(model, tuple(groups)).logits, tuple(groups))

    def run_hidden(self, groups: tuple[str, ...]) -> Callable[[Tensor | None], Output]:
        """What each block makes of clean groups, in one forward pass; δ does not enter it."""

        def run(delta: Tensor | None) -> Output:
            with heard_blocks(self.model) as layers:
                logits = self._clean(self.model, groups).logits
            if logits is not None and logits.requires_grad > layers[0].requires_grad:
                raise StepError(
                    "The outputs of the model's blocks have no gradient where its logits have one, "
                    "so that nothing can be trained on them; let no hook or checkpointing cut it "
                    "(gradient_checkpointing_kwargs={'use_reentrant': False})."
                )
            if logits is not None and unwrapped(self.model) is not self.model:
                # DDP waits for a gradient of all weights that lead to what a pass returns.
                layers[-1] = layers[-1] + 0.0 * logits.flatten()[:1].to(layers[-1].dtype)
            hidden = self._hidden(layers, groups)
            return Output(self.entry.mask.new_zeros(()), None, False, hidden=hidden)

        return run

    def hidden_before(self, groups: Sequence[str]) -> Mapping[str, Hidden]:
        """The same, of the model as it was before training, without a graph.

        Raises:
            StepError: as `reference` does.
        """
        with self._before() as model, heard_blocks(model) as layers:
            self._clean(model, tuple(groups))
        return self._hidden(layers, tuple(groups))

    @contextmanager
    def _before(self) -> Iterator[nn.Module]:
        """The model as it was before training, in evaluation mode; no graph in the block."""
        inner = self.reference_model or unwrapped(self.model)
        off = getattr(inner, "disable_adapter", None)
        if self.reference_model is None and off is None:
            raise StepError(
                "This method compares the model with what it was before training: train an adapter "
                "(LoRA), which can be switched off, or give objective(…, reference=frozen_model)."
            )
        switched = nullcontext if self.reference_model is not None or off is None else off
        with torch.no_grad(), evaluating(inner), switched():
            yield inner

    def _clean(self, model: nn.Module, groups: tuple[str, ...]) -> Output:
        """A model's output on the rows of these groups, without δ."""
        return self.entry.forward(model, dict(self._batch(*self._kept(groups))))

    def _hidden(self, layers: Sequence[Tensor], groups: tuple[str, ...]) -> dict[str, Hidden]:
        """Each group's share of the rows."""
        kept, width = self._kept(groups)
        real = self.batch["attention_mask"][kept, :width] != 0
        every = Hidden(tuple(layers), real, self.labels[kept, :width] != NO_LABEL)
        return {name: every[rows] for name, rows in self._slices(groups).items()}

    def _slices(self, groups: tuple[str, ...]) -> dict[str, slice]:
        """Where the rows of each group are among those of all of them."""
        found, end = {}, 0
        for name in groups:
            begin, end = end, end + len(self.rows[GROUPS[name][0]])
            found[name] = slice(begin, end)
        return found

    def _found(self, logits: Tensor | None, groups: tuple[str, ...]) -> dict[str, Completions]:
        """The completions of each group, of the logits of all their rows."""
        wanted = self._labelled(groups)
        if logits is None or logits.shape[:2] != wanted.tokens.shape:
            shape = "none" if logits is None else str(tuple(logits.shape))
            raise StepError(
                f"Losses on completions need logits (R, T, V) of a language model for rows "
                f"{tuple(wanted.tokens.shape)}, and the model returns {shape}."
            )
        every = completions(logits, wanted)
        return {name: every[rows] for name, rows in self._slices(groups).items()}

    def _batch(self, kept: Tensor, width: int) -> Mapping[str, Any]:
        """What the model is given of some rows, up to a column."""
        size, tokens = self.labels.shape
        cut = {
            key: value[:, :width]
            if isinstance(value, Tensor) and value.shape[:2] == (size, tokens)
            else value
            for key, value in self.batch.items()
        }
        return batch_of(cut, kept, size)

    def _kept(self, groups: tuple[str, ...]) -> tuple[Tensor, int]:
        """The rows of these groups, and the longest one's length.

        Waits for the device, once for each set of groups, as `_labelled` does.
        """
        unknown = [name for name in groups if name not in GROUPS]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is no group of rows; there are {', '.join(GROUPS)}.")
        if groups not in self._rows_of:
            kept = torch.cat([self.rows[GROUPS[name][0]] for name in groups])
            if not len(kept):
                raise StepError(
                    f"A minibatch has no row of {', '.join(groups)}, so that no loss of it would "
                    f"train anything; let every minibatch have a pair, or a utility row with "
                    f"weight."
                )
            self._rows_of[groups] = kept, int(self.batch["attention_mask"][kept].sum(1).max())
        return self._rows_of[groups]

    def _labelled(self, groups: tuple[str, ...]) -> Labelled:
        """Where the completions of these groups are."""
        if groups not in self._labels_of:
            kept, width = self._kept(groups)
            self._labels_of[groups] = Labelled.of(self.labels[kept, :width])
        return self._labels_of[groups]


def pairs_of(
    model: nn.Module,
    batch: Mapping[str, Any],
    site: Site,
    *,
    span: Span | None,
    mask: Tensor | None,
    special_ids: Sequence[int],
    forward: ForwardFn,
    generators: Sequence[Any],
    reference: nn.Module | None,
) -> Pairs:
    """A batch with the column adv_rows at a site; arguments are those of `objective`.

    Raises:
        UserError: its halves have unlike prompts or are not padded on the right, its rows are
            packed, or it lacks a column.
    """
    ids, groups = batch.get("input_ids"), batch[ADV_ROWS]
    labels = _completed(batch)
    if not isinstance(ids, Tensor) or labels is None or len(groups) != len(ids):
        raise UserError(
            "A paired batch needs input_ids and completion_mask (R, T) and adv_rows (R,), as "
            "nlp_adv.data.pairs.PairCollator makes it."
        )
    if span not in (None, "prompt"):
        raise UserError(
            f"Of pairs δ lies on the prompt, which both completions share; span={span} "
            f"(--adv_span) is for rows of one completion, leave it off."
        )
    rows = {number: (groups == number).nonzero()[:, 0] for number in (REJECTED, CHOSEN, UTILITY)}
    ours = ("labels", COMPLETION_MASK)
    seen = {key: value for key, value in without_mask(batch).items() if key not in ours}
    seen.setdefault("attention_mask", torch.ones_like(ids))
    if hasattr(getattr(unwrapped(model), "config", None), "use_cache"):
        seen["use_cache"] = (
            False  # a cache of keys is wrong where only some blocks are checkpointed
        )
    _check(seen, labels, rows)
    prompt = seen["attention_mask"] * (labels == NO_LABEL)
    some = rows[REJECTED] if len(rows[REJECTED]) else rows[UTILITY][:1]
    moves = prompt[some] if len(rows[REJECTED]) else torch.ones_like(prompt[some])
    if mask is not None:
        moves = moves * mask.to(moves.device)[some]
    if not bool(moves.any()):
        raise UserError("No pair of a batch has a token in its prompt, so that δ would stay 0.")
    one = batch_of(seen, some, len(ids))
    entry = site.enter(
        model, one, mask=moves, special_ids=special_ids, forward=forward, generators=generators
    )
    if not len(rows[REJECTED]):
        entry = replace(entry, mask=torch.zeros_like(entry.mask))
    if any(part.tokens is not None and part.tokens.texts is not None for part in entry.parts):
        raise UserError(
            "Several texts are packed in a row of a paired batch, where one δ lies on the prompt "
            "of each row; leave packing off."
        )
    return Pairs(model, entry, seen, labels, rows, reference)


def _completed(batch: Mapping[str, Any]) -> Tensor | None:
    """(R, T): the ids of all completions, −100 elsewhere."""
    ids, mask = batch.get("input_ids"), batch.get(COMPLETION_MASK)
    if not isinstance(mask, Tensor) or not isinstance(ids, Tensor) or mask.shape != ids.shape:
        return None
    return ids.masked_fill(mask == 0, NO_LABEL)


def _check(batch: Mapping[str, Any], labels: Tensor, rows: dict[int, Tensor]) -> None:
    """Both halves begin with the same prompts, at the left margin; waits for the device."""
    chosen, rejected = rows[CHOSEN], rows[REJECTED]
    if len(chosen) != len(rejected):
        raise UserError(
            f"A paired batch has {len(chosen)} chosen and {len(rejected)} rejected rows; it needs "
            f"one of each for every prompt, in the same order."
        )
    real = batch["attention_mask"] != 0
    if bool((real[:, 1:] & ~real[:, :-1]).any()):
        raise UserError(
            "A paired batch is padded on the left, where prompts of one length would lie at unlike "
            "places; pad it on the right."
        )
    prompts = batch["input_ids"].masked_fill(~real | (labels != NO_LABEL), -1)
    if bool((prompts[chosen] != prompts[rejected]).any()):
        raise UserError(
            "The prompts of chosen and rejected rows differ in a paired batch; one δ on the prompt "
            "serves both, so give both the same prompt."
        )


def _cut(entry: Entry, source: Tensor, batch: Mapping[str, Any], width: int) -> Entry:
    """The entry of other rows, which take their δ from these, up to a column."""
    parts = tuple(
        replace(part, x=part.x[:, :width] if part.x.ndim == 3 else part.x)
        for part in entry.rows(source).parts
    )
    mask = _columns(entry.mask, entry, width)[source]
    return replace(entry, batch=batch, parts=parts, mask=mask)


def _columns(delta: Tensor, entry: Entry, width: int) -> Tensor:
    """The first columns of each module's share of δ."""
    if delta.ndim != 3:
        return delta
    shares = torch.split(delta, [part.width for part in entry.parts], dim=1)
    return torch.cat([share[:, :width] for share in shares], 1)
