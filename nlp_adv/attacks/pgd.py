"""PGD on pixels, and what it is with one step, without a start of its own, or with momentum.

Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018,
https://arxiv.org/abs/1706.06083, section 2.1:

    x⁰ = x + u, u uniform in the ball (or x itself);  x^{k+1} = Π( x^k + α·argmax_{‖v‖≤1} ⟨v, ∇L⟩ )

Without random start it is BIM (Kurakin, Goodfellow and Bengio, https://arxiv.org/abs/1607.02533).
With momentum μ it is MI-FGSM (Dong et al., CVPR 2018, https://arxiv.org/abs/1710.06081, eq. (6)):
the direction is that of G^{k+1} = μ·G^k + ∇L/‖∇L‖₁.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nlp_adv.attacks.attack import Attack
from nlp_adv.attacks.batch import ImageBatch
from nlp_adv.attacks.losses import LOSSES, Loss, check_loss
from nlp_adv.attacks.radii import ball_for, check_ball, finite_rows
from nlp_adv.attacks.region import Region
from nlp_adv.attacks.result import AttackResult
from nlp_adv.attacks.sparse import SparseL1Ball
from nlp_adv.attacks.trace import Trace
from nlp_adv.perturbation import Ball, L1Ball


@dataclass(frozen=True)
class PGD(Attack):
    """K projected steps in a ball.

        result = PGD(LInfBall(8 / 255), step_size=2 / 255, steps=10)(model, x, y)

    Args:
        ball: `LInfBall`, `L2Ball` or `L1Ball`, its radius in pixels, one or one an image.
        step_size: α, in pixels.
        steps: K.
        random_start: begin uniformly in the ball instead of at x. The start belongs to the image
            and the seed, not to the batch.
        momentum: μ.
        loss: what is climbed.
        until_fooled: an image leaves the batch with the first δ that succeeds: as many successes
            for less. Without it all images make all steps, and the last δ is returned.
        seed: of random starts.

    Deviations: an image whose gradient is not finite stays where it is for that step; the L1 step
    goes to the largest tenth of the coordinates (see `SparseL1Ball`).

    Cost: K gradients, and two forward passes to say what came of it, three with a random start.
    """

    ball: Ball
    step_size: float
    steps: int
    random_start: bool = True
    momentum: float = 0.0
    loss: Loss = "cross_entropy"
    until_fooled: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_ball(self.ball)
        check_loss(self.loss)
        if self.steps < 0 or not 0 <= self.step_size < float("inf"):
            raise ValueError("steps and step_size must be ≥ 0 and finite.")
        if self.momentum < 0:
            raise ValueError(f"momentum must be ≥ 0, not {self.momentum}.")

    def run(self, batch: ImageBatch) -> AttackResult:
        """The attack on a batch, in a quiet model."""
        ball = ball_for(self.ball, batch.x)
        if type(ball) is L1Ball:
            ball = SparseL1Ball(ball.epsilon)
        region, trace, at = Region.of(batch, ball), Trace(batch, LOSSES[self.loss]), batch.x
        if self.random_start and self.steps > 0:
            at = region.project(batch.x + batch.random_start(ball, self.seed))
        adv, velocity = at.clone(), torch.zeros_like(at)
        live, rows = batch, torch.arange(len(batch), device=adv.device)
        for _ in range(self.steps):
            grad, losses, logits = live.gradient(at, LOSSES[self.loss])
            trace.add(at, losses, grad, rows, logits=logits)
            if self.until_fooled:
                adv[rows] = at
                stands = ~live.fooled(logits)
                live, region, rows = live.rows(stands), region.rows(stands), rows[stands]
                at, grad, velocity = at[stands], grad[stands], velocity[stands]
                if not len(rows):
                    break
            velocity = self._velocity(velocity, grad)
            direction = live.direction(velocity, at, ball)
            if self.momentum:  # which would carry an image on without a gradient
                direction = torch.where(finite_rows(grad), direction, 0.0)
            at = region.step(at, direction, self.step_size)
        adv[rows] = at
        return trace.result(self.name, adv)

    @property
    def name(self) -> str:
        """Such as pgd-linf, bim-linf without random start, mi-fgsm with momentum."""
        norm = type(self.ball).__name__.removesuffix("Ball").lower()
        kind = "mi-fgsm" if self.momentum else "pgd" if self.random_start else "bim"
        return f"{kind}-{norm}"

    def _velocity(self, velocity: Tensor, grad: Tensor) -> Tensor:
        if self.momentum == 0:
            return grad
        length = grad.abs().sum(dim=tuple(range(1, grad.ndim)), keepdim=True)
        usable = torch.isfinite(length) & (length > 0)
        return self.momentum * velocity + torch.where(usable, grad / length, 0.0)
