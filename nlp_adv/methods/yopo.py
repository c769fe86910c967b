"""YOPO: you only propagate once.

Zhang et al., "You Only Propagate Once: Accelerating Adversarial Training via Maximal Principle",
NeurIPS 2019, https://arxiv.org/abs/1905.00877, YOPO-m-n. A δ on the input meets the parameters of
the first block h alone; of the rest of the network it sees p = ∂L/∂h. With p held still, an ascent
costs a pass through that block:

    for j = 1..m:   g_θ += 1/m·∇θ L(θ, x + δ, y),   p = ∂L/∂h(x + δ)
        n times:    δ ← Π_ε( δ + α·argmax_{‖v‖≤1} ⟨v, ∇δ ⟨p, h(x + δ)⟩⟩ )
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Protocol, runtime_checkable

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
from nlp_adv.perturbation import (
    Ball,
    L2Ball,
    LInfBall,
    Objective,
    SplitPass,
    StepError,
    advance,
    ascend,
    full_pass,
)


@runtime_checkable
class SplitObjective(Objective, Protocol):
    """An objective whose model has a first block; only this method asks for it."""

    def split_pass(self, delta: Tensor, *, weight: float = 1.0) -> SplitPass:
        """A full pass that also returns p."""
        ...

    def prefix_gradient(self, delta: Tensor, p: Tensor) -> Tensor:
        """∇δ ⟨p, h(x + δ)⟩."""
        ...


@dataclass(frozen=True)
class YOPO:
    """m full passes, and between two of them n ascents through the first block.

    For transformers the first block is embeddings and encoder layer 0.

    Args:
        ball: the constraint on δ; the paper's is L∞.
        step_size: α, in the units of δ.
        rounds: m full passes; each is trained on, with weight 1/m.
        steps: n ascents after each full pass but the last. The first one's gradient is ∇δ L, which
            the full pass gives away.
        random_start: start uniformly in the ball, as the paper does.
        clean_weight: w adds a clean pass of weight w, and gives the m others 1 − w.

    Errors: StepError where the model's first block is unknown.

    Deviations: the paper sums the m losses, and its code divides the learning rate instead. It
    takes the first block's parameter gradient at the δ after the ascents; here all parameters get
    theirs at the same m points. (The released code adds the first block's gradient twice.) The
    ascents after the last full pass, which then move nothing, are left out. FreeLB's text version
    adds the inner ascents to all of its K+1 full passes and costs more than FreeLB.

    Cost: m, and (m−1)(n−1) passes through one block of L: ⅔/L each; a clean term costs 1.
    """

    ball: Ball
    step_size: float | Tensor
    rounds: int
    steps: int
    random_start: bool = False
    clean_weight: float = 0.0

    name: ClassVar[str] = "yopo"
    inner_passes: ClassVar[int] = 0

    def __post_init__(self) -> None:
        check_steps(self.rounds, at_least=1, name="rounds")
        check_steps(self.steps, at_least=1)
        check_nonnegative("step_size", self.step_size)
        check_weight(self.clean_weight)
        if self.random_start:
            check_bounded(self.ball, "a random start is uniform in the ball")

    @property
    def passes(self) -> int:
        """m, and a clean one when it has weight."""
        return self.rounds + (self.clean_weight > 0)

    @property
    def prefix_passes(self) -> int:
        """Passes through the first block alone."""
        return (self.rounds - 1) * (self.steps - 1)

    @property
    def idle(self) -> str | None:
        """Why this is ordinary training, where it is."""
        if self.rounds == 1 and not self.random_start:
            return (
                "one round from the clean point is a clean pass; give rounds ≥ 2, or random_start."
            )
        return None

    def step(self, objective: Objective) -> StepReport:
        """One step of YOPO-m-n."""
        if not isinstance(objective, SplitObjective):
            raise StepError("yopo needs an objective that can stop after the first block.")
        w, clean = self.clean_weight, None
        ball = objective.within(self.ball)
        delta = torch.zeros_like(objective.mask)
        if w > 0:
            clean = full_pass(objective, delta, weight=w).loss
        if self.random_start:
            delta = ball.sample(objective.mask, objective.generator)
        weight, losses = (1 - w) / self.rounds, []
        for _ in range(self.rounds - 1):
            loss, grad, p = objective.split_pass(delta, weight=weight)
            losses.append(loss)
            delta = advance(delta, grad, ball=ball, step_size=self.step_size)
            delta = ascend(
                partial(objective.prefix_gradient, p=p),
                delta,
                ball=ball,
                step_size=self.step_size,
                steps=self.steps - 1,
            )
        losses.append(full_pass(objective, delta, weight=weight).loss)
        return mixed(w, clean, torch.stack(losses).mean())

    @classmethod
    def preset(cls) -> Scaled:
        """YOPO-3-3 from the clean point; the paper's YOPO-5-3 and 3-5 are for images."""
        return Scaled(cls(L2Ball(0.03), step_size=0.01, rounds=3, steps=3), unit="relative")

    @classmethod
    def image_preset(cls) -> "YOPO":
        """YOPO-5-3 as the authors' code has it for CIFAR-10: ε = 8/255, α = 2/255."""
        return cls(LInfBall(8 / 255), step_size=2 / 255, rounds=5, steps=3, random_start=True)
