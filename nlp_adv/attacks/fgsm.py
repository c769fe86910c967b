"""FGM and FGSM: one step along the gradient, to the surface of the ball.

Goodfellow, Shlens and Szegedy, "Explaining and Harnessing Adversarial Examples", ICLR 2015,
https://arxiv.org/abs/1412.6572, section 4:

    x' = x + ε·argmax_{‖v‖≤1} ⟨v, ∇x L(x, y)⟩,   for L∞:  x + ε·sign(∇x L(x, y))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from nlp_adv.attacks.attack import Attack
from nlp_adv.attacks.batch import ImageBatch
from nlp_adv.attacks.losses import LOSSES, Loss, check_loss
from nlp_adv.attacks.radii import ball_for, check_ball
from nlp_adv.attacks.region import Region
from nlp_adv.attacks.result import AttackResult
from nlp_adv.attacks.trace import Trace
from nlp_adv.perturbation import Ball, LInfBall


@dataclass(frozen=True)
class FGM(Attack):
    """One step to the surface of a ball.

        FGM(L2Ball(1.0))(model, x, y)

    The inverse experiment: with the right class as target the same step goes down the loss, and
    the model grows surer of it.

    Deviations: in L1 the one pixel that moves is the steepest of those that have room to.

    Args:
        ball: `LInfBall`, `L2Ball` or `L1Ball`, its radius in pixels, one or one an image.
        loss: what is climbed.

    Cost: one gradient, and two forward passes to say what came of it.
    """

    ball: Ball
    loss: Loss = "cross_entropy"

    def __post_init__(self) -> None:
        check_ball(self.ball)
        check_loss(self.loss)

    @property
    def name(self) -> str:
        """fgm-l2, fgm-l1, or fgsm."""
        norm = type(self.ball).__name__.removesuffix("Ball").lower()
        return "fgsm" if norm == "linf" else f"fgm-{norm}"

    def run(self, batch: ImageBatch) -> AttackResult:
        """The attack on a batch, in a quiet model."""
        return self.sweep(batch, [self.ball.epsilon])[0]

    def sweep(self, batch: ImageBatch, epsilons: Sequence[float | Tensor]) -> list[AttackResult]:
        """The attack at several radii; its direction is the same for all.

        Cost: one gradient in all, and two forward passes a radius.
        """
        trace = Trace(batch, LOSSES[self.loss])
        grad, losses, logits = batch.gradient(batch.x, LOSSES[self.loss])
        trace.add(batch.x, losses, grad, logits=logits)
        results = []
        for epsilon in epsilons:
            ball = ball_for(replace(self.ball, epsilon=epsilon), batch.x)  # type: ignore[type-var]
            direction = batch.direction(grad, batch.x, ball)
            adv = Region.of(batch, ball).step(batch.x, direction, ball.epsilon)
            results.append(trace.result(self.name, adv))
        return results


@dataclass(frozen=True)
class FGSM(Attack):
    """The fast gradient sign method: one signed step of ε in every pixel, FGM in an L∞ ball.

        FGSM(8 / 255)(model, x, y)

    Args:
        epsilon: ε in pixels, one or one an image.
        loss: what is climbed.

    Cost: FGM's.
    """

    epsilon: float | Tensor
    loss: Loss = "cross_entropy"

    def __post_init__(self) -> None:
        FGM(LInfBall(self.epsilon), self.loss)  # refuses what is no radius

    @property
    def name(self) -> str:
        """fgsm."""
        return "fgsm"

    def run(self, batch: ImageBatch) -> AttackResult:
        """The attack on a batch, in a quiet model."""
        return self.sweep(batch, [self.epsilon])[0]

    def sweep(self, batch: ImageBatch, epsilons: Sequence[float | Tensor]) -> list[AttackResult]:
        """The attack at several radii, from one gradient."""
        return FGM(LInfBall(self.epsilon), self.loss).sweep(batch, epsilons)
