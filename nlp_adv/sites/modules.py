"""δ on the output of one module of a model, or of several."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nlp_adv.errors import UserError
from nlp_adv.perturbation import (
    FirstBlock,
    ForwardFn,
    FrozenDropout,
    Output,
    Segments,
    blocks_after,
    copied,
    find_first_block,
    model_forward,
    unwrapped,
)
from nlp_adv.sites.parts import (
    Part,
    content_of,
    counted_in,
    joined,
    mask_of,
    part_of,
    restricted,
    why_nothing,
)
from nlp_adv.sites.site import Entry, own_mask, refuse_nothing, without_mask
from nlp_adv.sites.taps import Tap, look
from nlp_adv.sites.tokens import stacks

Spot = Callable[[nn.Module], Tap]
"""Finds a module in a model: the hook on it, not yet installed."""


class ModuleSite:
    """The outputs of modules, one δ for each: see `EmbeddingSite` and `LayerSite`.

    The δ of several modules lie one behind the other in the dimension of the tokens, (B, ΣT, D),
    narrow ones filled up with coordinates that never move. Each is a segment with a norm, a ball
    and a unit of its own.

    Args:
        spots: what finds each module.
    """

    def __init__(self, *spots: Spot) -> None:
        self._spots = spots
        self._model: nn.Module | None = None
        self._taps: list[Tap] = []

    def __add__(self, other: ModuleSite) -> ModuleSite:
        """The modules of both."""
        return ModuleSite(*self._spots, *other._spots)

    def taps(self, model: nn.Module) -> list[Tap]:
        """The hooks on this model's modules, found once.

        Raises:
            UserError: there is no such module.
        """
        model = unwrapped(model)
        if self._model is not model:
            self.remove()
            self._taps = [spot(model) for spot in self._spots]
            if len({(tap.module, tap.within) for tap in self._taps}) < len(self._taps):
                raise UserError("A site names one module twice; δ enters each of them once.")
            self._model = model
        return self._taps

    def install(self, model: nn.Module) -> None:
        """Put the hooks into the model, for a whole run."""
        for tap in self.taps(model):
            tap.install()

    def remove(self) -> None:
        """Take the hooks away, and forget the model."""
        for tap in self._taps:
            tap.remove()
        self._taps, self._model = [], None

    @contextmanager
    def installed(self, model: nn.Module) -> Iterator[None]:
        """The hooks for the time of a block, where they are not there for longer."""
        with ExitStack() as stack:
            for tap in self.taps(model):
                stack.enter_context(tap.installed())
            yield

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
        """See `Site.enter`. Cost: the forward pass up to the last of the modules."""
        own, batch = own_mask(batch, mask), without_mask(batch)
        taps = self.taps(model)
        rewind = FrozenDropout(device_of(model), generators)
        try:
            seen = look(taps, lambda: forward(unwrapped(model), copied(batch)))
        finally:
            rewind.restore()
        parts = tuple(part_of(tap, one, batch, model) for tap, one in zip(taps, seen, strict=True))
        masks = [mask_of(part, special_ids, model) for part in parts]
        if len(parts) == 1:
            x, site_mask, segments = parts[0].x, masks[0], None
        else:
            x, site_mask, segments = joined([part.x for part in parts], masks)
        moves = restricted(site_mask, own, parts)
        if own is not None or special_ids:
            refuse_nothing(moves, why_nothing(own, special_ids))
        return self._entry(batch, forward, parts, x, moves, segments, special_ids)

    def _entry(
        self,
        batch: Mapping[str, Any],
        forward: ForwardFn,
        parts: tuple[Part, ...],
        x: Tensor,
        mask: Tensor,
        segments: Segments | None,
        special_ids: Sequence[int],
    ) -> Entry:
        first = parts[0]
        weight = getattr(first.tap.module, "weight", None)
        looked_up = len(parts) == 1 and first.embeds and isinstance(weight, nn.Parameter)
        with_tokens = [part.tokens for part in parts if part.tokens is not None]
        return Entry(
            site=self,
            batch=batch,
            forward=forward,
            x=x,
            mask=mask,
            **content_of(batch, with_tokens, mask),
            tokens=counted_in(with_tokens, special_ids, batch),
            table=weight if looked_up else None,
            ids=first.ids if looked_up else None,
            segments=segments,
            parts=parts,
        )

    def run(self, entry: Entry, model: nn.Module, delta: Tensor | None) -> Output:
        """See `Entry.run`."""
        inputs = copied(entry.batch)
        with ExitStack() as stack:
            # Without δ the same hooks, hence the same compiled graph, as with it.
            stack.enter_context(self.installed(model))
            taps = self.taps(model)
            for part, tap, one in zip(entry.parts, taps, self._shares(entry, delta), strict=True):
                if one is None:
                    stack.enter_context(tap.unchecked())
                else:
                    stack.enter_context(tap.adding(part.give(one)))
            return entry.forward(model, inputs)

    def _shares(self, entry: Entry, delta: Tensor | None) -> list[Tensor | None]:
        """Each module's share of δ, in the shape of its x."""
        if delta is None:
            return [None] * len(entry.parts)
        if len(entry.parts) == 1:
            return [delta]
        shares: list[Tensor | None] = []
        start = 0
        for part in entry.parts:
            rows = part.x if part.x.ndim == 3 else part.x[:, None]
            share = delta[:, start : start + rows.shape[1], : rows.shape[2]]
            shares.append(share if part.x.ndim == 3 else share[:, 0])
            start += rows.shape[1]
        return shares

    def first_block(
        self, entry: Entry, model: nn.Module, name: str | None, generators: Sequence[Any]
    ) -> FirstBlock:
        """The first layer that all of δ has entered: see `Entry.first_block`."""
        model = unwrapped(model)
        taps = self.taps(model)
        tap = taps[0]

        def run(delta: Tensor | None) -> Output:
            return entry.run(model, delta)

        if name is not None:
            tap.first_block = block_named(model, name)
        if in_several_stacks(model, taps):
            raise UserError(
                "yopo holds still what lies behind one first block, and δ enters encoder and "
                "decoder: name modules of one of them, or take another method."
            )
        if tap.first_block is None:
            rewind = FrozenDropout(device_of(model), generators)
            try:
                tap.first_block = find_first_block(
                    model, lambda: run(None), behind=[tap.module for tap in taps]
                )
            finally:
                rewind.restore()
        if tap.first_block is None:
            raise UserError(
                f"The first block of {type(model).__name__} was not found; name it with "
                f"`first_block` (--adv_first_block)."
            )
        return FirstBlock(tap.first_block, run, blocks_after(model, tap.first_block))


def block_named(model: nn.Module, name: str) -> nn.Module:
    """The module that a user takes for the first block.

    Raises:
        UserError: the model has none of that name.
    """
    try:
        return model.get_submodule(name)
    except AttributeError:
        raise UserError(f"The model has no module named {name!r} (--adv_first_block).") from None


def device_of(model: nn.Module) -> torch.device:
    """Where its first parameter lies."""
    return next(model.parameters()).device


def around(model: nn.Module, module: nn.Module, within: nn.Module | None = None) -> list[nn.Module]:
    """The modules that a module lies in, itself first and the model last.

    Args:
        model: not wrapped.
        module: one of its modules; [] where it is none.
        within: the one of several ways to it that leads through this module.
    """
    by_name = dict(model.named_modules(remove_duplicate=False))
    for name in (name for name, one in by_name.items() if one is module):
        above = name.split(".")
        way = [by_name[".".join(above[:n])] for n in range(len(above), 0, -1)]
        way = [*way, model] if name else [model]
        if within is None or within in way:
            return way
    return []


def in_several_stacks(model: nn.Module, taps: Sequence[Tap]) -> bool:
    """Whether modules of the encoder and of the decoder are perturbed."""
    pair = stacks(model)
    if pair is None:
        return False
    inside = [set(stack.modules()) for stack in pair]
    return all(any(tap.module in one for tap in taps) for one in inside)
