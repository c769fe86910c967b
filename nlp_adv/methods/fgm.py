"""FGM: the fast gradient method on word embeddings.

Miyato, Dai and Goodfellow, "Adversarial Training Methods for Semi-Supervised Text Classification",
ICLR 2017, https://arxiv.org/abs/1605.07725, eq. (2)–(4):

    δ = ε · g / ‖g‖₂,   g = ∇x L(θ, x, y),   min_θ  E  w·L(θ, x, y) + (1−w)·L(θ, x + δ, y)
"""

from dataclasses import dataclass
from typing import ClassVar

from nlp_adv.methods.method import StepReport, check_bounded, check_weight
from nlp_adv.methods.pgd import PGD
from nlp_adv.methods.scaled import Scaled
from nlp_adv.perturbation import Ball, L2Ball, Objective


@dataclass(frozen=True)
class FGM:
    """One step of full length from the clean point: PGD with K = 1, α = ε and no random start.

    Args:
        ball: the constraint on δ; the paper's is L2, one norm per example.
        clean_weight: w; ½ weighs the two losses alike, as the paper does.

    Deviations: the paper adds the two losses, here they are averaged, so that the learning rate
    keeps its meaning; it normalises embeddings to unit variance first, here ε has a unit instead.
    The widespread variant that writes into the embedding matrix is `FGMMatrix`.

    Cost: 2; without a clean term 1⅔.
    """

    ball: Ball
    clean_weight: float = 0.5

    name: ClassVar[str] = "fgm"
    mixes_rows: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_weight(self.clean_weight)
        check_bounded(self.ball, "fgm steps to its surface")

    @property
    def passes(self) -> int:
        """The adversarial pass, and a clean one when it has weight."""
        return self._pgd.passes

    @property
    def inner_passes(self) -> int:
        """None when the clean pass gives g away."""
        return self._pgd.inner_passes

    @property
    def _pgd(self) -> PGD:
        epsilon = self.ball.epsilon
        return PGD(self.ball, epsilon, 1, random_start=False, clean_weight=self.clean_weight)

    def step(self, objective: Objective) -> StepReport:
        """One step of FGM training."""
        return self._pgd.step(objective)

    @classmethod
    def preset(cls) -> Scaled:
        """The paper's ε = 5 belongs to its normalised embeddings; here ε is a share of them."""
        return Scaled(cls(L2Ball(0.03)), unit="relative")
