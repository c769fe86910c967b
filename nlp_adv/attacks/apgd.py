"""Auto-PGD: PGD that halves its own steps, example by example.

Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
parameter-free attacks", ICML 2020, https://arxiv.org/abs/2003.01690, Algorithm 1; S is the ball met
with what else bounds x, f the loss, α = 0.75 (1 in the first step), η = 2ε at first:

    z^{k+1} = Π_S( x^k + η·argmax_{‖v‖≤1} ⟨v, ∇f(x^k)⟩ )
    x^{k+1} = Π_S( x^k + α·(z^{k+1} − x^k) + (1 − α)·(x^k − x^{k−1}) )

At the steps w_j = ⌈p_j·K⌉, p_1 = 0.22, p_{j+1} = p_j + max(p_j − p_{j−1} − 0.03, 0.06), η is halved
and the search goes on from the best point, where since the last such step

    1. f rose in fewer than ρ of the steps, or
    2. neither η nor the best f has changed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nlp_adv.attacks.attack import Attack
from nlp_adv.attacks.losses import LOSSES, Loss, RowLoss, check_loss
from nlp_adv.attacks.region import Region, check_ball, finite_rows, norm_name, region_of
from nlp_adv.attacks.result import AttackResult
from nlp_adv.attacks.rows import Rows, Standing
from nlp_adv.attacks.trace import Trace
from nlp_adv.perturbation import Ball, L1Ball, Unit

_ALPHA = 0.75  # the share of a step that is new; the rest is the last step's


@dataclass(frozen=True)
class APGD(Attack):
    """PGD without a step size to choose: it begins at 2ε, and each example halves its own.

        result = APGD(LInfBall(8 / 255), loss="dlr")(model, x, y)

    Args:
        ball: `LInfBall` or `L2Ball`, its radius in the unit, one or one an example.
        steps: K.
        loss: what is climbed.
        random_start: begin uniformly in the ball instead of at x.
        rho: ρ, the share of steps that must climb.
        seed: of random starts.
        unit: of the radius; see `PGD`.

    Deviations: η is judged after x^{w_j} has been seen, before a further step is made that would be
    thrown away. What is returned is the point of the largest loss among those that succeeded, where
    one did (the largest loss of all can belong to a point that does not). Both as in the authors'
    code, whose checkpoints are rounded down to whole steps and so come earlier for few steps. An
    example whose gradient is not finite stays where it is for that step.

    On embeddings and layers an example leaves with the first point that fools the model.

    Cost: K gradients, and three forward passes, one at the last point and two to say what came of
    it (one where nothing is rounded to pictures); one more with a random start.
    """

    ball: Ball
    steps: int = 100
    loss: Loss = "cross_entropy"
    random_start: bool = False
    rho: float = 0.75
    seed: int = 0
    unit: Unit = "absolute"

    def __post_init__(self) -> None:
        check_ball(self.ball)
        check_loss(self.loss)
        if isinstance(self.ball, L1Ball):
            raise ValueError(
                "APGD steps in L∞ and L2 balls; in an L1 ball use PGD, whose steps are sparse."
            )
        if not torch.isfinite(torch.as_tensor(self.ball.epsilon)).all():
            raise ValueError("APGD begins with a step of 2ε and needs a finite ε.")
        if self.steps < 0 or not 0 <= self.rho <= 1:
            raise ValueError("steps must be ≥ 0, and rho between 0 and 1.")

    @property
    def name(self) -> str:
        """apgd-linf or apgd-l2, and the loss where it is another."""
        loss = "" if self.loss == "cross_entropy" else f"-{self.loss}"
        return f"apgd-{norm_name(self.ball)}{loss}"

    def run(self, rows: Rows) -> AttackResult:
        """The attack on examples, in a quiet model; no step on images waits for the device."""
        trace, standing = Trace(rows, self._climbed(rows)), Standing(rows)
        region, marks = region_of(rows, self.ball, self.unit), checkpoints(self.steps)
        start = region.start(self.seed) if self.random_start else rows.clean
        here, logits = self._look(rows, start)
        before, best, found = start, here, here
        step = 2 * region.ball.epsilon * torch.ones_like(here.column(start.flatten(1)[:, 0]))  # η
        judged, halved = here.loss, torch.zeros_like(here.fooled)
        raised, since = torch.zeros_like(here.loss), 0
        for k in range(1, self.steps + 1):
            seen = logits if k == 1 else None
            trace.add(here.at, here.loss, here.grad, standing.index, logits=seen)
            if rows.leaves and (stays := standing.leave(found.at, found.fooled)) is not None:
                region, before, step = region.rows(stays), before[stays], step[stays]
                here, best, found = here.rows(stays), best.rows(stays), found.rows(stays)
                judged, halved, raised = judged[stays], halved[stays], raised[stays]
            if not len(standing):
                break
            at = self._step(region, here, before, step, alpha=_ALPHA if k > 1 else 1.0)
            after, _ = self._look(standing.rows, at, last=k == self.steps)
            raised += after.loss > here.loss
            best = best.replaced(after, after.loss > best.loss)
            found = found.replaced(after, after.worse_than(found))
            before, here = here.at, after
            if k in marks:
                too_few = raised < self.rho * (k - since)
                halved = too_few | (~halved & ~(best.loss > judged))
                step = torch.where(here.column(halved), step / 2, step)
                here = here.replaced(best, halved)
                judged, raised, since = best.loss, torch.zeros_like(raised), k
        if len(standing):
            trace.looked(standing.index)  # at the last point
        return trace.result(self.name, standing.end(found.at))

    def _climbed(self, rows: Rows) -> RowLoss:
        """What is climbed by these examples."""
        return LOSSES[self.loss]

    def _look(self, rows: Rows, at: Tensor, *, last: bool = False) -> tuple[_Point, Tensor]:
        """What the model says there, and its logits; at the last point without a gradient."""
        loss = self._climbed(rows)
        if last:
            with torch.no_grad():
                logits = rows.logits(at)
            grad, losses = torch.zeros_like(at), loss(logits, rows.y, rows.towards)
        else:
            grad, losses, logits = rows.gradient(at, loss)
        return _Point(at, losses, grad, rows.fooled(logits)), logits

    def _step(
        self, region: Region, here: _Point, before: Tensor, step: Tensor, *, alpha: float
    ) -> Tensor:
        """x^{k+1}, of x^k, x^{k−1} and η."""
        at = here.at
        z = region.step(at, here.grad, step)
        mixed = region.project(at + alpha * (z - at) + (1 - alpha) * (at - before))
        return torch.where(finite_rows(here.grad), mixed, at)


def checkpoints(steps: int) -> list[int]:
    """The w_j of K steps, counted in whole hundredths, so that no rounding moves one."""
    before, share, found = 0, 22, []
    while share <= 100:
        found.append(-(-share * steps // 100))
        before, share = share, share + max(share - before - 3, 6)
    return sorted(set(found))


@dataclass(frozen=True)
class _Point:
    """Where the examples are, (B, …), and what is said there: losses (B,), ∇, fooled (B,)."""

    at: Tensor
    loss: Tensor
    grad: Tensor
    fooled: Tensor

    def column(self, rows: Tensor) -> Tensor:
        """(B,) → (B, 1, …)."""
        return rows.view(-1, *[1] * (self.at.ndim - 1))

    def replaced(self, other: _Point, rows: Tensor) -> _Point:
        """The other point in those rows, (B,)."""
        column = self.column(rows)
        return _Point(
            torch.where(column, other.at, self.at),
            torch.where(rows, other.loss, self.loss),
            torch.where(column, other.grad, self.grad),
            torch.where(rows, other.fooled, self.fooled),
        )

    def rows(self, kept: Tensor) -> _Point:
        """Some of the examples."""
        return _Point(self.at[kept], self.loss[kept], self.grad[kept], self.fooled[kept])

    def worse_than(self, other: _Point) -> Tensor:
        """(B,): it fools where the other does not, or does as it does and has the larger loss."""
        larger = self.loss > other.loss
        return (self.fooled & ~other.fooled) | ((self.fooled == other.fooled) & larger)
