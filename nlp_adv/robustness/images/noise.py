"""Random δ of length ε: what any direction does, of which an attack must find a better one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from nlp_adv.attacks import Attack, AttackResult
from nlp_adv.attacks.batch import ImageBatch
from nlp_adv.attacks.losses import margin
from nlp_adv.attacks.radii import ball_for, check_ball, rows_of
from nlp_adv.attacks.trace import Trace
from nlp_adv.perturbation import Ball


@dataclass(frozen=True)
class PixelNoise(Attack):
    """δ = ε·s/‖s‖, s uniform in the ball, then clamped to the box; the first that fools is kept.

    For L2 that is a uniform direction, for L∞ and L1 a point of the sphere drawn by the volume of
    the cone below it.

    Args:
        ball: `LInfBall`, `L2Ball` or `L1Ball`.
        draws: of each image.
        seed: of the draws; they belong to the image, not to the batch.

    Cost: at most `draws` forward passes, on the images that still stand, and three to say what
    came of it.
    """

    ball: Ball
    draws: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        check_ball(self.ball)
        if self.draws < 1:
            raise ValueError(f"draws must be ≥ 1, not {self.draws}.")

    @property
    def name(self) -> str:
        """Such as noise-linf."""
        return f"noise-{type(self.ball).__name__.removesuffix('Ball').lower()}"

    def run(self, batch: ImageBatch) -> AttackResult:
        """The attack on a batch, in a quiet model."""
        adv = batch.x.clone()
        ball = ball_for(self.ball, batch.x)
        unit = replace(ball, epsilon=1.0)  # type: ignore[type-var]
        live, rows = batch, torch.arange(len(batch), device=adv.device)
        for draw in range(self.draws):
            inside = live.random_start(unit, 10_000 * self.seed + draw)
            norm = ball.norm(inside)
            delta = torch.where(norm > 0, inside * ball.epsilon / norm, 0.0)
            at = live.moved(live.in_box(ball).project(delta), ball)
            with torch.no_grad():
                logits = live.logits(at)
            adv[rows] = at
            stands = ~live.fooled(logits)
            live, ball, rows = live.rows(stands), rows_of(ball, stands), rows[stands]
            if not len(rows):
                break
        return Trace(batch, margin).result(self.name, adv)
