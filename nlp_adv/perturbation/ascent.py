"""The inner maximisation: where δ moves.

    δ ← Π( δ + α · argmax_{‖v‖≤1} ⟨v, ∇δ L⟩ )

One function for every attack and every training method. It sees a gradient, never a model.
"""

from collections.abc import Callable

from torch import Tensor

from nlp_adv.perturbation.balls import Ball


def advance(delta: Tensor, grad: Tensor, *, ball: Ball, step_size: float | Tensor) -> Tensor:
    """One projected steepest-ascent step, detached.

    A slice whose gradient is 0 or not finite stays where it is (up to the projection).

    Args:
        delta: where to step from, (B, T, D) or (B, C, H, W).
        grad: ∇δ L there, up to a positive factor per slice.
        ball: the constraint; its `steepest` is the direction, its `project` the return.
        step_size: α, in the units of δ; negative descends.
    """
    return ball.project(delta.detach() + step_size * ball.steepest(grad)).detach()


def ascend(
    grad_fn: Callable[[Tensor], Tensor],
    delta: Tensor,
    *,
    ball: Ball,
    step_size: float | Tensor,
    steps: int,
) -> Tensor:
    """K steps of `advance`, each at a fresh gradient.

    Args:
        grad_fn: δ → ∇δ L.
        delta: the start δ₀.
        ball: the constraint.
        step_size: α, in the units of δ.
        steps: K.

    Returns:
        δ_K, detached, inside the ball when K > 0.

    Cost: K calls of `grad_fn`.
    """
    for _ in range(steps):
        delta = advance(delta, grad_fn(delta), ball=ball, step_size=step_size)
    return delta
