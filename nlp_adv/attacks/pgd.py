"""PGD, and what it is with one step, without a start of its own, or with momentum.

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
from nlp_adv.attacks.losses import LOSSES, Loss, check_loss
from nlp_adv.attacks.region import check_ball, finite_rows, norm_name, region_of
from nlp_adv.attacks.result import AttackResult
from nlp_adv.attacks.rows import Rows, Standing
from nlp_adv.attacks.sparse import sparse_steps
from nlp_adv.attacks.trace import Trace
from nlp_adv.perturbation import Ball, Unit


@dataclass(frozen=True)
class PGD(Attack):
    """K projected steps in a ball.

        result = PGD(LInfBall(8 / 255), step_size=2 / 255, steps=10)(model, x, y)

    Args:
        ball: `LInfBall`, `L2Ball` or `L1Ball`, its radius in the unit, one or one an example.
        step_size: α, in the unit.
        steps: K.
        random_start: begin uniformly in the ball instead of at x. The start belongs to the example
            and the seed, not to the batch.
        momentum: μ.
        loss: what is climbed.
        until_fooled: an example leaves the batch with the first δ that succeeds: as many successes
            for less. Without it all images make all steps, and the last δ is returned. On
            embeddings and layers examples always leave.
        seed: of random starts.
        unit: of ball and step: "absolute" (pixels, on images), or on embeddings and layers
            "relative", a share of the norm of what the model computes there; see `Unit`.
        shorten: the steps shorten to α/K: α_k = α·(1 − (k − 1)/K). A first step of 2ε crosses the
            ball whatever its curvature, as in APGD; one of a constant 2.5·ε/K follows the surface,
            and makes no more of more steps.

    Deviations: an example whose gradient is not finite stays where it is for that step; the L1 step
    goes to the largest tenth of the coordinates (see `SparseL1Ball`).

    Cost: K gradients, and two forward passes to say what came of it, three with a random start; one
    less where nothing is rounded to pictures.
    """

    ball: Ball
    step_size: float
    steps: int
    random_start: bool = True
    momentum: float = 0.0
    loss: Loss = "cross_entropy"
    until_fooled: bool = False
    seed: int = 0
    unit: Unit = "absolute"
    shorten: bool = False

    def __post_init__(self) -> None:
        check_ball(self.ball)
        check_loss(self.loss)
        if self.steps < 0 or not 0 <= self.step_size < float("inf"):
            raise ValueError("steps and step_size must be ≥ 0 and finite.")
        if self.momentum < 0:
            raise ValueError(f"momentum must be ≥ 0, not {self.momentum}.")

    def run(self, rows: Rows) -> AttackResult:
        """The attack on examples, in a quiet model."""
        trace, standing = Trace(rows, LOSSES[self.loss]), Standing(rows)
        region = sparse_steps(region_of(rows, self.ball, self.unit))
        at = region.start(self.seed) if self.random_start and self.steps > 0 else rows.clean
        velocity, leaves = torch.zeros_like(at), self.until_fooled or rows.leaves
        for k in range(self.steps):
            grad, losses, logits = standing.rows.gradient(at, LOSSES[self.loss])
            trace.add(at, losses, grad, standing.index, logits=logits)
            if leaves and (stays := standing.leave(at, standing.rows.fooled(logits))) is not None:
                region, at = region.rows(stays), at[stays]
                grad, velocity = grad[stays], velocity[stays]
                if not len(standing):
                    break
            velocity = self._velocity(velocity, grad)
            direction = region.direction(velocity, at)
            if self.momentum:  # which would carry an example on without a gradient
                direction = torch.where(finite_rows(grad), direction, 0.0)
            at = region.step(at, direction, region.length(self._step(k)))
        return trace.result(self.name, standing.end(at))

    def _step(self, k: int) -> float:
        """α_k, k from 0."""
        return self.step_size * (1 - k / self.steps) if self.shorten else self.step_size

    @property
    def name(self) -> str:
        """Such as pgd-linf, bim-linf without random start, mi-fgsm with momentum."""
        kind = "mi-fgsm" if self.momentum else "pgd" if self.random_start else "bim"
        return f"{kind}-{norm_name(self.ball)}"

    def _velocity(self, velocity: Tensor, grad: Tensor) -> Tensor:
        if self.momentum == 0:
            return grad
        length = grad.abs().sum(dim=tuple(range(1, grad.ndim)), keepdim=True)
        usable = torch.isfinite(length) & (length > 0)
        return self.momentum * velocity + torch.where(usable, grad / length, 0.0)
