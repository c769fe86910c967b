"""Checks of a model of images, and of one attack on it, that compare nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from nlp_adv.attacks.batch import image_batch
from nlp_adv.attacks.quiet import quiet
from nlp_adv.robustness import repeatable
from nlp_adv.robustness.check_result import Check
from nlp_adv.robustness.checks_embedding import ZERO_GRADIENTS
from nlp_adv.robustness.checks_paired import percent
from nlp_adv.robustness.checks_records import FEWEST, check_confidence
from nlp_adv.robustness.record import Point, Record
from nlp_adv.sites.normalisation import Classifier

FALLING = 0.05  # of the images may lose at the end what the attack climbed
UNDONE = 0.2  # of the successes may be undone by rounding: those at the border often are
PROBABILITY = 1e-3  # from a sum of 1


def check_image_records(records: Sequence[Record], *, in_ball: bool) -> list[Check]:
    """What the records of one attack tell without another run, under its name.

    Args:
        records: of one attack, at least one.
        in_ball: it climbs a loss in a ball. One that looks for the smallest δ goes down as well as
            up, and ends at the border between the answers, where rounding often undoes it.
    """
    checks = [check_zero_gradients(records)]
    if in_ball:
        checks += [check_ascent(records), check_rounding(records)]
    return [replace(check, name=f"{check.name} ({records[0].attack})") for check in checks]


def check_zero_gradients(records: Sequence[Record]) -> Check:
    """Few images have a gradient at the start that is exactly zero."""
    attacked = _points(record for record in records if record.attacked)
    blind = sum(point.first_gradient == 0 for point in attacked)
    share = blind / max(1, len(attacked))
    return Check(
        name="zero gradients",
        passed=share <= ZERO_GRADIENTS if attacked else None,
        finding=f"{blind} of {len(attacked)} right answers ({percent(share)}) show the attack no "
        f"gradient where it begins; at most {percent(ZERO_GRADIENTS)} may.",
        meaning="The attack stands still on these images and counts them as robust.",
    )


def shows_gradient(model: Classifier, x: Tensor) -> bool:
    """Whether logits have a graph to the pixels.

    Cost: two forward passes, of one image.
    """
    with quiet(model):
        batch = image_batch(model, x[:1], None, None, None)
        return batch.logits(batch.x.requires_grad_()).requires_grad


def check_no_gradient(right: int) -> Check:
    """The verdict on a model that shows no gradient to any image.

    Args:
        right: how many images it answers rightly.
    """
    return Check(
        name="zero gradients",
        passed=False,
        finding=f"The logits do not depend on the pixels in a way that can be differentiated: "
        f"{right} right answers, all that there are, show an attack no gradient.",
        meaning="The model cuts its gradients off, or works without: no attack that climbs was "
        "tried, and accuracies under attack say nothing.",
    )


def check_ascent(records: Sequence[Record]) -> Check:
    """The loss is seldom lower at the end of the attack than at its start."""
    known = [r for r in _points(records) if not math.isnan(r.first_loss + r.last_loss)]
    lower = sum(point.last_loss < point.first_loss for point in known)
    share = lower / max(1, len(known))
    return Check(
        name="ascent",
        passed=share <= FALLING if known else None,
        finding=f"On {lower} of {len(known)} images ({percent(share)}) the attack's own loss is "
        f"lower at the end than at the start; at most {percent(FALLING)} may be.",
        meaning="The attack climbs and does not arrive: its steps are too long, or the gradients "
        "point elsewhere; these images count as robust without being so.",
    )


def check_rounding(records: Sequence[Record]) -> Check:
    """Few successes are undone by rounding to 256 levels, as a saved picture has them."""
    fooled = _points(record for record in records if record.outcome == "fooled")
    undone = sum(not point.survives_8_bit for point in fooled)
    share = undone / max(1, len(fooled))
    passed = share <= UNDONE
    return Check(
        name="rounding to 8 bits",
        passed=passed if len(fooled) >= FEWEST or (passed and fooled) else None,
        finding=f"Rounding to 256 levels undoes {undone} of {len(fooled)} successes "
        f"({percent(share)}); at most {percent(UNDONE)} may be.",
        meaning="These adversarial images cannot be saved as pictures: the accuracy on pictures is "
        "higher than this attack says.",
    )


def check_fallen_confidence(records: Sequence[Record]) -> Check:
    """A model that has just been led to a wrong answer is not as sure of it as can be.

    Args:
        records: of an attack that leaves an image with the first wrong answer.
    """
    found = check_confidence(
        [record.confidence for record in records],
        [record.adversarial_confidence for record in records if record.outcome == "fooled"],
    )
    meaning = "The softmax is saturated: attacks on the cross entropy see little of this model."
    return replace(found, meaning=meaning)


def check_probabilities(logits: Tensor) -> Check:
    """What the model returns are logits, not probabilities.

    Args:
        logits: (N, K).
    """
    rows = logits.double()
    far = (rows.sum(1) - 1).abs()
    probabilities = bool(((rows >= 0).all(1) & (far < PROBABILITY)).all())
    low, high = rows.min().item(), rows.max().item()
    return Check(
        name="logits",
        passed=not probabilities,
        finding=f"The outputs are from {low:.3g} to {high:.3g}, and their sums are off 1 by "
        f"{far.max().item():.2g} at most.",
        meaning="The model returns probabilities: a softmax of them is nearly flat, and so is "
        "every loss that has one. Return the logits.",
    )


def check_repeatable(model: Classifier, x: Tensor) -> Check:
    """Two passes over the same images say the same.

    Args:
        model: pixels → logits.
        x: images (B, C, H, W), on its device.

    Cost: three forward passes.
    """
    with quiet(model):
        batch = image_batch(model, x, None, None, None)
        with torch.no_grad():
            first, second = batch.logits(batch.x), batch.logits(batch.x)
    return repeatable.check_repeatable(first, second)


def _points(records: Iterable[Record]) -> list[Point]:
    return [record.found for record in records if isinstance(record.found, Point)]
