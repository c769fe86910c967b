"""AutoAttack: four attacks without settings, each on what those before it left.

Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
parameter-free attacks", ICML 2020, https://arxiv.org/abs/2003.01690, section 6. An example is
robust where it withstands all of

    APGD on the cross entropy,  APGD-T,  FAB-T,  Square

in this order. The first two climb different losses in the ball, the third looks for the nearest
boundary and knows no ball, and the last asks for no gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from nlp_adv.attacks.apgd import APGD
from nlp_adv.attacks.apgd_t import APGDT
from nlp_adv.attacks.attack import Attack
from nlp_adv.attacks.fab import FABT
from nlp_adv.attacks.in_turn import in_turn
from nlp_adv.attacks.region import norm_name
from nlp_adv.attacks.result import AttackResult
from nlp_adv.attacks.rows import Rows
from nlp_adv.attacks.square import Square
from nlp_adv.perturbation import Ball, Unit


@dataclass(frozen=True)
class AutoAttack(Attack):
    """APGD, APGD-T, FAB-T and Square, each on the examples that still stand.

        AutoAttack(LInfBall(8 / 255))(Pixels(model, mean, std), x, y)
        AutoAttack(L2Ball(0.05), unit="relative")(model, batch)

    What the authors warn of is among `masking_checks`: a model that answers at random or takes
    gradients as it answers, probabilities instead of logits, gradients of 0, and a search without
    gradients that fools more than they do. On a model that cannot be differentiated the attacks
    that need gradients are left out, with a warning, and Square remains.

    Args:
        ball: `LInfBall` or `L2Ball`, its radius in the unit, one or one an example.
        steps: of each of the first three.
        classes: that APGD-T and FAB-T try.
        queries: of Square.
        seed: of random starts and of Square's search.
        unit: of the radius; see `PGD`.
        attacks: in their order, made of the others: a part of the configuration, so that numbers of
            an ensemble are told from those of another.

    Deviations: those of its members; random starts are uniform in the ball. Square's windows shrink
    over the queries that it has, as its paper says, where the authors' standard version shrinks
    them as if there were 10 000; each image has windows of its own. A target is tried by
    all, and is then the only class of APGD-T and FAB-T. An example that nothing fools ends where
    the model is least sure of the right class.

    Cost: of an example that nothing fools K·(1 + 2·`classes`) gradients, K·(1 + 3·`classes`) +
    `queries` forward passes, and some twenty to say what came of it: 1900 and 7800 as it stands.
    """

    ball: Ball
    steps: int = 100
    classes: int = 9
    queries: int = 5000
    seed: int = 0
    unit: Unit = "absolute"
    attacks: tuple[Attack, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "attacks", self._attacks())

    @property
    def name(self) -> str:
        """auto-linf or auto-l2."""
        return f"auto-{norm_name(self.ball)}"

    def _attacks(self) -> tuple[Attack, ...]:
        """Each refuses what it has no use for."""
        unit, seed, classes = self.unit, self.seed, self.classes
        return (
            APGD(self.ball, self.steps, random_start=True, seed=seed, unit=unit),
            APGDT(self.ball, self.steps, classes, random_start=True, seed=seed, unit=unit),
            FABT(self.ball, self.steps, classes, until_fooled=True, seed=seed, unit=unit),
            Square(self.ball, self.queries, seed=seed, unit=unit),
        )

    def run(self, rows: Rows) -> AttackResult:
        """The attack on examples, in a quiet model."""
        return in_turn(self.name, rows, self._in_order, blind=True)

    def _in_order(self, rows: Rows) -> Iterator[Attack]:
        return iter(self.attacks)
