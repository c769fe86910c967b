"""FGSM: the fast gradient sign method, also from a random start.

Goodfellow, Shlens and Szegedy, "Explaining and Harnessing Adversarial Examples", ICLR 2015,
https://arxiv.org/abs/1412.6572, section 6:

    min_θ  E  w·L(θ, x, y) + (1−w)·L(θ, x + ε·sign(∇x L(θ, x, y)), y)

Wong, Rice and Kolter, "Fast is better than free", ICLR 2020, https://arxiv.org/abs/2001.03994,
Algorithm 3 (FGSM-RS): δ₀ ~ U(−ε, ε), δ = Π(δ₀ + α·sign(∇δ L)), α = 1.25·ε, w = 0.
"""

from dataclasses import dataclass
from typing import ClassVar

from nlp_adv.methods.method import StepReport, check_bounded, check_nonnegative, check_weight
from nlp_adv.methods.pgd import PGD
from nlp_adv.methods.scaled import Scaled
from nlp_adv.perturbation import Ball, LInfBall, Objective


@dataclass(frozen=True)
class FGSM:
    """One signed step in an L∞ ball: PGD with K = 1.

    Args:
        ball: the constraint on δ; both papers use L∞.
        step_size: α; ε without a random start, 1.25·ε with one.
        random_start: start uniformly in the ball (Wong et al.).
        clean_weight: w; ½ is Goodfellow et al., 0 is Wong et al.

    Cost: with a clean term 2, from a random start 2⅔; without one 1⅔.
    """

    ball: Ball
    step_size: float
    random_start: bool = False
    clean_weight: float = 0.5

    name: ClassVar[str] = "fgsm"
    mixes_rows: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_nonnegative("step_size", self.step_size)
        check_weight(self.clean_weight)
        if self.random_start:
            check_bounded(self.ball, "a random start is uniform in the ball")

    @property
    def passes(self) -> int:
        """The adversarial pass, and a clean one when it has weight."""
        return self._pgd.passes

    @property
    def inner_passes(self) -> int:
        """None when the clean pass gives the gradient away."""
        return self._pgd.inner_passes

    @property
    def _pgd(self) -> PGD:
        return PGD(self.ball, self.step_size, 1, self.random_start, self.clean_weight)

    def step(self, objective: Objective) -> StepReport:
        """One step of FGSM training."""
        return self._pgd.step(objective)

    @classmethod
    def preset(cls) -> Scaled:
        """Goodfellow et al.: α = ε, w = ½; their ε = 0.25 is in pixels, here a share of x."""
        return Scaled(cls(LInfBall(0.03), step_size=0.03), unit="relative")

    @classmethod
    def image_preset(cls) -> "FGSM":
        """Wong et al.: a random start and α = 1.25·ε, ε = 8/255; adversarial loss alone."""
        ball = LInfBall(8 / 255)
        return cls(ball, step_size=10 / 255, random_start=True, clean_weight=0.0)
