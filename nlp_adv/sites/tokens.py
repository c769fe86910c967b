"""Which tokens a module's stack received, and which of them are real.

The mask of δ belongs to the ids that the perturbed module works on: the decoder's for a module of
the decoder, the flattened ones in multiple choice, those that the model has padded itself. So it is
read off the calls of the modules around, and from the batch only where they do not tell.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nlp_adv.errors import UserError
from nlp_adv.perturbation import Segments, unwrapped
from nlp_adv.sites.packing import texts_in
from nlp_adv.sites.taps import Seen, Tap

_WITHOUT_IDS = ("pixel_values", "input_features", "input_values")
_PLACEHOLDER = re.compile(r"(image|video|audio|speech|visual)_(placeholder_)?token_(id|index)")


@dataclass(frozen=True)
class Tokens:
    """The tokens of a stack.

    Args:
        ids: (B, T) as the stack received them.
        real: (B, T), false on padding.
        texts: those that several tokens belong to, where a row holds more than one.
    """

    ids: Tensor
    real: Tensor
    texts: Segments | None = None


def tokens_of(
    tap: Tap, seen: Seen, batch: Mapping[str, Any], model: nn.Module, *, embeds: bool
) -> Tokens | None:
    """The tokens of the stack that the module is in; None where it received no ids.

    Args:
        tap: the hook on the module.
        seen: what was seen there.
        batch: the batch, for what the calls do not tell.
        model: wrapped or not.
        embeds: the module is an embedding, whose first argument may be the ids.

    Raises:
        UserError: the attention mask does not fit the ids.
    """
    found = _received(seen)
    if found is None:
        return None
    received, attention = found
    ids: Any = received
    if ids is None:
        ids = seen.argument if embeds else batch.get("input_ids")
        if not _is_ids(ids):
            return None
    elif embeds and _is_ids(seen.argument) and seen.argument.numel() == ids.numel():
        given = seen.argument
        turned = given.shape == ids.T.shape if ids.ndim == 2 else False
        ids = ids if turned else ids.reshape(given.shape)
    if ids.ndim > 2:  # multiple choice flattens its choices
        ids = ids.flatten(0, -2)
    model = unwrapped(model)
    if _is_decoder(model, tap):
        return Tokens(ids, _real_in_decoder(ids, attention, batch, model))
    given_mask = batch.get("attention_mask")
    fits = isinstance(given_mask, Tensor) and given_mask.numel() == ids.numel()
    if attention is None or (fits and attention.numel() != ids.numel()):
        attention = given_mask
    masked = isinstance(attention, Tensor) and attention.ndim < 4
    real = real_tokens(ids, attention, model) if masked else None
    packed = texts_in(ids, real, (*seen.received, batch), pad_id=_pad_id(model))
    if packed is not None:
        return Tokens(ids, *packed)
    return Tokens(ids, real_tokens(ids, attention, model) if real is None else real)


def _received(seen: Seen) -> tuple[Tensor | None, Tensor | None] | None:
    """(ids, attention mask) of the innermost stack that received ids; None of one of pixels."""
    attention = None
    for place, call in enumerate(seen.received):
        attention = _mask_in(call) if attention is None else attention
        for name in ("input_ids", "inputs"):
            if _is_ids(call.get(name)):
                # What only embeds is called without a mask, which the model around it has.
                outer = iter(seen.received[place:])
                told = next((one for one in outer if "attention_mask" in one), {})
                return call[name], _mask_in(told) if attention is None else attention
        if any(isinstance(call.get(name), Tensor) for name in _WITHOUT_IDS):
            return None
    return None, attention


def _mask_in(call: Mapping[str, Any]) -> Tensor | None:
    mask = call.get("attention_mask")
    return mask if isinstance(mask, Tensor) and mask.ndim in (2, 3) else None


def _is_ids(value: Any) -> bool:
    whole = isinstance(value, Tensor) and not value.is_floating_point() and not value.is_complex()
    return whole and value.ndim >= 2


def real_tokens(ids: Tensor, attention: Any, model: nn.Module) -> Tensor:
    """(B, T): the attention mask in the shape of the ids; without one, what is not padding."""
    pad_id = _pad_id(model)
    if not isinstance(attention, Tensor):
        return torch.ones_like(ids, dtype=torch.bool) if pad_id is None else ids != pad_id
    if attention.numel() == ids.numel():
        return attention.reshape(ids.shape) != 0  # multiple choice flattens its choices
    if attention.ndim == 2 and attention.shape[0] == ids.shape[0]:
        missing = ids.shape[1] - attention.shape[1]
        if missing > 0:  # Longformer pads to its window
            return nn.functional.pad(attention, (0, missing)) != 0
    raise UserError(
        f"The attention mask {tuple(attention.shape)} does not fit the ids that the embedding "
        f"receives, {tuple(ids.shape)}."
    )


def _pad_id(model: nn.Module) -> int | None:
    return getattr(getattr(model, "config", None), "pad_token_id", None)


def _real_in_decoder(
    ids: Tensor, attention: Tensor | None, batch: Mapping[str, Any], model: nn.Module
) -> Tensor:
    """Of the decoder's own mask, else of the labels that the ids are made from, else of the ids."""
    given = batch.get("decoder_attention_mask")
    attention = given if isinstance(given, Tensor) else attention
    if isinstance(attention, Tensor) and attention.shape == ids.shape:
        return attention != 0
    labels = batch.get("labels")
    if isinstance(labels, Tensor) and labels.shape == ids.shape and _are_shifted(labels, ids):
        return labels != -100
    config = getattr(model, "config", None)
    pad_id = getattr(config, "pad_token_id", None)
    if pad_id is None:
        return torch.ones_like(ids, dtype=torch.bool)
    real: Tensor = ids != pad_id
    start = getattr(config, "decoder_start_token_id", None)
    if start == pad_id:  # T5 begins with the id that it pads with
        real[:, 0] = True
    return real


def _are_shifted(labels: Tensor, ids: Tensor) -> bool:
    before, after = labels[:, :-1], ids[:, 1:]
    return bool(((before == after) | (before == -100)).all())


def stacks(model: nn.Module) -> tuple[nn.Module, nn.Module] | None:
    """Encoder and decoder, where the model has two that do not hold each other."""
    model = unwrapped(model)
    if hasattr(model, "get_base_model"):  # PEFT
        model = model.get_base_model()  # type: ignore[operator]
    found = []
    for which in ("encoder", "decoder"):
        getter = getattr(model, f"get_{which}", None)
        stack = getter() if callable(getter) else None
        if not isinstance(stack, nn.Module):
            return None
        found.append(stack)
    encoder, decoder = found
    # Models of one stack answer both questions with it.
    if encoder in set(decoder.modules()) or decoder in set(encoder.modules()):
        return None
    return encoder, decoder


def _is_decoder(model: nn.Module, tap: Tap) -> bool:
    pair = stacks(model)
    if pair is None:
        return False
    encoder, decoder = pair
    if tap.within is not None:
        return tap.within is decoder
    return tap.module in set(decoder.modules()) and tap.module not in set(encoder.modules())


def placeholders(model: nn.Module) -> list[int]:
    """The ids of tokens whose embedding is overwritten, by that of an image or a sound."""
    config = getattr(unwrapped(model), "config", None)
    if config is None:
        return []
    nested = [config, *(value for value in vars(config).values() if hasattr(value, "to_dict"))]
    found = {
        value
        for one in nested
        for name, value in vars(one).items()
        if _PLACEHOLDER.fullmatch(name) and isinstance(value, int)
    }
    return sorted(found)


def among(ids: Tensor, some: list[int]) -> Tensor:
    """(B, T): where the id is one of some."""
    return torch.isin(ids, torch.as_tensor(some, device=ids.device))
