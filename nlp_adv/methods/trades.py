"""TRADES: trade robustness against accuracy.

Zhang et al., "Theoretically Principled Trade-off between Robustness and Accuracy", ICML 2019,
https://arxiv.org/abs/1901.08573, Algorithm 1:

    min_θ  E  L(θ, x, y) + β·max_{‖δ‖ ≤ ε} KL( f(x) ‖ f(x + δ) )
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from nlp_adv.methods.method import (
    StepReport,
    check_nonnegative,
    check_off_centre,
    check_steps,
    farthest,
)
from nlp_adv.methods.scaled import Scaled
from nlp_adv.perturbation import Ball, L2Ball, LInfBall, Objective


@dataclass(frozen=True)
class TRADES:
    """The clean loss, and β times how far an attack can move the output.

    Args:
        ball: the constraint on δ; the paper's is L∞.
        step_size: α, in the units of δ.
        steps: K ascents.
        beta: β = 1/λ, the weight of the divergence.
        init_magnitude: m, the size of the random start (see `FreeLB`); at δ = 0 the divergence has
            no gradient.

    Deviations: the released code starts at 0.001·N(0, 1) per pixel, attacks in evaluation mode, and
    computes the clean output anew in every step; here the start is m, all passes of a step share
    one dropout mask, and the clean output is computed once. As there, the divergence also trains
    the clean output. For regression it is (f(x) − f(x + δ))².

    Cost: ⅔K + 2; the graphs of two passes are held at once.
    """

    ball: Ball
    step_size: float | Tensor
    steps: int
    beta: float
    init_magnitude: float

    name: ClassVar[str] = "trades"
    compares_outputs: ClassVar[bool] = True
    passes: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_steps(self.steps, at_least=1)
        check_nonnegative("step_size", self.step_size)
        check_nonnegative("beta", self.beta)
        check_off_centre("init_magnitude", self.init_magnitude, self.ball)

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
        """One step of TRADES."""
        clean = objective.forward()
        delta = farthest(
            objective,
            clean,
            ball=objective.within(self.ball),
            step_size=self.step_size,
            steps=self.steps,
            init_magnitude=self.init_magnitude,
        )
        adversarial = objective.forward(delta)
        moved = objective.divergence(clean, adversarial)
        loss = clean.loss + self.beta * moved
        objective.backward(loss)
        return StepReport(loss, adversarial.loss, clean.loss, moved).detached()

    @classmethod
    def preset(cls) -> Scaled:
        """β = 6, of the 1 to 10 that the authors' README names; ε as a share of the embeddings."""
        return Scaled(cls(L2Ball(0.03), 0.015, 3, 6.0, init_magnitude=0.01), unit="relative")

    @classmethod
    def image_preset(cls) -> "TRADES":
        """The authors' code on CIFAR-10: ε = 8/255, α = 2/255 (there 0.007), K = 10, β = 6."""
        return cls(LInfBall(8 / 255), 2 / 255, 10, 6.0, init_magnitude=0.001)
