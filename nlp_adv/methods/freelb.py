"""FreeLB: free large-batch adversarial training.

Zhu et al., "FreeLB: Enhanced Adversarial Training for Natural Language Understanding", ICLR 2020,
https://arxiv.org/abs/1909.11764, Algorithm 1. PGD throws away the parameter gradients of its inner
passes; FreeLB averages them, so that K passes train on a virtual batch of K perturbed copies:

    δ₁ ~ U(−m, m)/√n
    g_θ = 1/K Σ_{k=1..K} ∇θ L(θ, x + δ_k, y)
    δ_{k+1} = Π_ε( δ_k + α·∇δ L / ‖∇δ L‖ )
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch

from nlp_adv.methods.method import (
    StepReport,
    check_nonnegative,
    check_steps,
    check_weight,
    mixed,
    random_start,
)
from nlp_adv.methods.scaled import Scaled
from nlp_adv.perturbation import Ball, L2Ball, LInfBall, Objective, StepError, advance, full_pass


@dataclass(frozen=True)
class FreeLB:
    """Train on all K points of the ascent.

    Args:
        ball: the constraint on δ; the paper's is L2, one norm per example.
        step_size: α, in the units of δ.
        steps: K passes, K−1 ascents. The authors' fairseq code counts ascents: its adv_steps = K
            makes K+1 passes of weight 1/(K+1); their Hugging Face code counts passes, as here.
        init_magnitude: m, the size of the random start: its L2 norm is m/√3, n being the example's
            free coordinates (tokens × D); for L∞ it is U(−m, m), as in the released code. 0 starts
            at the clean point.
        reuse: start an example where the ascent of its last visit, one epoch before, ended. The
            paper has no such thing; it is FreeAT's δ, kept per example.
        clean_weight: w adds a clean pass: w·L(x) + (1−w)·1/K Σ_k L(x + δ_k). The paper has none.

    Deviations: the released code never projects the start, here it is projected; it leaves one
    sentence's δ as 0/0 when its gradient vanishes, here that δ stays; for L∞ it steps along
    g/‖g‖∞, here along sign(g); its Hugging Face version fixes only part of the dropout masks, here
    all are fixed (§3.3).

    FreeLB++ (Li et al., "Searching for an Effective Defender", EMNLP 2021) is this with many steps
    and no ball, `epsilon=inf`: its code takes K = 30 on AG News, with α = 0.03 and m = 0.05 in
    absolute units.

    Errors: StepError for `reuse` without a memory.

    Cost: K; with a clean term K + 1. With `reuse` δ of every example is kept, as large as all its
    embeddings and their padding, on the device or where its memory says (`--adv_keep_on cpu`), and
    saved with checkpoints; a step waits for the device once, to name its examples. A DDP process
    knows the examples that it has seen itself, of one epoch or an earlier one.
    """

    ball: Ball
    step_size: float
    steps: int
    init_magnitude: float = 0.0
    clean_weight: float = 0.0
    reuse: bool = False

    name: ClassVar[str] = "freelb"
    inner_passes: ClassVar[int] = 0

    def __post_init__(self) -> None:
        check_steps(self.steps, at_least=1)
        check_nonnegative("step_size", self.step_size)
        check_nonnegative("init_magnitude", self.init_magnitude)
        check_weight(self.clean_weight)

    @property
    def passes(self) -> int:
        """K, and a clean one when it has weight."""
        return self.steps + (self.clean_weight > 0)

    @property
    def idle(self) -> str | None:
        """Why this is ordinary training, where it is."""
        if self.steps == 1 and self.init_magnitude == 0 and not self.reuse:
            return (
                "one step from the clean point is a clean pass; "
                "give steps ≥ 2, or init_magnitude > 0, or reuse."
            )
        return None

    @property
    def waits_an_epoch(self) -> bool:
        """Whether δ is 0 until examples come a second time."""
        return self.reuse and self.steps == 1 and self.init_magnitude == 0

    def step(self, objective: Objective) -> StepReport:
        """One step of FreeLB."""
        w, clean = self.clean_weight, None
        ball = objective.within(self.ball)
        delta = random_start(objective, ball, self.init_magnitude)
        if self.reuse:
            names, each = _names(objective), objective.within(L2Ball(1.0)).per
            kept = objective.memory.recall(names, delta, objective.mask, each)
            delta = ball.project(kept)
        if w > 0:
            clean = full_pass(objective, torch.zeros_like(delta), weight=w).loss
        losses = []
        for k in range(1, self.steps + 1):
            loss, grad = full_pass(objective, delta, weight=(1 - w) / self.steps)
            losses.append(loss)
            if k < self.steps or self.reuse:  # else the last gradient has nowhere to go
                delta = advance(delta, grad, ball=ball, step_size=self.step_size)
        if self.reuse:
            objective.memory.keep(names, delta, objective.mask, each)
        return mixed(w, clean, torch.stack(losses).mean())

    @classmethod
    def preset(cls) -> Scaled:
        """Three passes and a random start, as in the paper's runs; ε as a share of the embeddings.

        The scripts of the paper use, for RoBERTa-large in its own units, ε 0.15–0.7 with α 0.025–
        0.2 and m 0.1–1; ε = 0.6, α = 0.1, m = 1 on SST-2.
        """
        ball = L2Ball(0.03)
        return Scaled(cls(ball, step_size=0.015, steps=3, init_magnitude=0.015), unit="relative")

    @classmethod
    def image_preset(cls) -> "FreeLB":
        """PGD's ball and step on images, with FreeLB's three passes; the paper has text alone."""
        return cls(LInfBall(8 / 255), step_size=4 / 255, steps=3, init_magnitude=4 / 255)


@runtime_checkable
class NamedExamples(Objective, Protocol):
    """An objective that knows its examples again; only `reuse` asks for it."""

    def example_names(self) -> list[str]:
        """A name for each example, or segment, that stays the same from epoch to epoch."""
        ...


def _names(objective: Objective) -> list[str]:
    if not isinstance(objective, NamedExamples):
        raise StepError("reuse needs an objective that names its examples.")
    return objective.example_names()
