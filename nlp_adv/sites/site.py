"""A site is where δ enters a model; an entry is one minibatch there.

    site = LayerSite("bert.encoder.layer.3")
    entry = site.enter(model, batch)        # x, the mask, bounds, names
    entry.run(model, delta)                 # the loss and logits at x + δ

Training (`objective`) and attacks build on entries alone, so that neither knows of modalities.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from nlp_adv.columns import ADV_MASK, ADV_ROWS
from nlp_adv.errors import UserError
from nlp_adv.perturbation import FirstBlock, ForwardFn, Output, Segments, model_forward
from nlp_adv.sites.cutting import batch_of, refuse_uncertain, rows_in, some_of


class Site(Protocol):
    """Where δ enters a model.

    One site serves one model at a time; during a run its hooks stay in the model.
    """

    def enter(
        self,
        model: nn.Module,
        batch: Mapping[str, Any],
        *,
        mask: Tensor | None = None,
        special_ids: Sequence[int] = (),
        forward: ForwardFn = model_forward,
        generators: Sequence[Any] = (),
    ) -> Entry:
        """The minibatch at this site.

        Args:
            model: wrapped or not.
            batch: what its forward takes; it is not changed. Its column "adv_mask" is a mask.
            mask: 1 where δ may move, (B, T) for tokens or the shape of δ, multiplied with the
                site's own.
            special_ids: ids whose tokens are not perturbed.
            forward: (model, batch) → Output; a copy of the batch is given to every pass.
            generators: sources of random numbers beside the global ones, put back after the look
                at the clean point.

        Raises:
            UserError: model, batch and site do not fit together, or nothing may move.
        """
        ...

    def run(self, entry: Entry, model: nn.Module, delta: Tensor | None) -> Output:
        """See `Entry.run`."""
        ...

    def first_block(
        self, entry: Entry, model: nn.Module, name: str | None, generators: Sequence[Any]
    ) -> FirstBlock:
        """See `Entry.first_block`."""
        ...

    def install(self, model: nn.Module) -> None:
        """Put the hooks into the model, for a whole run."""
        ...

    def remove(self) -> None:
        """Take them away."""
        ...

    def prefix_once(
        self, entry: Entry, model: nn.Module, generators: Sequence[Any]
    ) -> Callable[[], AbstractContextManager[None]]:
        """Blocks that are a pass each; from the second on, what lies below δ is not computed again.

        Raises:
            StepError: it cannot be known, or there is nothing below δ.
        """
        ...

    def installed(self, model: nn.Module) -> AbstractContextManager[None]:
        """The hooks for the time of a block, where they are not there for longer."""
        ...


@dataclass(frozen=True, eq=False)
class Entry:
    """A minibatch at a site.

    Args:
        site: the site.
        batch: what the model's forward takes.
        forward: (model, batch) → Output.
        x: the clean point, the shape of δ, detached.
        mask: 1 where δ may move, the shape of δ, float32 or wider.
        content: what the examples consist of, for their names: ids (B, T), or pixels.
        real: (B, T), true for the tokens of `content` that are no padding; None for pixels.
        free: (B, T), true for those that δ moves; None where δ has no tokens.
        tokens: (B, T), true where an output of a token counts in a comparison of outputs.
        texts: the texts of such tokens, where a row holds several.
        low, high: bounds of δ, the shape of δ, as pixels have them.
        table, ids: the matrix that x is looked up in, and the rows of it, where there is one.
        segments: which of several modules, calls and packed texts each token of δ belongs to; None
            for one.
        parts: what the site remembers of each call of a module.
        calls: of each module, which of its calls δ enters.
        kind: where a look at the next minibatch remembers these calls.
    """

    site: Site
    batch: Mapping[str, Any]
    forward: ForwardFn
    x: Tensor
    mask: Tensor
    content: Tensor
    real: Tensor | None = None
    free: Tensor | None = None
    tokens: Tensor | None = None
    texts: Segments | None = None
    low: Tensor | None = None
    high: Tensor | None = None
    table: nn.Parameter | None = None
    ids: Tensor | None = None
    segments: Segments | None = None
    parts: tuple[Any, ...] = field(default=(), repr=False)
    calls: tuple[tuple[bool, ...], ...] = ((True,),)
    kind: Any = field(default=None, repr=False)

    def __len__(self) -> int:
        """How many examples δ has."""
        return len(self.x)

    def run(self, model: nn.Module, delta: Tensor | None = None) -> Output:
        """The loss and logits at x + δ, of the model on a copy of the batch.

        Args:
            model: the one that was entered, wrapped or not.
            delta: the shape of x, 0 where the mask is; None runs the model untouched.
        """
        return self.site.run(self, model, delta)

    def first_block(
        self, model: nn.Module, name: str | None = None, generators: Sequence[Any] = ()
    ) -> FirstBlock:
        """The first block behind δ, for YOPO.

        Args:
            model: as for `run`.
            name: of the module, where it is not found.
            generators: as in `enter`.

        Raises:
            UserError: it is not found.
        """
        return self.site.first_block(self, model, name, generators)

    def names(self) -> list[str]:
        """A name for each example: what it consists of, whatever batch and padding it comes in.

        Of the ids that are no padding (and of which of them δ moves, where it does not move all),
        or of the pixels; never of hidden states, which rounding changes with the batch. Waits for
        the device once.
        """
        if self.real is None:
            return [_hashed(part) for part in _bytes(self.content)]
        return _names_of(*self._on_host())

    def segment_names(self) -> list[str]:
        """The same for each segment of each row, where δ has segments.

        A packed text is called what it is called alone. The n-th of a row's segments that consist
        of the same, as those of two modules or of two calls on one batch do, has an n behind it.
        """
        if self.segments is None:
            return self.names()
        index, rows = self.segments.index, list[list[str]]()
        if self.real is not None and self.real.shape == index.shape:
            ids, real, free, index = self._on_host(index)
            for number in range(self.segments.count):
                rows.append(_names_of(ids, real * (index == number), free))
        else:  # a module without tokens
            names = self.names()
            for number in range(self.segments.count):
                rows.append([f"{name}/{number}" for name in names])
        named = list[str]()
        for row in zip(*rows, strict=True):
            for place, name in enumerate(row):
                again = row[:place].count(name)
                named.append(f"{name}/{again}" if again else name)
        return named

    def _on_host(self, *more: Tensor) -> tuple[Tensor, ...]:
        """Ids, which are real, which of them δ moves, and more of their shape, in one journey."""
        ids, real = self.content, cast(Tensor, self.real)
        free = real if self.free is None else self.free
        return torch.stack([one.to(ids) for one in (ids, real, free, *more)]).cpu().unbind()

    def rows(self, kept: Tensor) -> Entry:
        """Some of the examples, without another look at the model.

        Args:
            kept: (B,), true for those that stay, or their indices.

        Raises:
            UserError: the rows of δ are not those of the batch, as in multiple choice.
        """
        size = rows_in(self.batch)
        if any(len(x) != size for x in (self.x, *(part.x for part in self.parts))):
            raise UserError(
                f"The batch has {size} examples and δ has {len(self.x)} rows, so that single "
                f"examples cannot be taken out of it (multiple choice has a row for each choice)."
            )
        own = ["x", "mask", "content", "real", "free", "tokens", "texts", "low", "high", "ids"]
        changed = {name: some_of(getattr(self, name), kept, size) for name in [*own, "segments"]}
        changed["parts"] = tuple(
            replace(part, x=some_of(part.x, kept, size), ids=some_of(part.ids, kept, size))
            for part in self.parts
        )
        return replace(self, batch=batch_of(self.batch, kept, size), **changed)

    def certain_rows(self, kept: Tensor) -> Entry:
        """The same, of a batch of which it is certain what belongs to which row.

        Raises:
            UserError: it is not.
        """
        refuse_uncertain(self.batch, rows_in(self.batch))
        return self.rows(kept)


def _names_of(ids: Tensor, real: Tensor, free: Tensor) -> list[str]:
    """A name for the real tokens of each row, with which of them move where not all do."""
    names = []
    for row, there, moves in zip(ids, real > 0, free > 0, strict=True):
        words: Any = row[there].tolist()
        moved = moves[there]
        content = words if bool(moved.all()) else (words, moved.tolist())
        names.append(_hashed(repr(content).encode()))
    return names


def _hashed(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=12).hexdigest()


def _bytes(content: Tensor) -> list[bytes]:
    rows = content.detach().contiguous().cpu().flatten(1)
    return [row.view(torch.uint8).numpy().tobytes() for row in rows]


def own_mask(batch: Mapping[str, Any], mask: Tensor | None) -> Tensor | None:
    """The user's mask: the argument times the batch's column, where there are both.

    Raises:
        UserError: it is no tensor, or the two differ in shape.
    """
    column = batch.get(ADV_MASK)
    for given in (mask, column):
        if given is not None and not isinstance(given, Tensor):
            raise UserError(f"A mask of δ is a tensor (B, T), not a {type(given).__name__}.")
    if not isinstance(column, Tensor):
        return mask
    if mask is None:
        return column
    if mask.shape != column.shape:
        raise UserError(
            f"The argument mask {tuple(mask.shape)} and the batch's {ADV_MASK} "
            f"{tuple(column.shape)} differ in shape; give one of them."
        )
    return mask.to(column.device) * column


def without_mask(batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the model sees of the batch."""
    ours = (ADV_MASK, ADV_ROWS)
    if not any(name in batch for name in ours):
        return batch
    return {key: value for key, value in batch.items() if key not in ours}


def refuse_nothing(mask: Tensor, why: str) -> None:
    """Refuse a mask that holds δ at 0 everywhere; waits for the device.

    Raises:
        UserError: with the cause that is given.
    """
    if not bool((mask != 0).any()):
        raise UserError(f"No token of a batch may move, so that δ would stay 0: {why}.")
