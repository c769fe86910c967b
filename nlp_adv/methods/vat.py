"""VAT: virtual adversarial training, which needs no labels.

Miyato et al., "Virtual Adversarial Training: A Regularization Method for Supervised and
Semi-Supervised Learning", TPAMI 2019, https://arxiv.org/abs/1704.03976, Algorithm 1:

    d ~ N(0, I)/‖·‖,   K times:  g = ∇r D(f̂(x), f(x + r)) at r = ξ·d,   d ← g/‖g‖
    min_θ  E  L(θ, x, y) + β·D( f̂(x), f(x + ε·d) ),   D = KL, f̂ held still

Liu et al., "Adversarial Training for Large Neural Language Models" (ALUM), 2020,
https://arxiv.org/abs/2004.08994, use it on word embeddings with a symmetric divergence.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nlp_adv.methods.method import (
    StepReport,
    check_bounded,
    check_nonnegative,
    check_off_centre,
    check_steps,
)
from nlp_adv.methods.scaled import Scaled
from nlp_adv.perturbation import Ball, L2Ball, Objective, Output


@dataclass(frozen=True)
class VAT:
    """The clean loss, and β times the divergence along the output's most sensitive direction.

    Args:
        ball: the constraint on δ; the paper's is L2.
        xi: ξ, the length at which the direction is measured: short beside ε, long enough for the
            model's precision.
        steps: K power iterations.
        beta: the weight of the divergence.
        symmetric: D = KL both ways, as ALUM does; the clean output is held still in both.

    Rows without a label (−100) take part in the divergence alone, and so do whole batches without
    labels; their losses count as 0.

    Deviations: K ascents of ALUM are K projected steps; here they are power iterations, the same
    for the usual K = 1. Its code takes no norm over a sentence but over each token
    (`per="token"`), and gives the embedding no gradient from the divergence. An example whose
    gradient is 0 or not finite is left at δ = 0. For regression D is (f̂(x) − f(x + δ))².

    Cost: ⅔K + 2.
    """

    ball: Ball
    xi: float
    steps: int = 1
    beta: float = 1.0
    symmetric: bool = False

    name: ClassVar[str] = "vat"
    compares_outputs: ClassVar[bool] = True
    passes: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_bounded(self.ball, "vat steps to its surface")
        check_off_centre("xi", self.xi, self.ball)
        check_steps(self.steps, at_least=1)
        check_nonnegative("beta", self.beta)

    @property
    def inner_passes(self) -> int:
        """K."""
        return self.steps

    @property
    def idle(self) -> str | None:
        """Why this is ordinary training, where it is."""
        if self.beta == 0:
            return (
                "beta is 0, so that the divergence has no weight and the loss is the clean one; "
                "give one > 0."
            )
        return None

    def step(self, objective: Objective) -> StepReport:
        """One step of VAT."""
        clean = objective.forward(needs_loss=False)
        if clean.labelled:
            objective.backward(clean.loss)
        clean = clean.detached()

        def divergence(output: Output) -> Tensor:
            return objective.divergence(clean, output, symmetric=self.symmetric)

        delta = self._worst(objective, divergence)
        adversarial = objective.forward(delta, needs_loss=False)
        moved = divergence(adversarial)
        objective.backward(self.beta * moved)
        moved = moved.detach()
        loss = clean.loss + self.beta * moved
        return StepReport(loss, adversarial.loss.detach(), clean.loss, divergence=moved)

    def _worst(self, objective: Objective, divergence: Callable[[Output], Tensor]) -> Tensor:
        """ε·d after K power iterations."""
        ball, mask = objective.within(self.ball), objective.mask
        gauss = torch.empty_like(mask, memory_format=torch.contiguous_format)
        direction = ball.steepest(gauss.normal_(generator=objective.generator) * mask)
        for _ in range(self.steps):
            probe = ball.project(self.xi * direction)
            direction = ball.steepest(objective.gradient(probe, divergence))
        return ball.project(ball.epsilon * direction)

    @classmethod
    def preset(cls) -> Scaled:
        """K = 1 and β = 1 as in the paper; ε and ξ as shares of the embeddings."""
        return Scaled(cls(L2Ball(0.03), xi=0.01), unit="relative")
