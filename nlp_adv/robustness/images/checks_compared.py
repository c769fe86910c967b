"""Checks of an accuracy under attack on images: did the attack look, or was it blind?

Each takes what attacks left of the same images and returns a verdict. Where two accuracies are
compared, a difference counts only if it is more than chance would do (`checks_paired`): with too
few images the verdict is None, neither passed nor failed.

Most of these signs are from Athalye et al., "Obfuscated Gradients Give a False Sense of Security"
(ICML 2018), and Carlini et al., "On Evaluating Adversarial Robustness" (2019).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from nlp_adv.robustness.check_result import Check
from nlp_adv.robustness.checks_embedding import (
    LARGE_ACCURACY,
    LOSSES,
    SCALE,
    SETTLED,
    STARTS,
)
from nlp_adv.robustness.checks_paired import Pair, percent, points
from nlp_adv.robustness.record import Record

Records = Sequence[Record]
"""Of one attack, in the order of the images."""


def check_large_radius(records: Records, epsilon: float) -> Check:
    """Nothing stands at a radius at which every pixel can become grey."""
    accuracy = _accuracy(records)
    return Check(
        name="large radius",
        passed=accuracy <= LARGE_ACCURACY,
        finding=f"At ε = {epsilon:.3g}, where every pixel can become grey, the accuracy is "
        f"{percent(accuracy)}; at most {percent(LARGE_ACCURACY)} may be left.",
        meaning="Nothing of the image need be left at this radius: what stands there is the "
        "attack's failure, and smaller radii are overstated as well.",
    )


def check_radii(by_radius: Mapping[float, Records]) -> Check:
    """Each radius, attacked by itself, leaves no more than a smaller one."""
    radii = sorted(by_radius)
    pairs = [Pair(_robust(by_radius[b]), _robust(by_radius[a])) for a, b in pairwise(radii)]
    shown = ", ".join(f"{percent(_accuracy(by_radius[r]))} at ε = {r:.3g}" for r in radii)
    return Check(
        name="radius",
        passed=_all([pair.not_above() for pair in pairs]),
        finding=f"Each radius attacked by itself leaves {shown}.",
        meaning="A larger ball holds the smaller one: ascent gets lost in it, and the accuracy at "
        "large radii is the attack's failure.",
    )


def check_steps(fewer: Records, more: Records, steps: tuple[int, int]) -> Check:
    """More steps leave no higher accuracy; undecided where they leave a much lower one."""
    pair = Pair(_robust(more), _robust(fewer))
    return Check(
        name="steps",
        passed=None if -pair.gap > SETTLED else pair.not_above(),
        finding=f"{steps[1]} steps leave {percent(pair.accuracies[0])}, {steps[0]} steps "
        f"{percent(pair.accuracies[1])}; more than {points(SETTLED)} between them would mean that "
        f"the number has not settled and the attack needs more steps.",
        meaning="More work finds less: the gradients do not lead to wrong answers.",
    )


def check_restarts(one: Records, several: Records, starts: int) -> Check:
    """Other starts than the image itself leave no higher accuracy, and no much lower one.

    Args:
        one: of the attack that begins at the image.
        several: of the same attack from so many random starts.
        starts: how many.
    """
    pair = Pair(_robust(several), _robust(one))
    back = Pair(pair.second, pair.first)
    return Check(
        name="restarts",
        passed=_all([pair.not_above(), back.not_above(STARTS)]),
        finding=f"{starts} random starts leave {percent(pair.accuracies[0])}, the image itself as "
        f"the start {percent(pair.accuracies[1])}; at most {points(STARTS)} less is expected.",
        meaning="What the attack finds depends on where it starts: the gradient at the image is "
        "masked, and one start overstates the accuracy.",
    )


def check_beats(strong: Records, weak: Records, names: tuple[str, str]) -> Check:
    """An attack of many steps breaks at least what a simpler one breaks.

    Args:
        strong, weak: of the two attacks.
        names: what they are called: "PGD", "FGSM".
    """
    pair = Pair(_robust(strong), _robust(weak))
    return Check(
        name=f"{names[0]} and {names[1]}",
        passed=_unless_idle(pair.not_above(), strong, weak),
        finding=f"{names[0]} leaves {percent(pair.accuracies[0])}, {names[1]} "
        f"{percent(pair.accuracies[1])}.",
        meaning="The gradient is a worse guide than a single step or chance: it is masked, and "
        "the accuracy is overstated.",
    )


def check_losses(margin: Records, cross_entropy: Records) -> Check:
    """The attack on the cross entropy breaks about what the one on the margin breaks."""
    pair = Pair(_robust(cross_entropy), _robust(margin))
    return Check(
        name="cross entropy",
        passed=_unless_idle(pair.level(LOSSES), margin, cross_entropy),
        finding=f"The attack on the cross entropy leaves {percent(pair.accuracies[0])}, the one on "
        f"the margin {percent(pair.accuracies[1])}; at most {points(LOSSES)} apart is expected.",
        meaning="If the cross entropy leaves more, its gradient vanishes in a saturated softmax; "
        "if the margin leaves more, take the lower of the two.",
    )


def check_softmax_scale(given: Records, rescaled: Mapping[float, Records]) -> Check:
    """An attack on the softmax does not get better when the logits are scaled down.

    Every model passes for robust under such an attack when its logits are large; the question is
    whether this one does so already. What a factor above 1 does is shown and not judged.

    Args:
        given: of the attack on the cross entropy of the model as it is.
        rescaled: factor on the logits → of the same attack; at least one factor is below 1.
    """
    softened = {
        factor: Pair(_robust(given), _robust(r)) for factor, r in rescaled.items() if factor < 1
    }
    factor, pair = max(softened.items(), key=lambda item: item[1].gap)
    shown = ", ".join(
        f"{percent(_accuracy(one))} (×{number:.2g})" for number, one in sorted(rescaled.items())
    )
    return Check(
        name="logit scale, softmax",
        passed=_unless_idle(pair.not_above(SCALE), given, *rescaled.values()),
        finding=f"The attack on the cross entropy leaves {percent(pair.accuracies[0])} of the "
        f"model as it is, and with its logits scaled {shown}; scaling down may lower it by "
        f"{points(SCALE)}, and lowers it by {points(max(pair.gap, 0.0))} (×{factor:.2g}).",
        meaning="The model hides behind a saturated softmax: calibrated, which changes none of its "
        "answers, it falls to attacks on the cross entropy.",
    )


def check_margin_scale(given: Records, rescaled: Mapping[float, Records]) -> Check:
    """The attack on the margin breaks the same whatever the factor on the logits."""
    pairs = {factor: Pair(_robust(one), _robust(given)) for factor, one in rescaled.items()}
    shown = ", ".join(
        f"{percent(pair.accuracies[0])} (×{factor:g})" for factor, pair in sorted(pairs.items())
    )
    return Check(
        name="logit scale, margin",
        passed=_all([pair.level(SCALE) for pair in pairs.values()]),
        finding=f"The attack on the margin leaves {percent(_accuracy(given))} of the model as it "
        f"is, and with its logits scaled {shown}; {points(SCALE)} apart are expected.",
        meaning="The accuracy depends on the unit of the logits: they overflow, or are rounded too "
        "coarsely; attack in float32.",
    )


def _robust(records: Records) -> list[bool]:
    """Of each image: whether the model is right under the attack."""
    return [record.outcome == "robust" for record in records]


def _accuracy(records: Records) -> float:
    return sum(_robust(records)) / max(1, len(records))


def _unless_idle(passed: bool | None, *runs: Records) -> bool | None:
    """None where no attack broke anything: then nothing was compared."""
    fooled = any(record.outcome == "fooled" for records in runs for record in records)
    return passed if fooled else None


def _all(verdicts: Sequence[bool | None]) -> bool | None:
    if False in verdicts:
        return False
    return None if None in verdicts else True
