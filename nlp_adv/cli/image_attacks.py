"""The attacks of `nlp-adv attack --modality image`, by the names that they have there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nlp_adv.attacks import APGD, FGM, FGSM, Attack, CarliniWagner, DeepFool, Noise
from nlp_adv.cli.attack_image_arguments import ImageAttackArguments
from nlp_adv.errors import UserError


def built_attacks(arguments: ImageAttackArguments) -> dict[str, Attack]:
    """The attacks by the names that were typed.

    Raises:
        UserError: an unknown name, or a number that is out of range.
    """
    named = {}
    for name in dict.fromkeys(arguments.attacks):
        if name not in ATTACKS:
            raise UserError(f"There is no attack {name!r}; choose from {', '.join(ATTACKS)}.")
        try:
            named[name] = ATTACKS[name](arguments)
        except ValueError as error:
            raise UserError(f"{name}: {error}") from error
    return named


def in_ball(attack: Attack) -> bool:
    """It climbs a loss in a ball, and does not look for the smallest δ."""
    return isinstance(attack, FGSM) or getattr(attack, "ball", None) is not None


def _fgsm(arguments: ImageAttackArguments) -> Attack:
    if arguments.norm != "linf":
        raise UserError(f"it is a step in L∞; with --norm {arguments.norm} name fgm.")
    return FGSM(arguments.radius, _loss(arguments))


def _apgd(arguments: ImageAttackArguments) -> Attack:
    ball, several = arguments.ball(arguments.radius), arguments.restarts > 1
    seed = arguments.seed
    return APGD(ball, arguments.steps, _loss(arguments), random_start=several, seed=seed)


def _deepfool(arguments: ImageAttackArguments) -> Attack:
    if arguments.norm == "l1":
        raise UserError("it measures in L2 or L∞; leave it out with --norm l1.")
    if arguments.target is not None:
        raise UserError("it goes to the nearest class and has no target; leave it out.")
    return DeepFool("linf" if arguments.norm == "linf" else "l2")


def _loss(arguments: ImageAttackArguments) -> Any:
    return arguments.loss


ATTACKS: dict[str, Callable[[ImageAttackArguments], Attack]] = {
    "fgsm": _fgsm,
    "fgm": lambda a: FGM(a.ball(a.radius), _loss(a)),
    "bim": lambda a: a.pgd(random_start=False),
    "pgd": lambda a: a.pgd(),
    "mi-fgsm": lambda a: a.pgd(random_start=False, momentum=1.0),
    "apgd": _apgd,
    "noise": lambda a: Noise(a.ball(a.radius), seed=a.seed),
    "deepfool": _deepfool,
    "cw": lambda a: CarliniWagner(a.cw_steps, a.cw_step_size, a.cw_search_steps),
}
