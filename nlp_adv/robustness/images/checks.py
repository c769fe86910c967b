"""Checks against masking: may an accuracy under attack on images be called robustness?

`image_checks` runs what is needed to tell; `check_image_records` judges attacks by what they wrote
down.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor
from tqdm.auto import tqdm

from nlp_adv.attacks import FGM, PGD, Attack
from nlp_adv.errors import UserError
from nlp_adv.perturbation import Ball
from nlp_adv.perturbation.evaluating import answers
from nlp_adv.robustness.answers import Answers, check_answers
from nlp_adv.robustness.check_result import Check
from nlp_adv.robustness.checks import FACTORS, SOFT
from nlp_adv.robustness.images.checks_compared import (
    check_beats,
    check_large_radius,
    check_losses,
    check_margin_scale,
    check_radii,
    check_restarts,
    check_softmax_scale,
    check_steps,
)
from nlp_adv.robustness.images.checks_single import (
    check_ascent,
    check_fallen_confidence,
    check_image_records,
    check_no_gradient,
    check_probabilities,
    check_repeatable,
    check_rounding,
    check_zero_gradients,
    shows_gradient,
)
from nlp_adv.robustness.images.noise import PixelNoise
from nlp_adv.robustness.images.running import clean_look, restarted, run_attack
from nlp_adv.robustness.images.scaled import ScaledLogits
from nlp_adv.robustness.images.sweep import at_radius
from nlp_adv.robustness.record import Record
from nlp_adv.robustness.scaled_logits import softening_factor
from nlp_adv.robustness.statistics import radius_of
from nlp_adv.sites.normalisation import Classifier

__all__ = [
    "check_ascent",
    "check_beats",
    "check_fallen_confidence",
    "check_image_records",
    "check_large_radius",
    "check_losses",
    "check_margin_scale",
    "check_probabilities",
    "check_radii",
    "check_repeatable",
    "check_restarts",
    "check_rounding",
    "check_softmax_scale",
    "check_steps",
    "check_zero_gradients",
    "image_checks",
]

_RUNS = 13  # of `image_checks`; one less where the logits need no calibration


def image_checks(
    model: Classifier,
    batches: Iterable[tuple[Tensor, Tensor]],
    attack: PGD,
    *,
    restarts: int = 3,
    draws: int = 10,
    progress: str | None = None,
) -> list[Check]:
    """What may speak against the accuracies under PGD and its kin in one ball.

    The attack is run on the margin, from the image itself, until it fools; each check adds the run
    that it compares with that one. A model that shows no gradient has failed
    before any attack.

    Args:
        model: pixels → logits.
        batches: images (B, C, H, W) in [0, 1] and right classes (B,). A hundred images show a
            masked model; to decide differences of one or two points it takes a thousand.
        attack: whose ball, step and number of steps are checked.
        restarts: random starts that are compared with the image as a start.
        draws: of random noise.
        progress: the title of a progress bar; none is shown without.

    Raises:
        UserError: no images, or a radius of 0.

    Cost: about 12 + restarts times the attack's own, on images that still stand.
    """
    data = [clean_look(model, x, y) for x, y in batches]
    epsilon = radius_of(attack.ball)
    if not data or not 0 < epsilon < math.inf:
        raise UserError("The checks need images, and a radius above 0 that is finite.")
    logits = torch.cat([look.logits for look in data])
    alone = [check_probabilities(logits), check_repeatable(model, data[0].x)]
    if not shows_gradient(model, data[0].x):
        return [*alone, check_no_gradient(int(sum(look.right.sum() for look in data)))]
    climbing = replace(attack, loss="margin", random_start=False, until_fooled=True)
    ascending = replace(climbing, loss="cross_entropy")
    with tqdm(total=_RUNS * len(data), desc=progress, disable=progress is None) as bar:

        def run(attack: Attack, factor: float = 1.0, starts: int = 1) -> list[Record]:
            found: list[Record] = []
            scaled = model if factor == 1 else ScaledLogits(model, factor)
            for look in data:
                seen = look if factor == 1 else clean_look(scaled, look.x, look.y)
                ids = range(len(found), len(found) + len(look.x))
                attacks = restarted(attack, starts)
                name, pixels = attack.name, [""] * len(ids)
                found += run_attack(attacks, scaled, seen, name=name, ids=ids, pixels=pixels)
                bar.update()
            return found

        given, softmax = run(climbing), run(ascending)
        soft = softening_factor(logits, SOFT)
        factors = (*FACTORS, soft) if soft < 1 else FACTORS
        bar.total -= (soft >= 1) * len(data)
        large = max(grey_radius(attack.ball, data[0].x), epsilon)
        at_large = run(at_radius(climbing, large))
        at_half = run(at_radius(climbing, epsilon / 2))
        several = run(replace(climbing, random_start=True), starts=restarts)
        fewer = max(1, attack.steps // 2)
        longer = attack.step_size * attack.steps / fewer
        halved = run(replace(climbing, steps=fewer, step_size=longer))
        noise = run(PixelNoise(attack.ball, draws, attack.seed))
        labels = torch.cat([look.y for look in data])
        return [
            check_answers(Answers.of(answers(logits).tolist(), labels.tolist())),
            *alone,
            check_large_radius(at_large, large),
            check_radii({epsilon / 2: at_half, epsilon: given, large: at_large}),
            check_steps(halved, given, (fewer, attack.steps)),
            check_restarts(given, several, restarts),
            check_beats(given, run(FGM(attack.ball, "margin")), ("PGD", "one step")),
            check_beats(given, noise, ("PGD", "noise")),
            check_losses(given, softmax),
            check_softmax_scale(softmax, {one: run(ascending, one) for one in factors}),
            check_margin_scale(given, {one: run(climbing, one) for one in FACTORS}),
            check_fallen_confidence(given),
            check_ascent(given),
            *(
                replace(check_zero_gradients(records), name=f"zero gradients, {loss}")
                for loss, records in (("margin", given), ("cross entropy", softmax))
            ),
        ]


def grey_radius(ball: Ball, x: Tensor) -> float:
    """The radius at which every pixel can become ½, whatever it was: ½·‖1‖."""
    return 0.5 * float(ball.norm(torch.ones_like(x[:1])).max())
