"""An attack on some rows of each batch: the clean loss at no cost.

    S ⊂ {1 … B} random, P(i ∈ S) = s:   ∇θ 1/B·( Σ_{i∈S} ℓ(xᵢ + δᵢ) + Σ_{i∉S} ℓ(xᵢ) )

is ∇θ of (1 − s)·L(x) + s·L(x + δ) on average: the objective that a clean pass and an adversarial
one have, by one pass. Goodfellow et al. (ICLR 2015) and Madry et al. (ICLR 2018) train on all rows
twice or on no clean row; mixed batches are as old as Kurakin, Goodfellow and Bengio, "Adversarial
Machine Learning at Scale", ICLR 2017, https://arxiv.org/abs/1611.01236, Algorithm 1.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

import torch

from nlp_adv.methods.around import Around, bare, with_bare
from nlp_adv.methods.method import Method, StepReport
from nlp_adv.perturbation import Objective, RowedObjective, StepError

_OTHER_STREAM = 0x517CC1B727220A95 >> 1  # starts are drawn from the seed itself


@dataclass(frozen=True)
class SomeRows(Around):
    """`method` on a random share of the rows; the others are trained on clean, in the same pass.

        SomeRows(FGM(L2Ball(0.3)), share=0.5)       # fgm's objective, clean_weight ½, at 1⅓ not 2

    Of B rows share·B are attacked, rounded up or down at random, so that it is the share on
    average; which they are is drawn from the objective's seed. The estimate of the objective is
    unbiased and has the variance of the draw on top.

    Args:
        method: one that trains at one attacked point: fgm, fgsm, pgd, noise, fgm_remembered. Its
            `clean_weight` is 1 − share, which is what the rows that are left alone come to.
        share: s, above 0 and no more than 1.

    Errors: ValueError for another method, or a share that is not 1 − clean_weight; StepError for a
    batch that cannot be cut into rows for certain.

    Deviations: passes for δ alone run on the attacked rows, so that they have a dropout mask of
    their own, the same in all of them; the full pass has that of ordinary training. (Masks are
    drawn for a whole batch at once, inside fused kernels too, and a cut one draws others.) Without
    dropout nothing differs. Where the loss or the model mixes rows, as in-batch negatives and
    BatchNorm do, the ascent is on the loss of the attacked rows among themselves, and the objective
    is no mean over rows that could be estimated: it is that of mixed batches then. The report has
    the loss of the mixed batch alone; clean and adversarial loss are not known one by one.

    Cost: 1 + ⅔·K·share, where a clean pass of its own costs 2 + ⅔(K−1) from the clean point. Where
    share·B is below 1, one row is run nevertheless.
    """

    share: float

    def __post_init__(self) -> None:
        inner = bare(self.method)
        if not getattr(inner, "mixes_rows", False):
            raise ValueError(
                f"share (--adv_share) needs a method that trains at one attacked point: "
                f"{', '.join(_names())}; {inner.name} trains on other passes too."
            )
        check_share(self.share)
        if not math.isclose(inner.clean_weight, 1 - self.share, abs_tol=1e-9):
            raise ValueError(
                f"share (--adv_share) {self.share} is a clean_weight of {1 - self.share:g}, and "
                f"{inner.name} has {inner.clean_weight:g}: give only one of them, or two that add "
                f"up to 1."
            )

    @property
    def attack(self) -> Method:
        """The method without its clean loss, which the other rows are."""
        return with_bare(self.method, replace(bare(self.method), clean_weight=0.0))

    @property
    def passes(self) -> int:
        """One, on the mixed batch."""
        return self.attack.passes

    @property
    def inner_passes(self) -> int:
        """The attack's: no clean pass gives one away."""
        return self.attack.inner_passes

    @property
    def inner_share(self) -> float:
        """The share of the rows."""
        return self.share

    def step(self, objective: Objective) -> StepReport:
        """One step on a mixed batch."""
        if not isinstance(objective, RowedObjective):
            raise StepError("share (--adv_share) needs an objective that can be cut into rows.")
        seed = objective.generator.initial_seed() ^ _OTHER_STREAM
        rows = drawn_rows(len(objective.mask), self.share, seed)
        # Processes that share a model out must make equally many passes: never none.
        kept = torch.tensor(rows or [0], device=objective.mask.device)
        moved = objective.rows(kept, enters=bool(rows))
        return StepReport(self.attack.step(moved).loss)


def check_share(share: float) -> None:
    """Refuse what is no share of the rows."""
    if not 0 < share <= 1:
        raise ValueError(f"share (--adv_share) must be above 0 and no more than 1, not {share}.")


def drawn_rows(rows: int, share: float, seed: int) -> list[int]:
    """share·rows of the numbers below `rows`, rounded at random, in order; each equally likely.

    By the host's random numbers: nobody waits for a device, and all devices draw alike.
    """
    draws = random.Random(seed)
    wanted = share * rows
    count = min(rows, int(wanted) + (draws.random() < wanted - int(wanted)))
    return sorted(draws.sample(range(rows), count))


def _names() -> list[str]:
    from nlp_adv.methods.registry import all_methods

    return [name for name, one in all_methods().items() if getattr(one, "mixes_rows", False)]
