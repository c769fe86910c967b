"""A minibatch of images as a function of δ on its pixels (B, C, H, W)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from nlp_adv.errors import UserError
from nlp_adv.perturbation import (
    FirstBlock,
    ForwardFn,
    FrozenDropout,
    Memory,
    ModelObjective,
    NoMemory,
    NoSync,
    Output,
    copied,
    kind_of,
    model_forward,
    unwrapped,
)


def image_objective(
    model: nn.Module,
    batch: Mapping[str, Any],
    *,
    mean: Tensor,
    std: Tensor,
    forward: ForwardFn = model_forward,
    backward: Callable[[Tensor], None] = torch.autograd.backward,
    unsynced: NoSync | None = None,
    passes: int = 0,
    seed: int | None = None,
    loss_scale: Tensor | float = 1.0,
    memory: Memory | None = None,
    share: Tensor | float = 1.0,
    first_block: str | None = None,
    generators: Sequence[Any] = (),
) -> ModelObjective:
    """L(θ, x + δ, y), x the pixels in [0, 1] of a batch of normalised images z = (x − mean)/std.

    δ is in pixels, 0 ≤ x + δ ≤ 1, and the model sees z + ((x + δ) − x)/std, so that δ = 0 is the
    batch to the last bit. BatchNorm's running statistics are those of the passes that θ is trained
    on; passes for δ alone leave them still.

    In a loop of one's own:

        method = PGD(LInfBall(8 / 255), step_size=2 / 255, steps=7)
        objective = image_objective(model, batch, mean=mean, std=std, backward=accelerator.backward,
                                    passes=method.passes, seed=step)
        method.step(objective)

    Args:
        model: a Hugging Face image classifier, wrapped or not.
        batch: what its forward takes: "pixel_values" (B, C, H, W), normalised, and labels.
        mean, std: of the normalisation, (C,) or (1,).
        forward: (model, batch) → Output; a copy of the batch is given to every pass.
        backward: accumulates ∇θ.
        unsynced: a context without gradient exchange between processes; a DDP model's own
            `no_sync` by default.
        passes: `method.passes`.
        seed: of random starts; vary it with the step and the process.
        loss_scale, share: see `ModelObjective`.
        memory: the same one for all steps of a run, for methods that keep something.
        first_block: name of the module that yopo takes for the first block; without one, the first
            layer with weights that sees the images.
        generators: see `text_objective`.

    Raises:
        UserError: the batch has no images, or a single one that is no batch.
    """
    z = batch.get("pixel_values")
    if not isinstance(z, Tensor) or not z.is_floating_point():
        raise UserError("Training on images needs floating-point pixel_values in the batch.")
    if z.ndim < 4:
        raise UserError(
            f"pixel_values of shape {tuple(z.shape)} are no batch (B, C, H, W); one image alone is "
            f"x[None], which is x.unsqueeze(0), with a label of shape (1,)."
        )
    wide = torch.promote_types(z.dtype, torch.float32)
    mean, std = (value.to(z.device, wide).reshape(-1, 1, 1) for value in (mean, std))
    x = (z.to(wide) * std + mean).clamp(0, 1)

    def run_on(which: nn.Module, delta: Tensor | None) -> Output:
        if delta is None:
            return forward(which, copied(batch))
        moved = (x + delta).clamp(0, 1) - x
        inputs = copied({key: value for key, value in batch.items() if value is not z})
        inputs["pixel_values"] = (z.to(wide) + moved / std).to(z.dtype)
        return forward(which, inputs)

    inner = unwrapped(model)
    return ModelObjective(
        run=lambda delta: run_on(model, delta),
        x=x,
        mask=torch.ones_like(x),
        model=model,
        seed=seed,
        backward_fn=backward,
        unsynced=unsynced or cast(NoSync, getattr(model, "no_sync", nullcontext)),
        passes=passes,
        generators=generators,
        labels=batch.get("labels"),
        loss_scale=loss_scale,
        memory=NoMemory() if memory is None else memory,
        outputs=lambda logits: kind_of(model, logits, batch.get("labels")),
        counted=_counted(inner, batch.get("labels")),
        share=share,
        first_block=lambda: _first_layer(
            inner, lambda d: run_on(inner, d), first_block, FrozenDropout(x.device, generators)
        ),
        low=-x,
        high=1 - x,
    )


def _counted(model: nn.Module, labels: Any) -> Tensor | None:
    """(B, H, W): pixels with a class, of labels that are such a map."""
    if not isinstance(labels, Tensor) or labels.ndim != 3 or labels.is_floating_point():
        return None
    ignored = getattr(getattr(model, "config", None), "semantic_loss_ignore_index", -100)
    return (labels != ignored) & (labels != -100)


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
    model: nn.Module,
    run: Callable[[Tensor | None], Output],
    name: str | None,
    rewind: FrozenDropout,
) -> FirstBlock:
    """The layer whose weights δ meets: YOPO's first block is a network's first layer."""
    if name is not None:
        try:
            return FirstBlock(model.get_submodule(name), run)
        except AttributeError:
            raise UserError(
                f"The model has no module named {name!r} (--adv_first_block)."
            ) from None
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
