"""Units of length for δ, so that one ε fits models whose embeddings differ in scale.

A δ whose every free coordinate has magnitude c has the norm c·‖mask‖. A unit fixes c:

    absolute        1 is 1
    per_coordinate  1 is ‖mask‖: an L2 ε is then the root-mean-square of δ's coordinates, that is
                    ε per √(tokens·dim)
    relative        1 is rms(x)·‖mask‖, rms(x) over the example's free coordinates: ε is then a
                    fraction of the (root-mean-square) embedding norm, in every norm
"""

from typing import Literal, get_args

from torch import Tensor

from nlp_adv.perturbation.balls import TINY, Ball
from nlp_adv.perturbation.objective import Objective

Unit = Literal["absolute", "per_coordinate", "relative"]


def unit_length(objective: Objective, ball: Ball, unit: Unit) -> Tensor | float:
    """How long one unit is for each example: 1.0, or (B, 1, 1) to broadcast against δ.

    Raises:
        ValueError: the unit is none of the three.
    """
    if unit == "absolute":
        return 1.0
    mask = objective.mask
    dims = tuple(range(1, mask.ndim))
    # Tokens of one example share their unit; amax skips the padded tokens, whose norm is 0.
    length = ball.norm(mask).amax(dim=dims, keepdim=True)
    if unit == "per_coordinate":
        return length
    if unit == "relative":
        x = objective.x.to(mask.dtype) * mask
        square = (x * x).sum(dim=dims, keepdim=True) / mask.sum(dim=dims, keepdim=True).clamp_min(1)
        return length * square.sqrt().clamp_min(TINY)
    raise ValueError(f"unit must be one of {', '.join(get_args(Unit))}, not {unit!r}.")
