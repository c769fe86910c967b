"""Where an attack may take an image: a ball about it, met with the range of the pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nlp_adv.attacks.batch import ImageBatch
from nlp_adv.attacks.radii import rows_of
from nlp_adv.perturbation import Ball, LInfBall


@dataclass(frozen=True)
class Region:
    """{x' : ‖x' − x‖ ≤ ε, 0 ≤ x' ≤ 1}, and x' = x where a pixel may not change.

    It is `WithinBox` written for x' instead of δ, so that rounding x + δ takes no pixel out of the
    box or of an L∞ ball; the bounds are found once, not at every step.

    Attributes:
        ball: its radius beside x, as `ball_for` makes it.
        x: (B, …).
        low, high: of x', the shape of x; of an L∞ ball they are the whole region.
    """

    ball: Ball
    x: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, batch: ImageBatch, ball: Ball) -> Region:
        """That of a batch."""
        low, high = torch.zeros_like(batch.x), torch.ones_like(batch.x)
        if isinstance(ball, LInfBall):
            low = _within(batch.x - ball.epsilon, batch.x, ball).clamp_min(0)
            high = _within(batch.x + ball.epsilon, batch.x, ball).clamp_max(1)
        return cls(ball, batch.x, batch.held(low), batch.held(high))

    def project(self, at: Tensor) -> Tensor:
        """The ball's projection, then the clamp: the nearest point for L∞, a feasible one else."""
        if not isinstance(self.ball, LInfBall):
            at = self.x + self.ball.project(at - self.x)
        return torch.clamp(at, self.low, self.high)

    def step(self, at: Tensor, direction: Tensor, step_size: float | Tensor) -> Tensor:
        """One projected step of that length along the ball's steepest direction."""
        return self.project(at + step_size * self.ball.steepest(direction))

    def rows(self, kept: Tensor) -> Region:
        """That of some of the images; `kept` is a mask or indices."""
        return Region(rows_of(self.ball, kept), self.x[kept], self.low[kept], self.high[kept])


def _within(bound: Tensor, x: Tensor, ball: Ball) -> Tensor:
    """The bound, or the number next to it towards x where rounding put it outside the ball."""
    outside = (bound.double() - x.double()).abs() > torch.as_tensor(ball.epsilon).double()
    return torch.where(outside, torch.nextafter(bound, x), bound)
