"""PGD adversarial training.

Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018,
https://arxiv.org/abs/1706.06083, eq. (2.1), with an optional clean term of weight w:

    min_θ  E  w·L(θ, x, y) + (1−w)·max_{‖δ‖ ≤ ε} L(θ, x + δ, y)

The inner maximum is sought by K projected steps: δ ← Π(δ + α·argmax_{‖v‖≤1} ⟨v, ∇δ L⟩).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nlp_adv.methods.method import (
    StepReport,
    check_bounded,
    check_nonnegative,
    check_steps,
    check_weight,
    mixed,
)
from nlp_adv.methods.scaled import Scaled
from nlp_adv.perturbation import Ball, L2Ball, LInfBall, Objective, advance, ascend, full_pass


@dataclass(frozen=True)
class PGD:
    """Attack with K steps, then train on the result.

    Args:
        ball: the constraint on δ.
        step_size: α, in the units of δ.
        steps: K.
        random_start: start uniformly in the ball (Madry et al.), not at the clean point.
        clean_weight: w, the share of the clean loss; 0 is the paper's objective.

    Deviations: the folk version for text perturbs the embedding matrix (see `FGMMatrix`) and adds
    the clean and the adversarial gradient unweighted; w = ½ is that, halved, so that the learning
    rate keeps its meaning.

    Cost: ⅔K + 1. With a clean term ⅔(K−1) + 2, the first δ-gradient coming free with the clean
    pass, or ⅔K + 2 from a random start.
    """

    ball: Ball
    step_size: float | Tensor
    steps: int
    random_start: bool = True
    clean_weight: float = 0.0

    name: ClassVar[str] = "pgd"
    mixes_rows: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_steps(self.steps, at_least=0)
        check_nonnegative("step_size", self.step_size)
        check_weight(self.clean_weight)
        if self.random_start:
            check_bounded(self.ball, "a random start is uniform in the ball")

    @property
    def passes(self) -> int:
        """The adversarial pass, and a clean one when it has weight."""
        return 1 + (self.clean_weight > 0)

    @property
    def inner_passes(self) -> int:
        """K, less the one that a clean pass gives away."""
        return self.steps - self._first_step_is_free

    @property
    def _first_step_is_free(self) -> bool:
        return self.clean_weight > 0 and self.steps > 0 and not self.random_start

    def step(self, objective: Objective) -> StepReport:
        """One step of adversarial training."""
        w, clean = self.clean_weight, None
        ball, step_size = objective.within(self.ball), self.step_size
        origin = torch.zeros_like(objective.mask)
        delta = origin
        if self.random_start:
            delta = ball.sample(objective.mask, objective.generator)
        if w > 0:
            clean, grad = full_pass(objective, origin, weight=w)
            if self._first_step_is_free:
                delta = advance(delta, grad, ball=ball, step_size=step_size)
        steps = self.inner_passes
        delta = ascend(objective.gradient, delta, ball=ball, step_size=step_size, steps=steps)
        adversarial = full_pass(objective, delta, weight=1 - w).loss
        return mixed(w, clean, adversarial)

    @classmethod
    def preset(cls) -> Scaled:
        """As text is trained: three steps from the clean point, clean and adversarial loss alike.

        Without the clean term (w = 0, the paper's objective) a fresh classification head needs a
        warm-up: from the first step on it learnt a constant answer at this ε.
        """
        return Scaled(cls(L2Ball(0.03), 0.015, 3, random_start=False, clean_weight=0.5), "relative")

    @classmethod
    def image_preset(cls) -> "PGD":
        """Madry et al.'s training on CIFAR-10: ε = 8/255, α = 2/255, K = 7, a random start."""
        return cls(LInfBall(8 / 255), step_size=2 / 255, steps=7)
