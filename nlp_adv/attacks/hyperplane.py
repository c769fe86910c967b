"""The shortest step to a hyperplane {z : f + ⟨w, z − x⟩ = 0}, with bounds on each number or not.

Without bounds it goes along the direction v in which the ball is steepest,

    δ = −f / ⟨w, v⟩ · v

With room r_i for number i it is found by sorting. In L∞ and L2, δ_i = ∓min(λ|v_i|, r_i), and

    Σ |w_i|·min(λ|v_i|, r_i) = |f|

is piecewise linear in λ and bends where λ|v_i| = r_i. In L1 the numbers with the largest |w_i| go
as far as they may, one after the other, until |f| is reached. Where all the room does not suffice,
all of it is used.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nlp_adv.perturbation import Ball, L1Ball


def free_step(ball: Ball, unit: Tensor | float, normal: Tensor, value: Tensor) -> Tensor:
    """The δ that is shortest in the norm of the ball, (b, …); 0 where w is.

    Where each token or module has a norm of its own, the largest of them, in its unit, counts.

    Args:
        ball: whose norm it is.
        unit: how long the unit is, 1.0 or (b, 1, …).
        normal: w, (b, …).
        value: f, (b, 1, …).
    """
    along = unit * ball.steepest(normal)
    slope = (normal * along).sum(dim=tuple(range(1, normal.ndim)), keepdim=True)
    return torch.where(slope > 0, -value / slope, 0.0) * along


def bounded_step(ball: Ball, normal: Tensor, value: Tensor, room: Tensor) -> Tensor:
    """The δ that is shortest in the norm of the ball, (b, …), |δ_i| ≤ r_i; 0 where w is.

    Args:
        ball: whose norm it is, one an example.
        normal: w, (b, …).
        value: f, (b, 1, …).
        room: r ≥ 0, (b, …).
    """
    slopes, rooms = normal.abs().flatten(1), room.flatten(1)
    needed = value.abs().flatten(1)
    if isinstance(ball, L1Ball):
        length = _one_by_one(slopes, rooms, needed)
    else:
        length = _together(slopes, ball.steepest(normal).abs().flatten(1), rooms, needed)
    return -(value.sign() * normal.sign()) * length.view_as(normal)


def _together(slopes: Tensor, speeds: Tensor, rooms: Tensor, needed: Tensor) -> Tensor:
    """min(λ|v_i|, r_i), (b, n)."""
    ends = torch.where(speeds > 0, rooms / speeds, 0.0)  # λ, where a number meets its bound
    ends, order = ends.sort(dim=1)
    ended = (slopes * rooms).gather(1, order).cumsum(1)
    going = (slopes * speeds).gather(1, order).flip(1).cumsum(1).flip(1)
    reached = ended + ends * (going - (slopes * speeds).gather(1, order))
    enough = reached >= needed
    first = enough.to(torch.uint8).argmax(1, keepdim=True)
    before = torch.where(first > 0, ended.gather(1, (first - 1).clamp_min(0)), 0.0)
    scale = (needed - before) / going.gather(1, first)
    scale = torch.where(enough.any(1, keepdim=True), scale, torch.inf)
    return torch.where(speeds > 0, torch.minimum(scale * speeds, rooms), 0.0)


def _one_by_one(slopes: Tensor, rooms: Tensor, needed: Tensor) -> Tensor:
    """All of r_i of the largest |w_i|, and a part of the last, (b, n)."""
    order = slopes.argsort(dim=1, descending=True, stable=True)
    gains = (slopes * rooms).gather(1, order)
    short = needed - (gains.cumsum(1) - gains)
    share = torch.where(gains > 0, short / gains, 0.0).clamp(0, 1)
    return torch.zeros_like(rooms).scatter(1, order, share * rooms.gather(1, order))
