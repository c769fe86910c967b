"""Where δ may move in a language model's row: on the prompt, on the completion, or on both.

A row of a language model is a prompt and a completion, and the labels say which is which: −100 on
the prompt. δ on the completion perturbs what teacher forcing feeds, the answer itself, which no
attacker writes. So the prompt is where δ enters unless somebody says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from nlp_adv.columns import ADV_MASK, COMPLETION_MASK
from nlp_adv.errors import UserError
from nlp_adv.perturbation import unwrapped
from nlp_adv.sites.packing import texts_in
from nlp_adv.sites.tokens import real_tokens

Span = Literal["all", "prompt", "completion"]

NO_LABEL = -100  # as in transformers


def predicts_the_next(model: nn.Module) -> bool:
    """Whether the model's own loss compares the logits of a token with the label of the next."""
    from transformers.loss.loss_utils import ForCausalLMLoss  # with it come libraries of vision

    model = unwrapped(model)
    pair = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    return not pair and getattr(model, "loss_function", None) is ForCausalLMLoss


def span_of(model: nn.Module, batch: Mapping[str, Any], span: Span | None) -> Span:
    """The span that holds for a batch; None asks for the default.

    The default is "prompt" for a causal language model where the labels leave out the beginning of
    a text, and "all" elsewhere. A first token alone is no prompt: nothing predicts it, so that its
    label says nothing. Neither is what is left out later, as collators do with each end-of-text
    token that they also pad with. A column adv_mask goes before any span, and then it is "all".

    Raises:
        UserError: the span needs labels, or a completion_mask, of a causal language model.
    """
    if span is not None and span not in get_args(Span):
        raise UserError(
            f"span (--adv_span) must be one of {', '.join(get_args(Span))}, not {span!r}."
        )
    if ADV_MASK in batch or span == "all":
        return "all"
    answered = _answered(model, batch)
    if span is None:
        if answered is None:
            return "all"
        first = _first(model, batch)
        second = nn.functional.pad(first[:, :-1], (1, 0)) & ~first
        begins = _prompt(model, batch, answered) & second
        return "prompt" if bool(begins.any()) else "all"
    if answered is None:
        raise UserError(
            f"span={span} (--adv_span) tells the prompt of a causal language model from its "
            f"completion by labels of −100 or a completion_mask (B, T), which this model or this "
            f"batch does not have; leave the span off."
        )
    return span


def span_mask(model: nn.Module, batch: Mapping[str, Any], span: Span) -> Tensor | None:
    """(B, T), 1 on the tokens of the span; None of "all".

    Args:
        model: wrapped or not.
        batch: with labels or a completion_mask (B, T).
        span: of `span_of`.

    Raises:
        UserError: no row has a token in the span.
    """
    if span == "all":
        return None
    answered = _answered(model, batch)
    assert answered is not None
    mask = answered if span == "completion" else _prompt(model, batch, answered)
    if not bool(mask.any()):
        cause = "are −100 on every token" if span == "completion" else "leave out no token"
        raise UserError(
            f"No row of a batch has a token in the {span} (--adv_span {span}), so that δ would "
            f"stay 0: its labels {cause}."
        )
    return mask.long()


def _answered(model: nn.Module, batch: Mapping[str, Any]) -> Tensor | None:
    """(B, T), true on completions; None where that is not known."""
    ids = batch.get("input_ids")
    if not isinstance(ids, Tensor) or ids.ndim != 2 or not predicts_the_next(model):
        return None
    labels, completion = batch.get("labels"), batch.get(COMPLETION_MASK)
    if isinstance(completion, Tensor) and completion.shape == ids.shape:
        return completion != 0
    if isinstance(labels, Tensor) and labels.shape == ids.shape:
        return labels != NO_LABEL
    return None


def _prompt(model: nn.Module, batch: Mapping[str, Any], answered: Tensor) -> Tensor:
    """Every real token that is no completion's: template, system prompt and later turns too."""
    return _real(model, batch) & ~answered


def _first(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    """(B, T), true on the first token of each text."""
    ids, real = batch["input_ids"], _real(model, batch)
    pad_id = getattr(getattr(unwrapped(model), "config", None), "pad_token_id", None)
    given = None if batch.get("attention_mask") is None else real
    packed = texts_in(ids, given, (batch,), pad_id=pad_id)
    if packed is None:
        return real & (real.cumsum(1) == 1)
    index = packed[1].index
    return torch.cat([torch.ones_like(real[:, :1]), index[:, 1:] != index[:, :-1]], 1)


def _real(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    attention = batch.get("attention_mask")
    given = attention if isinstance(attention, Tensor) and attention.ndim == 2 else None
    return real_tokens(batch["input_ids"], given, unwrapped(model))
