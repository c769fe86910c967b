"""Checks of an accuracy under attack in a ball: did the attack look, or was it blind?

Each takes what attacks left of the same examples and returns a verdict. Where two accuracies are
compared, a difference counts only if it is more than chance would do (`checks_paired`): with too
few examples the verdict is None, neither passed nor failed.

Most of these signs are from Athalye et al., "Obfuscated Gradients Give a False Sense of Security"
(ICML 2018), and Carlini et al., "On Evaluating Adversarial Robustness" (2019).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch

from nlp_adv.attacks.measured import Measured
from nlp_adv.robustness.check_result import Check
from nlp_adv.robustness.checks_paired import Pair, percent, points

LARGE_ACCURACY = 0.05  # may be left where all is erased; a few may need more steps than there are
SETTLED = 0.05  # what twice the steps may still gain; past it, twice as many again gain too
STEP = 0.02  # what other lengths of the steps may gain
STARTS = 0.05  # what other starts may gain; past it, one start is luck (Mosbach et al., 2018)
LOSSES = 0.02  # the losses agree on which answers are wrong and differ in how they weigh classes
SCALE = 0.01  # a factor on the logits changes no answer; rounding may move one in a hundred


def check_large_radius(found: Measured) -> Check:
    """(a) No example is robust at a radius at which its input may be erased.

    That is δ as long as what the model computes there, or every pixel grey.
    """
    (epsilon,), accuracy = found.radii, found.accuracy()
    assert epsilon is not None
    enough = epsilon >= found.erasing * (1 - 1e-6)
    return Check(
        name="large radius",
        passed=accuracy <= LARGE_ACCURACY if enough else None,
        finding=f"At ε = {epsilon:.3g}, where nothing of the input need be left (from "
        f"ε = {found.erasing:.3g} on), the accuracy is {percent(accuracy)}; at most "
        f"{percent(LARGE_ACCURACY)} may be left.",
        meaning="The attack does not find what must be there: it is blind, or the model's answer "
        "does not depend on the input; smaller radii are overstated as well.",
    )


def check_radii(results: Sequence[Measured]) -> Check:
    """(b) A larger ball, attacked by itself, leaves no higher accuracy than a smaller one.

    Args:
        results: of the same attack, each at one radius alone.
    """
    ordered = sorted(results, key=_epsilon)
    pairs = [_pair(right, left) for left, right in pairwise(ordered)]
    shown = ", ".join(f"{percent(one.accuracy())} at ε = {_epsilon(one):.3g}" for one in ordered)
    return Check(
        name="radius",
        passed=_all([pair.not_above() for pair in pairs]),
        finding=f"Each radius attacked by itself leaves {shown}.",
        meaning="A larger ball holds the smaller one: ascent gets lost in it, and the accuracy at "
        "large radii is the attack's failure.",
    )


def check_steps(fewer: Measured, more: Measured, steps: tuple[int, int]) -> Check:
    """(b) More steps leave no higher accuracy; undecided where they leave a much lower one.

    Args:
        fewer, more: of the attack with fewer steps, and with more.
        steps: how many.
    """
    pair = _pair(more, fewer)
    return Check(
        name="steps",
        passed=None if -pair.gap > SETTLED else pair.not_above(),
        finding=f"{steps[1]} steps leave {percent(pair.accuracies[0])}, {steps[0]} steps "
        f"{percent(pair.accuracies[1])}; more than {points(SETTLED)} between them would mean that "
        f"the number has not settled and the attack needs more steps.",
        meaning="More work finds less: the gradients do not lead to wrong answers.",
    )


def check_step_size(given: Measured, others: Mapping[float, Measured]) -> Check:
    """(b) Shorter and longer steps leave hardly less: the attack's own length crosses the ball.

    More steps do not show a step that is too short where they are shortened in proportion.

    Args:
        given: of the attack itself.
        others: factor on the length of its steps → of the same attack with it.
    """
    pairs = {factor: _pair(given, one) for factor, one in others.items()}
    shown = ", ".join(
        f"{percent(pair.accuracies[1])} (×{factor:g})" for factor, pair in sorted(pairs.items())
    )
    passed = _all([pair.not_above(STEP) for pair in pairs.values()])
    return Check(
        name="step size",
        passed=_unless_idle(passed, given, *others.values()),
        finding=f"The attack's own steps leave {percent(given.accuracy())}, others {shown}; at "
        f"most {points(STEP)} less is expected.",
        meaning="Steps of this length do not cross the ball, or never settle in it: the accuracy "
        "is that of a weak attack, whatever the number of its steps.",
    )


def check_restarts(one: Measured, several: Measured, starts: int) -> Check:
    """(b) More starts leave no higher accuracy, and no much lower one.

    Args:
        one: of the attack from the clean point alone.
        several: of the same attack from the clean point and random ones.
        starts: how many.
    """
    pair, back = _pair(several, one), _pair(one, several)
    return Check(
        name="restarts",
        passed=_all([pair.not_above(), back.not_above(STARTS)]),
        finding=f"{starts} starts leave {percent(pair.accuracies[0])}, the clean point alone "
        f"{percent(pair.accuracies[1])}; at most {points(STARTS)} less is expected.",
        meaning="What the attack finds depends on where it starts: the gradient at the clean point "
        "is masked, and one start overstates the accuracy.",
    )


def check_beats(attack: Measured, simple: Measured, name: str, shown: str) -> Check:
    """(c) An attack of many steps fools at least what a simpler one fools: one step, or noise.

    Args:
        attack, simple: of the two attacks.
        name: of the check.
        shown: what the simpler one is called.
    """
    pair = _pair(attack, simple)
    return Check(
        name=name,
        passed=_unless_idle(pair.not_above(), attack, simple),
        finding=f"At ε = {_epsilon(attack):.3g} the attack leaves {percent(pair.accuracies[0])}, "
        f"{shown} {percent(pair.accuracies[1])}.",
        meaning="The gradient is a worse guide than a single step or chance: it is masked, and "
        "the accuracy is overstated.",
    )


def check_cross_entropy(margin: Measured, cross_entropy: Measured) -> Check:
    """(d) The attack on the cross entropy fools about what the one on the margin fools."""
    pair = _pair(cross_entropy, margin)
    return Check(
        name="cross entropy",
        passed=_unless_idle(pair.level(LOSSES), margin, cross_entropy),
        finding=f"The attack on the cross entropy leaves {percent(pair.accuracies[0])}, the one on "
        f"the margin {percent(pair.accuracies[1])}; at most {points(LOSSES)} apart is expected.",
        meaning="If the cross entropy leaves more, its gradient vanishes in a saturated softmax, "
        "and attacks that score probabilities overstate this model; if the margin leaves more, "
        "take the lower of the two.",
    )


def check_softmax_scale(given: Measured, rescaled: Mapping[float, Measured]) -> Check:
    """(e) An attack on the softmax does not get better when the logits are scaled down.

    Every model can be made to pass for robust under such an attack by a factor on its logits: the
    question is whether this one is so already. Hence scaled-down logits are compared with the
    model as given, by the factor that serves the attack best; what a larger factor does is shown
    and not judged.

    Args:
        given: of the attack on the cross entropy of the model as it is.
        rescaled: factor on the logits → of the same attack; at least one is below 1.
    """
    softened = {
        factor: _pair(given, one, same_answers=False)
        for factor, one in rescaled.items()
        if factor < 1
    }
    if not softened:
        raise ValueError("Give at least one factor below 1.")
    factor, pair = max(softened.items(), key=lambda item: item[1].gap)
    shown = ", ".join(
        f"{percent(one.accuracy())} (×{number:.2g})" for number, one in sorted(rescaled.items())
    )
    return Check(
        name="logit scale, softmax",
        passed=_unless_idle(pair.not_above(SCALE), given, *rescaled.values()),
        finding=f"The attack on the cross entropy leaves {percent(pair.accuracies[0])} of the "
        f"model as it is, and with its logits scaled {shown}; scaling down may lower it by "
        f"{points(SCALE)}, and lowers it by {points(max(pair.gap, 0.0))} (×{factor:.2g}).",
        meaning="The model hides behind a saturated softmax: calibrated, which changes none of its "
        "answers, it is fooled by attacks that score probabilities.",
    )


def check_margin_scale(given: Measured, rescaled: Mapping[float, Measured]) -> Check:
    """(e) The attack on the margin fools the same whatever the factor on the logits.

    Args:
        given: of the model as it is.
        rescaled: factor on the logits → of the same attack.
    """
    pairs = {factor: _pair(one, given, same_answers=False) for factor, one in rescaled.items()}
    shown = ", ".join(
        f"{percent(pair.accuracies[0])} (×{factor:g})" for factor, pair in sorted(pairs.items())
    )
    largest = max(abs(pair.gap) for pair in pairs.values())
    return Check(
        name="logit scale, margin",
        passed=_all([pair.level(SCALE) for pair in pairs.values()]),
        finding=f"The attack on the margin leaves {percent(given.accuracy())} of the model as it "
        f"is, and with its logits scaled {shown}: {points(largest)} apart at most, "
        f"{points(SCALE)} are expected.",
        meaning="The accuracy depends on the unit of the logits: they overflow, or are rounded too "
        "coarsely; attack in float32.",
    )


def _epsilon(found: Measured) -> float:
    return found.radii[-1] or 0.0


def _pair(first: Measured, second: Measured, *, same_answers: bool = True) -> Pair:
    """Right under the one and under the other, at the largest radius of each.

    Args:
        first, second: of the same examples.
        same_answers: whether the model is the same; rounding and overflow change the answers of
            scaled logits.

    Raises:
        ValueError: what a radius means differs, or the examples do.
    """
    terms = [(one.ladder.norm, one.ladder.unit) for one in (first, second)]
    if terms[0] != terms[1]:
        raise ValueError(f"The two results differ in what a radius means: {terms}.")
    if same_answers and not torch.equal(first.predictions, second.predictions):
        raise ValueError("The two results are not of one model and the same examples.")
    return Pair(first.robust(), second.robust())


def _unless_idle(passed: bool | None, *results: Measured) -> bool | None:
    """None where no attack fooled anything: then nothing was compared."""
    return passed if any(one.fooled.any() for one in results) else None


def _all(verdicts: Sequence[bool | None]) -> bool | None:
    if False in verdicts:
        return False
    return None if None in verdicts else True
