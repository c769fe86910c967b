"""The attacks on a point by name, as a command line builds them. A new attack is one line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nlp_adv.attacks.apgd import APGD
from nlp_adv.attacks.apgd_t import APGDT
from nlp_adv.attacks.attack import Attack
from nlp_adv.attacks.auto import AutoAttack
from nlp_adv.attacks.bisection import Bisection
from nlp_adv.attacks.carlini_wagner import CarliniWagner
from nlp_adv.attacks.deepfool import DeepFool
from nlp_adv.attacks.fab import FABT
from nlp_adv.attacks.fgsm import FGM, FGSM
from nlp_adv.attacks.losses import Loss
from nlp_adv.attacks.noise import Noise
from nlp_adv.attacks.pgd import PGD
from nlp_adv.attacks.region import norm_name
from nlp_adv.attacks.square import Square
from nlp_adv.errors import UserError, no_such
from nlp_adv.perturbation import Ball, Unit


@dataclass(frozen=True)
class Settings:
    """What attacks are built of; each takes what it needs.

    Args:
        ball: with its radius, in the unit.
        unit: of it: "absolute" on pixels, "relative" elsewhere.
        steps: K.
        step_size: α, in the unit, of PGD and its kin.
        shorten: whether PGD's steps shorten.
        loss: what is climbed.
        restarts: starts; with more than one, APGD begins at random.
        queries: of Square, alone and in AutoAttack.
        seed: of whatever is random.
        targeted: whether a class is to be reached.
        cw_steps, cw_step_size, cw_search_steps: of Carlini and Wagner's attack.
    """

    ball: Ball
    step_size: float
    unit: Unit = "absolute"
    steps: int = 20
    shorten: bool = False
    loss: Loss = "cross_entropy"
    restarts: int = 1
    queries: int = 5000
    seed: int = 0
    targeted: bool = False
    cw_steps: int = 200
    cw_step_size: float = 0.05
    cw_search_steps: int = 9

    def pgd(self, *, random_start: bool = True, momentum: float = 0.0) -> PGD:
        """PGD until it fools, and what it is without a random start or with momentum."""
        return PGD(
            self.ball,
            self.step_size,
            self.steps,
            random_start,
            momentum,
            self.loss,
            until_fooled=True,
            seed=self.seed,
            unit=self.unit,
            shorten=self.shorten,
        )


def build_attack(name: str, settings: Settings) -> Attack:
    """The attack of that name.

    Raises:
        UserError: there is none, or it cannot do what is asked.
    """
    if name not in ATTACKS:
        raise no_such("attack", name, ATTACKS)
    try:
        return ATTACKS[name](settings)
    except ValueError as error:  # a UserError is one
        raise UserError(f"{name}: {error}") from error


def _fgsm(s: Settings) -> Attack:
    norm = norm_name(s.ball)
    if norm != "linf":
        raise UserError(f"it is a step in L∞; with the norm {norm} name fgm.")
    return FGSM(s.ball.epsilon, s.loss, s.unit)


def _apgd(s: Settings) -> Attack:
    several = s.restarts > 1
    return APGD(s.ball, s.steps, s.loss, random_start=several, seed=s.seed, unit=s.unit)


def _deepfool(s: Settings) -> Attack:
    if norm_name(s.ball) == "l1":
        raise UserError("it measures in L2 or L∞; leave it out with the norm l1.")
    if s.targeted:
        raise UserError("it goes to the nearest class and has no target; leave it out.")
    return DeepFool("linf" if norm_name(s.ball) == "linf" else "l2")


ATTACKS: dict[str, Callable[[Settings], Attack]] = {
    "fgsm": _fgsm,
    "fgm": lambda s: FGM(s.ball, s.loss, s.unit),
    "bim": lambda s: s.pgd(random_start=False),
    "pgd": lambda s: s.pgd(),
    "mi-fgsm": lambda s: s.pgd(random_start=False, momentum=1.0),
    "apgd": _apgd,
    "apgd-t": lambda s: APGDT(
        s.ball, s.steps, random_start=s.restarts > 1, seed=s.seed, unit=s.unit
    ),
    "fab-t": lambda s: FABT(s.ball, s.steps, seed=s.seed, unit=s.unit),
    "noise": lambda s: Noise(s.ball, seed=s.seed, unit=s.unit),
    "square": lambda s: Square(s.ball, s.queries, seed=s.seed, unit=s.unit),
    "auto": lambda s: AutoAttack(s.ball, s.steps, queries=s.queries, seed=s.seed, unit=s.unit),
    "deepfool": _deepfool,
    "cw": lambda s: CarliniWagner(s.cw_steps, s.cw_step_size, s.cw_search_steps),
    "smallest-pgd": lambda s: Bisection(s.pgd(random_start=False)),
}
SMALLEST = ("deepfool", "cw", "smallest-pgd")  # those that have no radius
