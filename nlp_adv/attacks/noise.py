"""Random δ of length ε: what any direction does, of which an attack must find a better one."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nlp_adv.attacks.attack import Attack
from nlp_adv.attacks.losses import margin
from nlp_adv.attacks.region import check_ball, norm_name, region_of
from nlp_adv.attacks.result import AttackResult
from nlp_adv.attacks.rows import Rows, Standing
from nlp_adv.attacks.trace import Trace
from nlp_adv.perturbation import Ball, Unit


@dataclass(frozen=True)
class Noise(Attack):
    """δ = ε·s/‖s‖, s uniform in the ball, then brought within bounds; the first that fools is kept.

    For L2 that is a uniform direction, for L∞ and L1 a point of the sphere drawn by the volume of
    the cone below it.

    Args:
        ball: `LInfBall`, `L2Ball` or `L1Ball`, its radius in the unit.
        draws: of each example.
        seed: of the draws; they belong to the example, not to the batch.
        unit: of the radius; see `PGD`.

    Cost: at most `draws` forward passes, on the examples that are not fooled yet, and three to say
    what came of it, two where nothing is rounded to pictures.
    """

    ball: Ball
    draws: int = 10
    seed: int = 0
    unit: Unit = "absolute"

    def __post_init__(self) -> None:
        check_ball(self.ball)
        if self.draws < 1:
            raise ValueError(f"draws must be ≥ 1, not {self.draws}.")

    @property
    def name(self) -> str:
        """Such as noise-linf."""
        return f"noise-{norm_name(self.ball)}"

    def run(self, rows: Rows) -> AttackResult:
        """The attack on examples, in a quiet model."""
        trace, standing = Trace(rows, margin), Standing(rows)
        region, at = region_of(rows, self.ball, self.unit), rows.clean
        for draw in range(self.draws):
            at = region.surface(10_000 * self.seed + draw)
            with torch.no_grad():
                logits = standing.rows.logits(at)
            trace.looked(standing.index)
            stays = standing.leave(at, standing.rows.fooled(logits))
            if stays is not None:
                region, at = region.rows(stays), at[stays]
                if not len(standing):
                    break
        return trace.result(self.name, standing.end(at))
