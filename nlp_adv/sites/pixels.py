"""Where δ enters a model of images: the pixels (B, C, H, W), in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nlp_adv.errors import UserError
from nlp_adv.perturbation import (
    FirstBlock,
    ForwardFn,
    FrozenDropout,
    Output,
    StepError,
    copied,
    model_forward,
    unwrapped,
)
from nlp_adv.sites.modules import block_named
from nlp_adv.sites.site import Entry, own_mask, refuse_nothing, without_mask


class PixelSite:
    """δ on the pixels x in [0, 1] of a batch of normalised images z = (x − mean)/std.

    δ is in pixels, 0 ≤ x + δ ≤ 1, and the model sees z + ((x + δ) − x)/std, so that δ = 0 is the
    batch to the last bit.

    Args:
        mean, std: of the normalisation, (C,) or (1,).
    """

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        self.mean, self.std = mean, std

    def install(self, model: nn.Module) -> None:
        """Pixels need no hook."""

    def remove(self) -> None:
        """Nothing was left."""

    @contextmanager
    def installed(self, model: nn.Module) -> Iterator[None]:
        """Pixels need no hook."""
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
        """See `Site.enter`; images have no special ids. A mask has the shape of the images.

        Raises:
            UserError: the batch has no images, or a single one that is no batch.
        """
        own, batch = own_mask(batch, mask), without_mask(batch)
        z = batch.get("pixel_values")
        if not isinstance(z, Tensor) or not z.is_floating_point():
            raise UserError("Training on images needs floating-point pixel_values in the batch.")
        if z.ndim < 4:
            raise UserError(
                f"pixel_values of shape {tuple(z.shape)} are no batch (B, C, H, W); one image "
                f"alone is x[None], which is x.unsqueeze(0), with a label of shape (1,)."
            )
        mean, std = self._statistics(z)
        x = (z.to(mean.dtype) * std + mean).clamp(0, 1)
        free = torch.ones_like(x)
        if own is not None:
            free = _restricted(free, own)
            refuse_nothing(free, "the mask (mask=, adv_mask) is 0 on every pixel")
        return Entry(self, batch, forward, x, free, content=z, low=-x, high=1 - x)

    def run(self, entry: Entry, model: nn.Module, delta: Tensor | None) -> Output:
        """See `Entry.run`."""
        if delta is None:
            return entry.forward(model, copied(entry.batch))
        z: Tensor = entry.batch["pixel_values"]
        moved = (entry.x + delta).clamp(0, 1) - entry.x
        inputs = copied({key: value for key, value in entry.batch.items() if value is not z})
        _, std = self._statistics(z)
        inputs["pixel_values"] = (z.to(std.dtype) + moved / std).to(z.dtype)
        return entry.forward(model, inputs)

    def prefix_once(
        self, entry: Entry, model: nn.Module, generators: Sequence[Any]
    ) -> Callable[[], AbstractContextManager[None]]:
        """Refuses.

        Raises:
            StepError: always.
        """
        raise StepError(
            "inner_prefix (--adv_inner_prefix) computes once what lies below δ, and nothing lies "
            "below the pixels: leave it off, or let δ enter a layer (--adv_site layer:NAME)."
        )

    def first_block(
        self, entry: Entry, model: nn.Module, name: str | None, generators: Sequence[Any]
    ) -> FirstBlock:
        """The layer whose weights δ meets: see `Entry.first_block`."""
        model = unwrapped(model)

        def run(delta: Tensor | None) -> Output:
            return entry.run(model, delta)

        if name is not None:
            return FirstBlock(block_named(model, name), run)
        return _first_layer(model, run, FrozenDropout(entry.x.device, generators))

    def _statistics(self, z: Tensor) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(z.dtype, torch.float32)
        mean, std = (value.to(z.device, wide).reshape(-1, 1, 1) for value in (self.mean, self.std))
        return mean, std


def _restricted(free: Tensor, own: Tensor) -> Tensor:
    """All pixels times the user's mask, (B, C, H, W) or (B, H, W).

    Raises:
        UserError: it fits neither.
    """
    own = own.to(free.device, free.dtype)
    own = own[:, None] if own.ndim == free.ndim - 1 else own
    if own.ndim != free.ndim or any(
        one not in (1, size) for one, size in zip(own.shape, free.shape, strict=True)
    ):
        raise UserError(
            f"The mask {tuple(own.shape)} does not fit the images {tuple(free.shape)}: it is "
            f"(B, C, H, W) or (B, H, W)."
        )
    return free * own


def check_normalisation(z: Tensor, mean: Tensor, std: Tensor) -> None:
    """Refuse a mean and std that do not take these images back to pixels in [0, 1].

    Raises:
        UserError: with the range that they do take them to.
    """
    x = z.float() * std.to(z.device).reshape(-1, 1, 1) + mean.to(z.device).reshape(-1, 1, 1)
    low, high = x.min().item(), x.max().item()
    if not (low > -0.01 and high < 1.01):
        raise UserError(
            f"With mean {mean.tolist()} and std {std.tolist()} the images have pixels from "
            f"{low:.3g} to {high:.3g}, not in [0, 1]: these are not the numbers they were "
            f"normalised with; give the image processor that made them as processing_class."
        )


def _first_layer(
    model: nn.Module, run: Callable[[Tensor | None], Output], rewind: FrozenDropout
) -> FirstBlock:
    """The layer whose weights δ meets: YOPO's first block is a network's first layer."""
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_pre_hook(_stop) for layer in layers]
    try:
        with torch.no_grad():
            run(None)
    except _FoundLayer as found:
        return FirstBlock(found.layer, run)
    finally:
        for handle in handles:
            handle.remove()
        rewind.restore()
    raise UserError(
        f"The first layer of {type(model).__name__} was not found; name it with --adv_first_block."
    )


def _stop(layer: nn.Module, args: Any) -> None:
    raise _FoundLayer(layer)


class _FoundLayer(BaseException):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
