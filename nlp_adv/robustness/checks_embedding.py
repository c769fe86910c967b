"""Checks of an accuracy under attack on the embeddings: did the attack look, or was it blind?

Each takes results and returns a verdict. Where two accuracies are compared, a difference counts
only if it is more than chance would do on the same examples (`checks_paired`): with too few
examples the verdict is None, neither passed nor failed.

Most of these signs are from Athalye et al., "Obfuscated Gradients Give a False Sense of Security"
(ICML 2018), and Carlini et al., "On Evaluating Adversarial Robustness" (2019).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from nlp_adv.robustness.check_result import Check
from nlp_adv.robustness.checks_paired import Pair, percent, points
from nlp_adv.robustness.embedding_attacks import EmbeddingNoise
from nlp_adv.robustness.embedding_result import EmbeddingRobustness

LARGE = 1.0  # relative ε: δ may be as long as the embeddings and cancel every one of them
LARGE_ACCURACY = 0.05  # may be left there; a few rows may need more steps than the attack has
SETTLED = 0.05  # what twice the steps may still gain; past it, twice as many again gain too
STEP = 0.02  # what other lengths of the steps may gain
STARTS = 0.05  # what other starts may gain; past it, one start is luck (Mosbach et al., 2018)
LOSSES = 0.02  # the losses agree on which answers are wrong and differ in how they weigh classes
SCALE = 0.01  # a factor on the logits changes no answer; rounding may move a row in a hundred
ZERO_GRADIENTS = 0.05  # such an example counts as standing: the accuracy is too high by so much


def check_large_radius(result: EmbeddingRobustness) -> Check:
    """(a) Nothing stands at a radius at which the text may be erased (a relative ε of 1)."""
    epsilon = result.radii[-1]
    accuracy, shown = result.accuracy(epsilon), result.relative(epsilon)
    return Check(
        name="large radius",
        passed=None if shown < LARGE * (1 - 1e-6) else accuracy <= LARGE_ACCURACY,
        finding=f"At ε = {epsilon:g}, {shown:.2g} times the embedding norm, the accuracy is "
        f"{percent(accuracy)}; from {LARGE:g} times the norm on at most "
        f"{percent(LARGE_ACCURACY)} may be left.",
        meaning="The attack does not find what must be there: it is blind, or the model's answer "
        "does not depend on the text.",
    )


def check_radii(results: Sequence[EmbeddingRobustness]) -> Check:
    """(b) A larger ball, attacked by itself, leaves no higher accuracy than a smaller one.

    Inside one result this holds by construction, for what falls is not tried again.

    Args:
        results: of the same attack, each at one radius alone.
    """
    results = sorted(results, key=lambda result: result.radii[-1])
    pairs = [Pair(_stood(right), _stood(left)) for left, right in pairwise(results)]
    shown = ", ".join(
        f"{percent(result.accuracy(result.radii[-1]))} at ε = {result.radii[-1]:g}"
        for result in results
    )
    return Check(
        name="radius",
        passed=_all([pair.not_above() for pair in pairs]),
        finding=f"Each radius attacked by itself leaves {shown}.",
        meaning="A larger ball holds the smaller one: ascent gets lost in it, and the accuracy at "
        "large radii is the attack's failure.",
    )


def check_steps(fewer: EmbeddingRobustness, more: EmbeddingRobustness) -> Check:
    """(b) More steps leave no higher accuracy; undecided where they leave a much lower one.

    Args:
        fewer: of the attack with about half as many steps.
        more: of the attack itself.
    """
    pair = _pair(more, fewer)
    passed = pair.not_above()
    return Check(
        name="steps",
        passed=None if -pair.gap > SETTLED else passed,
        finding=f"{_steps(more)} steps leave {percent(pair.accuracies[0])}, {_steps(fewer)} steps "
        f"{percent(pair.accuracies[1])}; more than {points(SETTLED)} between them would mean that "
        "the number has not settled and the attack needs more steps.",
        meaning="More work finds less: the gradients do not lead to wrong answers.",
    )


def check_step_size(
    given: EmbeddingRobustness, others: Mapping[float, EmbeddingRobustness]
) -> Check:
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
        finding=f"The attack's own steps leave {percent(given.accuracy(given.radii[-1]))}, others "
        f"{shown}; at most {points(STEP)} less is expected.",
        meaning="Steps of this length do not cross the ball, or never settle in it: the accuracy "
        "is that of a weak attack, whatever the number of its steps.",
    )


def check_restarts(one: EmbeddingRobustness, several: EmbeddingRobustness) -> Check:
    """(b) More starts leave no higher accuracy, and no much lower one.

    Args:
        one: of the attack from the clean point alone.
        several: of the same attack from the clean point and random ones.
    """
    pair, back = _pair(several, one), _pair(one, several)
    return Check(
        name="restarts",
        passed=_all([pair.not_above(), back.not_above(STARTS)]),
        finding=f"{_starts(several)} starts leave {percent(pair.accuracies[0])}, the clean point "
        f"alone {percent(pair.accuracies[1])}; at most {points(STARTS)} less is expected.",
        meaning="What the attack finds depends on where it starts: the gradient at the clean point "
        "is masked, and one start overstates the accuracy.",
    )


def check_noise(attack: EmbeddingRobustness, noise: EmbeddingRobustness) -> Check:
    """(c) An attack breaks at least what random δ of the same length break."""
    if not isinstance(noise.attack, EmbeddingNoise):
        raise ValueError("The second result must be that of EmbeddingNoise.")
    pair = _pair(attack, noise)
    return Check(
        name="noise",
        passed=_unless_idle(pair.not_above(), attack, noise),
        finding=f"At ε = {attack.radii[-1]:g} the attack leaves {percent(pair.accuracies[0])}, "
        f"the best of {noise.attack.draws} random directions {percent(pair.accuracies[1])}.",
        meaning="The gradient is a worse guide than chance.",
    )


def check_cross_entropy(margin: EmbeddingRobustness, cross_entropy: EmbeddingRobustness) -> Check:
    """(d) The attack on the cross entropy breaks about what the one on the margin breaks."""
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


def check_softmax_scale(
    given: EmbeddingRobustness, rescaled: Mapping[float, EmbeddingRobustness]
) -> Check:
    """(e) An attack on the softmax does not get better when the logits are scaled down.

    Every model can be made to pass for robust under such an attack by a factor on its logits: the
    question is whether this one is so already. Hence scaled-down logits are compared with the
    model as given, by the factor that serves the attack best; what a larger factor does is shown
    and not judged.

    Args:
        given: of the attack on the cross entropy of the model as it is.
        rescaled: factor on the logits → of the same attack.
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
        f"{percent(one.accuracy(one.radii[-1]))} (×{number:.2g})"
        for number, one in sorted(rescaled.items())
    )
    return Check(
        name="logit scale, softmax",
        passed=_unless_idle(pair.not_above(SCALE), given, *rescaled.values()),
        finding=f"The attack on the cross entropy leaves {percent(pair.accuracies[0])} of the "
        f"model as it is, and with its logits scaled {shown}; scaling down may lower it by "
        f"{points(SCALE)}, and lowers it by {points(max(pair.gap, 0.0))} (×{factor:.2g}).",
        meaning="The model hides behind a saturated softmax: calibrated, which changes none of its "
        "answers, it falls to attacks that score probabilities.",
    )


def check_margin_scale(
    given: EmbeddingRobustness, rescaled: Mapping[float, EmbeddingRobustness]
) -> Check:
    """(e) The attack on the margin breaks the same whatever the factor on the logits.

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
        finding=f"The attack on the margin leaves {percent(given.accuracy(given.radii[-1]))} of "
        f"the model as it is, and with its logits scaled {shown}: "
        f"{points(largest)} apart at most, {points(SCALE)} are expected.",
        meaning="The accuracy depends on the unit of the logits: they overflow, or are rounded too "
        "coarsely; attack in float32.",
    )


def check_zero_gradients(result: EmbeddingRobustness) -> Check:
    """(h) Few examples have a gradient at the clean point that is exactly zero, or no number."""
    norms = result.gradient_norms[result.standing(0.0)]
    blind = ~(torch.isfinite(norms) & (norms > 0))
    share = float(blind.double().mean()) if len(norms) else 0.0
    seen = norms[~blind]
    loss = getattr(result.attack, "loss", "loss").replace("_", " ")
    shown = f"; the others' median norm is {float(seen.median()):.2g}" if len(seen) else ""
    return Check(
        name=f"zero gradients, {loss}",
        passed=share <= ZERO_GRADIENTS if len(norms) else None,
        finding=f"{int(blind.sum())} of {len(norms)} right answers ({percent(share)}) show the "
        f"attack no gradient of the {loss}{shown}; at most {percent(ZERO_GRADIENTS)} may.",
        meaning="The attack stands still on these examples and counts them as robust.",
    )


def _stood(result: EmbeddingRobustness) -> Tensor:
    return result.standing(result.radii[-1])


def _pair(
    first: EmbeddingRobustness, second: EmbeddingRobustness, *, same_answers: bool = True
) -> Pair:
    """At the largest radius, which must be the same.

    Args:
        first, second: of the same examples.
        same_answers: whether the model is the same; rounding and overflow change the answers of
            scaled logits.

    Raises:
        ValueError: the radius or what it means differs, or the examples do.
    """
    terms = [
        (one.radii[-1], one.attack.norm, one.attack.per, one.attack.unit) for one in (first, second)
    ]
    if terms[0] != terms[1]:
        raise ValueError(f"The two results differ in what a radius means: {terms}.")
    if same_answers and not torch.equal(first.predictions, second.predictions):
        raise ValueError("The two results are not of one model and the same examples.")
    return Pair(_stood(first), _stood(second))


def _unless_idle(passed: bool | None, *results: EmbeddingRobustness) -> bool | None:
    """None where no attack broke anything: then nothing was compared."""
    idle = all(one.accuracy(one.radii[-1]) == one.clean_accuracy for one in results)
    return None if idle else passed


def _all(verdicts: Sequence[bool | None]) -> bool | None:
    if False in verdicts:
        return False
    return None if None in verdicts else True


def _steps(result: EmbeddingRobustness) -> int:
    return getattr(result.attack, "steps", 0)


def _starts(result: EmbeddingRobustness) -> int:
    return getattr(result.attack, "restarts", 0)
