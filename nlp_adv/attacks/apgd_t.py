"""APGD-T: Auto-PGD towards one wrong class after the other.

Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
parameter-free attacks", ICML 2020, https://arxiv.org/abs/2003.01690, section 4.1: `APGD` climbs

    (z_t − z_y) / (z_π1 − ½(z_π3 + z_π4))

for t the likeliest wrong class at x, then for the second likeliest, and so on. The margin leads to
the class that is nearest on the way, which need not be the one that can be reached.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from nlp_adv.attacks.apgd import APGD
from nlp_adv.attacks.attack import Attack
from nlp_adv.attacks.in_turn import in_turn
from nlp_adv.attacks.losses import LOSSES, RowLoss, led, likeliest_others
from nlp_adv.attacks.region import norm_name
from nlp_adv.attacks.result import AttackResult
from nlp_adv.attacks.rows import Rows
from nlp_adv.perturbation import Ball, Unit


@dataclass(frozen=True)
class APGDT(Attack):
    """APGD towards the likeliest wrong classes in turn; any wrong answer is a success.

        result = APGDT(LInfBall(8 / 255))(model, x, y)

    A class is tried on the examples that those before it did not fool. With a target there is one
    class to try: then it is APGD towards it, on the dlr loss, or on the margin where there are
    fewer than four classes.

    Args:
        ball: `LInfBall` or `L2Ball`, its radius in the unit, one or one an example.
        steps: K, for each class.
        classes: how many wrong classes are tried; all where the model has fewer.
        random_start: begin uniformly in the ball instead of at x, for each class elsewhere.
        rho: see `APGD`.
        seed: of random starts.
        unit: of the radius; see `PGD`.

    Deviations: APGD's. With fewer than four classes, of which the loss is not defined, z_t − z_y is
    climbed. Classes are ordered by the logits at x, as in the authors' code. An example that
    nothing fools ends where the model is least sure of the right class; one that is wrong without
    attack stays as it is. The loss written down is the margin.

    Cost: for each class what APGD costs, on the examples that still stand; beside it three forward
    passes, two where nothing is rounded to pictures.
    """

    ball: Ball
    steps: int = 100
    classes: int = 9
    random_start: bool = False
    rho: float = 0.75
    seed: int = 0
    unit: Unit = "absolute"

    def __post_init__(self) -> None:
        self._towards(0)  # refuses what APGD has no use for
        if self.classes < 1:
            raise ValueError(f"classes must be ≥ 1, not {self.classes}.")

    @property
    def name(self) -> str:
        """apgd-t-linf or apgd-t-l2."""
        return f"apgd-t-{norm_name(self.ball)}"

    def run(self, rows: Rows) -> AttackResult:
        """The attack on examples, in a quiet model."""
        return in_turn(self.name, rows, self._in_order)

    def _in_order(self, rows: Rows) -> Iterator[Attack]:
        assert rows.looked is not None
        tried = 1 if rows.towards else min(self.classes, rows.looked.shape[1] - 1)
        return (self._towards(rank) for rank in range(tried))

    def _towards(self, rank: int) -> Attack:
        start, seed = self.random_start, 1000 * self.seed + rank
        return _Led(self.ball, self.steps, "margin", start, self.rho, seed, self.unit, rank)


@dataclass(frozen=True)
class _Led(APGD):
    """APGD towards one wrong class of each example, the likeliest but `rank` at x."""

    rank: int = 0

    def _climbed(self, rows: Rows) -> RowLoss:
        assert rows.looked is not None
        if rows.towards:
            return LOSSES["dlr" if rows.looked.shape[1] >= 4 else "margin"]
        goals = likeliest_others(rows.looked, rows.y)[:, self.rank]

        def loss(logits: Tensor, labels: Tensor, towards: bool) -> Tensor:
            return led(logits, labels, goals)

        return loss
