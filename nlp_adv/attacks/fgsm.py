"""FGM and FGSM: one step along the gradient, to the surface of the ball.

Goodfellow, Shlens and Szegedy, "Explaining and Harnessing Adversarial Examples", ICLR 2015,
https://arxiv.org/abs/1412.6572, section 4:

    x' = x + ε·argmax_{‖v‖≤1} ⟨v, ∇x L(x, y)⟩,   for L∞:  x + ε·sign(∇x L(x, y))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from nlp_adv.attacks.attack import Attack
from nlp_adv.attacks.losses import LOSSES, Loss, check_loss
from nlp_adv.attacks.region import check_ball, norm_name, region_of, with_epsilon
from nlp_adv.attacks.result import AttackResult
from nlp_adv.attacks.rows import Rows
from nlp_adv.attacks.trace import Trace
from nlp_adv.perturbation import Ball, LInfBall, Unit


@dataclass(frozen=True)
class FGM(Attack):
    """One step to the surface of a ball.

        FGM(L2Ball(1.0))(model, x, y)

    The inverse experiment: with the right class as target the same step goes down the loss, and
    the model grows surer of it.

    Deviations: in L1 the one pixel that moves is the steepest of those that have room to.

    Args:
        ball: `LInfBall`, `L2Ball` or `L1Ball`, its radius in the unit, one or one an example.
        loss: what is climbed.
        unit: of the radius; see `PGD`.

    Cost: one gradient, and two forward passes to say what came of it; one where nothing is rounded
    to pictures.
    """

    ball: Ball
    loss: Loss = "cross_entropy"
    unit: Unit = "absolute"

    def __post_init__(self) -> None:
        check_ball(self.ball)
        check_loss(self.loss)

    @property
    def name(self) -> str:
        """fgm-l2, fgm-l1, or fgsm."""
        norm = norm_name(self.ball)
        return "fgsm" if norm == "linf" else f"fgm-{norm}"

    def run(self, rows: Rows) -> AttackResult:
        """The attack on examples, in a quiet model."""
        return self.sweep(rows, [self.ball.epsilon])[0]

    def sweep(self, rows: Rows, epsilons: Sequence[float | Tensor]) -> list[AttackResult]:
        """The attack at several radii; its direction is the same for all.

        Cost: one gradient in all, and two forward passes a radius.
        """
        grad, losses, logits = rows.gradient(rows.clean, LOSSES[self.loss])
        results = []
        for epsilon in epsilons:
            region = region_of(rows, with_epsilon(self.ball, epsilon), self.unit)
            trace = Trace(rows, LOSSES[self.loss])
            trace.add(rows.clean, losses, grad, logits=logits)
            direction = region.direction(grad, rows.clean)
            point = region.step(rows.clean, direction, region.ball.epsilon)
            results.append(trace.result(self.name, point))
        return results


@dataclass(frozen=True)
class FGSM(Attack):
    """The fast gradient sign method: one signed step of ε in every pixel, FGM in an L∞ ball.

        FGSM(8 / 255)(model, x, y)

    Args:
        epsilon: ε in the unit, one or one an example.
        loss: what is climbed.
        unit: of the radius; see `PGD`.

    Cost: FGM's.
    """

    epsilon: float | Tensor
    loss: Loss = "cross_entropy"
    unit: Unit = "absolute"

    def __post_init__(self) -> None:
        FGM(self.ball, self.loss)  # refuses what is no radius

    @property
    def name(self) -> str:
        """fgsm."""
        return "fgsm"

    @property
    def ball(self) -> LInfBall:
        """{δ : max|δᵢ| ≤ ε}."""
        return LInfBall(self.epsilon)

    def run(self, rows: Rows) -> AttackResult:
        """The attack on examples, in a quiet model."""
        return self.sweep(rows, [self.epsilon])[0]

    def sweep(self, rows: Rows, epsilons: Sequence[float | Tensor]) -> list[AttackResult]:
        """The attack at several radii, from one gradient."""
        return FGM(self.ball, self.loss, self.unit).sweep(rows, epsilons)
