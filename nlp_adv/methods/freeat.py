"""FreeAT: free adversarial training.

Shafahi et al., "Adversarial Training for Free!", NeurIPS 2019, https://arxiv.org/abs/1904.12843,
Algorithm 1. One backward pass gives ∇θ and ∇δ; both are used. Each minibatch is replayed m times,
an optimizer step a replay, and δ goes on from replay to replay:

    θ ← θ − τ·∇θ L(θ, x + δ, y),   δ ← Π_ε( δ + α·argmax_{‖v‖≤1} ⟨v, ∇δ L⟩ )
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nlp_adv.methods.method import (
    StepReport,
    check_nonnegative,
    check_replays,
    check_steps,
)
from nlp_adv.methods.scaled import Scaled
from nlp_adv.perturbation import (
    Ball,
    L2Ball,
    LInfBall,
    Objective,
    StepError,
    advance,
    full_pass,
)


@dataclass(frozen=True)
class FreeAT:
    """Train on the current δ and move it, one pass for both.

    A Trainer repeats its batches: an epoch makes as many optimizer steps as in ordinary training,
    with 1/m of the data, and the next one goes on there, so that evaluation and checkpoints of
    every epoch come when they are expected. A loop of one's own does it by `memory.replay`.

    Args:
        ball: the constraint on δ; the paper's is L∞.
        step_size: α; the paper's code takes a full ε.
        replays: m, how often a minibatch is seen in a row.
        carry: keep δ from one minibatch to the next, as the paper does; the shapes must allow it,
            as those of images do. False starts every minibatch at δ = 0: sentences of other words
            and lengths have no use for the last ones' δ.

    Errors: StepError when δ shall be carried to a minibatch of another shape.

    Deviations: none with `carry`; the FreeLB authors' text version resets δ as `carry=False` does,
    divides the loss by 1 + m, and lets the learning-rate schedule count minibatches, so that it
    makes m times the steps that its schedule knows; here the schedule counts replays. The Trainer
    drops the rows that do not fill a last optimizer step, and replays batches in a warm-up as well.

    Cost: 1 a replay.
    """

    ball: Ball
    step_size: float | Tensor
    replays: int
    carry: bool = False

    name: ClassVar[str] = "freeat"
    passes: ClassVar[int] = 1
    inner_passes: ClassVar[int] = 0

    def __post_init__(self) -> None:
        check_nonnegative("step_size", self.step_size)
        check_steps(self.replays, at_least=1, name="replays")

    @property
    def idle(self) -> str | None:
        """Why this is ordinary training, where it is."""
        if self.replays == 1 and not self.carry:
            return "one replay from the clean point is a clean pass; give replays ≥ 2, or carry."
        return None

    def step(self, objective: Objective) -> StepReport:
        """One replay."""
        memory = objective.memory
        key = f"freeat/{memory.slot}"
        delta, unused = self._start(objective, memory.tensors.get(key))
        loss, grad = full_pass(objective, delta)
        check_replays(memory, self.name, 1 if self.carry else self.replays)
        moved = advance(delta, grad, ball=objective.within(self.ball), step_size=self.step_size)
        memory.tensors[key] = torch.cat([moved, unused])
        return StepReport(loss, adversarial=loss)

    def _start(self, objective: Objective, kept: Tensor | None) -> tuple[Tensor, Tensor]:
        """Where the last replay, or with `carry` the last minibatch, left δ; and rows of it left.

        With `carry` δ belongs to the rows' places: a smaller batch takes the first of them.
        """
        zero = torch.zeros_like(objective.mask)
        goes_on = self.carry or objective.memory.replay > 0
        if kept is None or not goes_on:
            return zero, zero[:0]
        kept, rows = kept.to(zero), len(zero)
        if kept.shape == zero.shape or (self.carry and kept.shape[1:] == zero.shape[1:]):
            fresh = zero[: max(0, rows - len(kept))]
            used = torch.cat([kept[:rows], fresh])
            ball = objective.within(self.ball)  # of these images, no longer of the last ones
            return ball.project(used * objective.mask), kept[rows:]
        raise StepError(
            f"freeat's δ of shape {tuple(kept.shape)} does not fit this batch of shape "
            f"{tuple(zero.shape)}; use carry=False (--adv_carry false)."
        )

    @classmethod
    def preset(cls) -> Scaled:
        """m = 3 and α = ε: the step of the paper's code, replays as FreeLB's text version has them.

        An m of 8, usual for images, would leave three epochs of fine-tuning with less than half a
        look at the data.
        """
        return Scaled(cls(L2Ball(0.03), step_size=0.03, replays=3), unit="relative")

    @classmethod
    def image_preset(cls) -> "FreeAT":
        """The paper's on CIFAR-10: m = 8, ε = 8/255, α = ε, δ kept between minibatches."""
        return cls(LInfBall(8 / 255), step_size=8 / 255, replays=8, carry=True)
