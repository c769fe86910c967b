"""δ on the output of one module of a model, or of several, one for each call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nlp_adv.errors import UserError
from nlp_adv.perturbation import (
    FirstBlock,
    ForwardFn,
    FrozenDropout,
    Output,
    blocks_after,
    copied,
    find_first_block,
    model_forward,
    unwrapped,
)
from nlp_adv.sites.compiled import alike, hooks_are_seen, is_compiled, lengths_may_vary
from nlp_adv.sites.look import Kind, look
from nlp_adv.sites.parts import (
    content_of,
    counted_in,
    joined,
    looked_up,
    mask_of,
    part_of,
    restricted,
    why_nothing,
)
from nlp_adv.sites.prefix import PrefixOnce
from nlp_adv.sites.site import Entry, own_mask, refuse_nothing, without_mask
from nlp_adv.sites.taps import OtherCallsError, Tap
from nlp_adv.sites.tokens import stacks

Spot = Callable[[nn.Module], Tap]
"""Finds a module in a model: the hook on it, not yet installed."""


class ModuleSite:
    """The outputs of modules, one δ for each call: see `EmbeddingSite` and `LayerSite`.

    A loss may run a module several times: both texts of a siamese model, the columns of a
    bi-encoder, two passes under unlike dropout. Each call with a graph has a δ and a mask of its
    own; calls under `no_grad`, such as a reference model's, see the clean output.

    The δ of several modules and calls lie one behind the other in the dimension of the tokens,
    (R, ΣT, D), R the rows of the largest call, and narrow ones are filled up with coordinates that
    never move. Each is a segment with a norm, a ball and a unit of its own, and so is each of
    several texts packed in one row.

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
        """Put the hooks into the model, for a whole run, in which calls are counted anew."""
        for tap in self.taps(model):
            Kind.forget_all(tap)
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
        taps, inner = self.taps(model), unwrapped(model)
        rewind = FrozenDropout(device_of(model), generators)
        kind = Kind(inner, batch, forward)
        try:
            found = look(taps, lambda: forward(inner, copied(batch)), inner, kind)
        finally:
            rewind.restore()
        parts = tuple(part_of(one.tap, seen, batch, model) for one in found for seen in one.seen)
        masks = [mask_of(part, special_ids, model) for part in parts]
        x, site_mask, segments = joined(parts, masks)
        moves = restricted(site_mask, own, parts)
        if own is not None or special_ids:
            refuse_nothing(moves, why_nothing(own, special_ids))
        with_tokens = [part.tokens for part in parts if part.tokens is not None]
        return Entry(
            site=self,
            batch=batch,
            forward=forward,
            x=x,
            mask=moves,
            **content_of(batch, with_tokens, moves),
            **counted_in(with_tokens, special_ids, batch),
            **looked_up(parts),
            segments=segments,
            parts=parts,
            calls=tuple(one.pattern for one in found),
            kind=kind,
        )

    def run(self, entry: Entry, model: nn.Module, delta: Tensor | None) -> Output:
        """See `Entry.run`."""
        inputs, taps = copied(entry.batch), self.taps(model)
        compiled = is_compiled(model)
        shares = iter(self._shares(entry, alike(delta, entry.mask) if compiled else delta))
        try:
            with ExitStack() as stack:
                if compiled:
                    hooks_are_seen()
                    stack.enter_context(lengths_may_vary())
                # Without δ the same hooks, hence the same compiled graph, as with it.
                stack.enter_context(self.installed(model))
                for tap, calls in zip(taps, entry.calls, strict=True):
                    own = [next(shares) for _ in range(max(1, sum(calls)))]
                    stack.enter_context(tap.adding(*own, calls=calls))
                return entry.forward(model, inputs)
        except OtherCallsError:
            for tap in taps:
                entry.kind.forget(tap)
            raise

    def prefix_once(
        self, entry: Entry, model: nn.Module, generators: Sequence[Any]
    ) -> Callable[[], AbstractContextManager[None]]:
        """See `PrefixOnce`."""
        return PrefixOnce(model, self.taps(model), entry.x.device, generators)

    def _shares(self, entry: Entry, delta: Tensor | None) -> list[Tensor | None]:
        """Each call's share of δ, as the module's output has it."""
        if delta is None:
            return [None] * len(entry.parts)
        if len(entry.parts) == 1:
            return [entry.parts[0].give(delta)]
        columns = torch.split(delta, [part.width for part in entry.parts], dim=1)
        return [part.give(part.cut(own)) for part, own in zip(entry.parts, columns, strict=True)]

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
        if len(entry.parts) > len(taps):
            raise UserError(
                "yopo holds still what lies behind the first block of one forward pass, and the "
                "loss runs the model several times: take another method."
            )
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
