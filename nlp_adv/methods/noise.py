"""Training on random perturbations: the baseline that costs no gradient.

Jain et al., "NEFTune: Noisy Embeddings Improve Instruction Finetuning", ICLR 2024,
https://arxiv.org/abs/2310.05914, Algorithm 1:

    δ ~ uniform,   min_θ  E  w·L(θ, x, y) + (1−w)·L(θ, x + δ, y)
"""

from dataclasses import dataclass
from typing import ClassVar

from nlp_adv.methods.method import StepReport, check_bounded, check_weight, mixed
from nlp_adv.methods.scaled import Scaled
from nlp_adv.perturbation import Ball, L2Ball, Objective, full_pass


@dataclass(frozen=True)
class Noise:
    """δ uniform in the ball; what an attack of the same ε must beat.

    Args:
        ball: where δ is drawn. In many dimensions an L2 sample lies close to the sphere.
        clean_weight: w.

    Deviations: NEFTune draws from the cube U(−1, 1)·α/√(L·D), L counting padding; its norm is
    α/√3, so α = 5 is an L2 ball of ε = 2.9. Here padding is neither moved nor counted, and an
    encoder–decoder model is perturbed too.

    Cost: 1, with a clean term 2.
    """

    ball: Ball
    clean_weight: float = 0.0

    name: ClassVar[str] = "noise"
    mixes_rows: ClassVar[bool] = True
    inner_passes: ClassVar[int] = 0

    def __post_init__(self) -> None:
        check_weight(self.clean_weight)
        check_bounded(self.ball, "noise is uniform in the ball")

    @property
    def passes(self) -> int:
        """The noisy pass, and a clean one when it has weight."""
        return 1 + (self.clean_weight > 0)

    def step(self, objective: Objective) -> StepReport:
        """One step of noisy training."""
        w, clean = self.clean_weight, None
        ball = objective.within(self.ball)
        delta = ball.sample(objective.mask, objective.generator)
        if w > 0:
            clean = full_pass(objective, delta * 0, weight=w).loss
        noisy = full_pass(objective, delta, weight=1 - w).loss
        return mixed(w, clean, noisy)

    @classmethod
    def preset(cls) -> Scaled:
        """ε as for the attacks, so that it is their control; NEFTune's α belongs to its models."""
        return Scaled(cls(L2Ball(0.03)), unit="relative")
