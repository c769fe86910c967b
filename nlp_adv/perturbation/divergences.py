"""How far two outputs of a model are apart, example by example.

Each takes logits p and q of shape (B, C), or (B, T, C) with one output a token, or (B, C, H, W)
with one a pixel, and returns (B,), (B, T) or (B, H, W). Nothing is summed over the batch, so that
its size changes no weight.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate, log_softmax, logsigmoid

from nlp_adv.perturbation.slices import Segments

Outputs = Literal["classes", "labels", "scores"]
"""What the dimension of size C holds: one of C classes, C yes-or-no labels, or C real scores."""


def kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(P ‖ Q) = Σ_c P_c·(log P_c − log Q_c) of the distributions softmax(p) and softmax(q)."""
    log_p, log_q = log_softmax(_wide(p), dim=-1), log_softmax(_wide(q), dim=-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def bernoulli_kl(p: Tensor, q: Tensor) -> Tensor:
    """The same summed over C labels, each on with probability sigmoid."""
    p, q = _wide(p), _wide(q)
    on = p.sigmoid() * (logsigmoid(p) - logsigmoid(q))
    off = (-p).sigmoid() * (logsigmoid(-p) - logsigmoid(-q))
    return (on + off).sum(-1)


def squared(p: Tensor, q: Tensor) -> Tensor:
    """(p − q)², the mean over scores: what SMART uses for regression."""
    return (_wide(p) - _wide(q)).square().mean(-1)


def class_dimension(logits: Tensor) -> int:
    """Where classes usually are: in the second of four and more dimensions, else in the last."""
    return 1 if logits.ndim >= 4 else logits.ndim - 1


def divergence(
    p: Tensor, q: Tensor, outputs: Outputs, *, symmetric: bool = False, dim: int | None = None
) -> Tensor:
    """KL(P ‖ Q), or KL(P ‖ Q) + KL(Q ‖ P) when symmetric; (p − q)² once for scores.

    Args:
        p, q: logits.
        outputs: what they hold.
        symmetric: both ways.
        dim: the dimension that holds it; the usual one without it.
    """
    dim = class_dimension(p) if dim is None else dim
    p, q = p.movedim(dim, -1), q.movedim(dim, -1)
    between: Callable[[Tensor, Tensor], Tensor] = {
        "classes": kl,
        "labels": bernoulli_kl,
        "scores": squared,
    }[outputs]
    if symmetric and outputs != "scores":
        return between(p, q) + between(q, p)
    return between(p, q)


def mean_over_examples(
    values: Tensor, counted: Tensor | None = None, texts: Segments | None = None
) -> Tensor:
    """The mean of (B,), or of each example's mean over its counted tokens of (B, T).

    Args:
        values: one number an example, or a token.
        counted: (B, T), true for tokens that count, or the like; all do without it.
        texts: which of several examples packed in one row each token belongs to.
    """
    if values.ndim == 1:
        return values.mean()
    if counted is None:
        return values.flatten(1).mean(1).mean()
    if texts is not None and texts.index.shape == values.shape:
        there = texts.reduced(torch.ones_like(values)[..., None], "sum") > 0
        counts = counted.to(values.dtype)[..., None]
        total = texts.reduced(values[..., None] * counts, "sum")
        return (total / texts.reduced(counts, "sum").clamp_min(1))[there].mean()
    values, counted = values.flatten(1), counted.to(values.dtype).flatten(1)
    tokens = counted.sum(1).clamp_min(1)  # an example without any weighs nothing
    return ((values * counted).sum(1) / tokens).mean()


def fitted(counted: Tensor, values: Tensor) -> Tensor | None:
    """`counted` in the shape of `values` (B, …); None where they do not fit together.

    Pairs of tokens count where both tokens do; pixels are those of the labels that are nearest.
    """
    if counted.shape == values.shape:
        return counted
    tokens = counted.shape[1]
    if counted.ndim == 2 and values.shape[1:] == (tokens, tokens):
        return counted[:, :, None] & counted[:, None, :]
    if counted.ndim == values.ndim == 3:
        grid = interpolate(counted[:, None].float(), size=values.shape[1:], mode="nearest")
        return grid[:, 0] > 0
    return None


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
