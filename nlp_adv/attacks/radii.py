"""Balls about images: radii in pixels, one or one an image; and which gradients are usable."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from nlp_adv.errors import UserError
from nlp_adv.perturbation import Ball, L1Ball, L2Ball, LInfBall


def rows_of(ball: Ball, kept: Tensor) -> Ball:
    """The ball of some of the images, where each has a radius of its own."""
    epsilon = ball.epsilon
    if isinstance(epsilon, Tensor) and epsilon.ndim > 0 and len(epsilon) > 1:
        return replace(ball, epsilon=epsilon[kept])  # type: ignore[type-var]
    return ball


def ball_for(ball: Ball, x: Tensor) -> Ball:
    """The ball with its radius beside x, in x's type, a radius (B,) shaped to broadcast.

    It is rounded down, so that no rounding lets an image out of the ball that was asked for; and
    no step has to wait for it to reach the device.

    Raises:
        UserError: there are not as many radii as images.
    """
    asked = torch.as_tensor(ball.epsilon, dtype=torch.float64, device=x.device)
    if asked.ndim > 0:
        if asked.numel() != len(x):
            raise UserError(f"There are {asked.numel()} radii for {len(x)} images.")
        asked = asked.reshape(-1, *[1] * (x.ndim - 1))
    nearest = asked.to(x.dtype)
    below = torch.nextafter(nearest, torch.zeros_like(nearest))
    epsilon = torch.where(nearest.double() > asked, below, nearest)
    return replace(ball, epsilon=epsilon)  # type: ignore[type-var]


def finite_rows(grad: Tensor) -> Tensor:
    """(B, 1, …): no number of an image's gradient is nan or inf; others must not step on it."""
    peak = grad.abs().amax(dim=tuple(range(1, grad.ndim)), keepdim=True)
    return torch.isfinite(peak)


def check_ball(ball: Ball) -> None:
    """Refuse a radius that is no radius in pixels of [0, 1]."""
    if ball.per != "example" or not isinstance(ball, (LInfBall, L2Ball, L1Ball)):
        raise ValueError("Images need an LInfBall, L2Ball or L1Ball with one norm per example.")
    radius = torch.as_tensor(ball.epsilon)
    if not (radius >= 0).all():
        raise ValueError(f"Radii must be numbers ≥ 0, not {ball.epsilon}.")
    if isinstance(ball, LInfBall) and radius.max() > 1:
        raise ValueError(
            f"An L∞ radius is in pixels of [0, 1], and {ball.epsilon} is more than all of them; "
            f"for grey levels write {ball.epsilon}/255."
        )
