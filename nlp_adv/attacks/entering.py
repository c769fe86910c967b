"""What an attack was called with, as rows: pixels, or a batch of a Hugging Face model at a site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from nlp_adv.attacks.rows import Rows
from nlp_adv.attacks.several import SeveralView, check_several
from nlp_adv.attacks.views import NO_CLASSES, PixelView, SiteView
from nlp_adv.errors import UserError
from nlp_adv.perturbation.evaluating import divergence_found
from nlp_adv.perturbation.running import unwrapped
from nlp_adv.sites.normalisation import Classifier, check_pixels
from nlp_adv.sites.site import Site


def site_rows(
    model: nn.Module,
    batch: Mapping[str, Any],
    y: Tensor | int | None = None,
    *,
    site: Site,
    target: Tensor | int | None = None,
    mask: Tensor | None = None,
    special_ids: Sequence[int] = (),
) -> Rows:
    """A batch at a site as rows, looked at once; to be made inside `quiet(model)`.

    Args:
        model: a classifier.
        batch: what its forward takes, with "labels" (B,) where y is not given; or (B, T) of tokens,
            yes-or-no labels (B, L), see `SeveralView`.
        y: right classes (B,); of a batch without labels, what the model answers.
        site: where δ enters.
        target: classes to reach, (B,) or one for all; then y is not used.
        mask: (B, T), 1 for tokens that may be perturbed, beside the site's own mask.
        special_ids: ids that are not perturbed.

    Raises:
        UserError: the model or the batch is not for classification of examples or tokens.

    Cost: one forward pass, and a look at the site.
    """
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    given = y if y is not None else batch.get("labels")
    several = isinstance(given, Tensor) and given.ndim == 2
    if isinstance(given, Tensor) and given.is_floating_point() and not several:
        raise UserError(NO_CLASSES)
    if several and "decoder_input_ids" not in inputs:
        # An encoder-decoder makes what its decoder reads of the labels, which it is not given here.
        make = getattr(unwrapped(model), "prepare_decoder_input_ids_from_labels", None)
        inputs |= {} if make is None else {"decoder_input_ids": make(labels=given)}
    entry = site.enter(model, inputs, mask=mask, special_ids=special_ids)
    view = SiteView(model, entry)
    clean = torch.zeros_like(entry.mask)
    first = torch.zeros(len(clean), dtype=torch.long, device=clean.device)
    rows = Rows(view, clean, first, target is not None, entry.mask, leaves=True)
    if several:
        if target is not None:
            raise UserError("An example with several answers cannot be led to one class.")
        assert isinstance(given, Tensor)
        whole = SeveralView(view, given)
        check_several(whole)
        return replace(rows, view=whole.scaled()).look()
    rows = rows.look()
    return replace(rows, y=_labels(target if target is not None else given, rows))


def pixel_rows(
    model: Classifier,
    x: Tensor,
    y: Tensor | int | None = None,
    *,
    target: Tensor | int | None = None,
    mask: Tensor | None = None,
) -> Rows:
    """Images as rows; to be made inside `quiet(model)`.

    Args:
        model: pixels → logits.
        x: images (B, …) in [0, 1].
        y: right classes (B,), any integer type; without y and target, what the model answers.
        target: classes to reach, (B,) or one for all; then y is not used.
        mask: 1 where a pixel may change, broadcast against x.

    Raises:
        UserError: what is wrong, and the way out.
    """
    x = check_pixels(x).detach().clone().to(torch.promote_types(x.dtype, torch.float32))
    free = torch.ones_like(x) if mask is None else _mask(mask, x)
    unlabelled = torch.zeros(len(x), dtype=torch.long, device=x.device)
    view = PixelView(model, x)
    rows = Rows(view, x, unlabelled, target is not None, free, whole=mask is None)
    if isinstance(model, nn.Module):
        device = next((p.device for p in model.parameters()), x.device)
        if device != x.device:
            raise UserError(f"The images are on {x.device} and the model is on {device}.")
        if (refusal := divergence_found(model)) is not None:
            raise UserError(refusal)
    given = target if target is not None else y
    if given is None:
        rows = _looked(rows, rows)
        return replace(rows, y=_labels(None, rows))
    first = _looked(rows.rows(torch.arange(min(1, len(x)), device=x.device)), rows)
    return replace(rows, y=_labels(given, replace(rows, looked=first.looked)))


def _looked(rows: Rows, given: Rows) -> Rows:
    """With what the model says at its first look, where a single image is found out.

    Args:
        rows: that are looked at.
        given: all of them.
    """
    try:
        return rows.look()
    except Exception as error:  # a model says in its own way that it wants a batch
        if _is_one_image(given):
            shape = tuple(given.clean.shape)
            raise UserError(
                f"{shape} is the shape of one image, and the model takes batches: pass x[None], "
                f"which is x.unsqueeze(0), of shape {(1, *shape)}, and a label of shape (1,)."
            ) from error
        raise


def _is_one_image(rows: Rows) -> bool:
    """Whether the model takes x as a batch of one image, which it is not."""
    try:
        return rows.view.logits(rows.clean[None]) is not None
    except Exception:  # then that is not what is wrong
        return False


def _labels(given: Tensor | int | None, rows: Rows) -> Tensor:
    """(B,), checked; of nothing, what the model answers."""
    assert rows.looked is not None
    if given is None:
        return rows.looked.argmax(1)
    if isinstance(given, Tensor) and (given.is_floating_point() or given.dtype == torch.bool):
        raise UserError(f"Labels are classes, integers, not {given.dtype}.")
    labels = torch.as_tensor(given, device=rows.clean.device).long()
    if labels.ndim == 0:
        labels = labels.expand(len(rows))
    if labels.shape != rows.y.shape:
        raise UserError(
            f"Labels of shape {tuple(labels.shape)} for {len(rows)} examples; give one an example."
        )
    low, high = int(labels.min()), int(labels.max())
    classes = rows.looked.shape[1]
    if low < 0 or high >= classes:
        raise UserError(f"Labels are from {low} to {high}, and the model has {classes} classes.")
    return labels.clone()


def _mask(mask: Tensor, x: Tensor) -> Tensor:
    try:
        free = torch.broadcast_to(mask.to(x.device), x.shape) != 0
    except RuntimeError:
        raise UserError(
            f"A mask of shape {tuple(mask.shape)} does not fit images of shape {tuple(x.shape)}."
        ) from None
    return free.to(x.dtype)
