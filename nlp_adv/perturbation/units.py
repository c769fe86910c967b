"""Units of length for δ, so that one ε fits models whose embeddings differ in scale.

A δ whose every free coordinate has magnitude c has the norm c·‖mask‖. A unit fixes c:

    absolute        1 is 1
    per_coordinate  1 is ‖mask‖: an L2 ε is then the root-mean-square of δ's coordinates, that is
                    ε per √(tokens·dim)
    relative        1 is rms(x)·‖mask‖, rms(x) over the example's free coordinates: ε is then a
                    fraction of the (root-mean-square) embedding norm, in every norm

With one constraint an example, relative and per_coordinate radii grow with its length: the L2 norm
of T tokens' embeddings is √T times that of one token, and δ may put all of its length on a single
token. So ε = 0.03 is 14 % of one token's norm in a sentence of 21 tokens, as in SST-2, and 33 % in
a text of 120, as in IMDB: **one relative ε is another threat at each length**. Beside it belongs
`token_share`, and data sets of unlike length belong in different columns. Only L∞ and a constraint
on each token (per="token") do not depend on the length.

rms(x) is that of the minibatch in hand, computed anew in every step: where training lets hidden
states grow, a relative ε grows with them. Hidden states of many language models have an *attention
sink*, a first token whose norm is tens of times that of all others (Xiao et al., "Efficient
Streaming Language Models with Attention Sinks", ICLR 2024). It would be the unit of everybody; so
the longest token of an example is left out of rms(x) where it is more than `SINK` times as long as
the others are.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from nlp_adv.perturbation.balls import TINY, Ball, L2Ball
from nlp_adv.perturbation.objective import Objective
from nlp_adv.perturbation.slices import Per, slice_amax, slice_sum

Unit = Literal["absolute", "per_coordinate", "relative"]

SINK = 10.0  # a token so many times as long as the others is an attention sink


def unit_length(objective: Objective, ball: Ball, unit: Unit) -> Tensor | float:
    """How long one unit is for each example: 1.0, or (B, 1, 1) to broadcast against δ.

    Where δ enters several modules, each has a unit of its own, (B, T, 1).

    Raises:
        ValueError: the unit is none of the three.
    """
    if unit == "absolute":
        return 1.0
    mask = objective.mask
    # What has one unit: an example, or the δ of one of several modules.
    whole = objective.within(L2Ball(1.0)).per
    # Its tokens share the unit; amax skips the padded tokens, whose norm is 0.
    length = slice_amax(objective.within(ball).norm(mask), whole)
    if unit == "per_coordinate":
        return length
    if unit == "relative":
        x = objective.x.to(mask.dtype) * mask
        return length * _mean_square(x, mask, whole).sqrt().clamp_min(TINY)
    raise ValueError(f"unit must be one of {', '.join(get_args(Unit))}, not {unit!r}.")


def _mean_square(x: Tensor, mask: Tensor, whole: Per) -> Tensor:
    """Of the free coordinates of an example, or of a module's δ, without its attention sink."""
    square = x * x
    mean = slice_sum(square, whole) / slice_sum(mask, whole).clamp_min(1)
    if x.ndim != 3:
        return mean
    tokens = square.sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp_min(1)
    longest = slice_amax(tokens, whole)
    others = (tokens < longest).to(mask.dtype)
    rest = slice_sum(square * others, whole) / slice_sum(mask * others, whole).clamp_min(1)
    return torch.where((rest > 0) & (longest > SINK**2 * rest), rest, mean)


def token_share(epsilon: float, tokens: float, *, norm: str = "l2", per: Per = "example") -> float:
    """How far a relative ε lets a single token go, as a share of one token's norm.

    ε·T^(1/p) in the p-norm, T tokens of equal norm: all of an example's δ may go to one of them;
    ε itself with one constraint a token.

    Args:
        epsilon: in the unit "relative".
        tokens: T, of the example.
        norm: "l1", "l2" or "linf".
        per: what one norm covers.
    """
    power = {"l1": 1.0, "l2": 0.5, "linf": 0.0}[norm]
    return float(epsilon * tokens**power) if per == "example" else epsilon
