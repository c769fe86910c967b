"""Checks of one model, or of one attack on it, that compare nothing."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

from torch import Tensor

from nlp_adv.robustness.check_result import Check
from nlp_adv.robustness.checks_paired import percent

SURE = 0.999  # of a wrong answer that was right a word or a step ago; 0.5 to 0.9 is usual
FEWEST = 10  # fooled examples, below which their median says nothing
ZERO_GRADIENTS = 0.05  # such an example counts as robust: the accuracy is too high by so much
FALLING = 0.05  # of the examples may lose at the end what the attack climbed
UNDONE = 0.2  # of the successes may be undone by rounding: those at the border often are
PROBABILITY = 1e-3  # from a sum of 1


def check_confidence(clean: Iterable[float], fooled: Iterable[float]) -> Check:
    """(g) A model that has just been led to a wrong answer is not as sure of it as can be.

    An attack ends at the first wrong answer, close to the border between the answers, where a
    softmax of honest scale is unsure. The verdict is on the median: some examples end so close to
    the border that even sharpened logits are unsure there, and they hold every mean down.

    Args:
        clean: softmax probabilities of the answers without attack.
        fooled: of the wrong answers under the attack.
    """
    before = [value for value in clean if not math.isnan(value)]
    after = [value for value in fooled if not math.isnan(value)]
    shown = percent(statistics.fmean(before)) if before else "unknown"
    finding = f"The mean confidence is {shown} without attack"
    if after:
        finding += (
            f", and {percent(statistics.fmean(after))} in the {len(after)} wrong answers that the "
            f"attack brought about, their median {100 * statistics.median(after):.4g} %"
        )
    decided = len(after) >= FEWEST
    return Check(
        name="confidence",
        passed=statistics.median(after) < SURE if decided else None,
        finding=f"{finding}; a median of {100 * SURE:g} % over at least {FEWEST} is a flag.",
        meaning="The softmax is saturated: attacks that score probabilities see no difference "
        "between candidates, and overstate this model.",
    )


def check_zero_gradients(norms: Sequence[float], loss: str = "") -> Check:
    """(h) Few right answers have a first gradient that is exactly zero, or no number.

    Args:
        norms: ‖∇‖ of each example that was attacked.
        loss: of which loss, where there are several.
    """
    seen = [norm for norm in norms if 0 < norm < math.inf]
    blind = len(norms) - len(seen)
    share = blind / max(1, len(norms))
    of = f" of the {loss}" if loss else ""
    shown = f"; the others' median norm is {statistics.median(seen):.2g}" if seen else ""
    return Check(
        name=f"zero gradients, {loss}" if loss else "zero gradients",
        passed=share <= ZERO_GRADIENTS if norms else None,
        finding=f"{blind} of {len(norms)} right answers ({percent(share)}) show the attack no "
        f"gradient{of} where it begins{shown}; at most {percent(ZERO_GRADIENTS)} may.",
        meaning="The attack stands still on these examples and counts them as robust.",
    )


def check_ascent(first: Sequence[float], last: Sequence[float]) -> Check:
    """The loss is seldom lower at the end of the attack than at its start.

    Args:
        first, last: the attack's own loss at the two ends, of each example that was attacked.
    """
    pairs = zip(first, last, strict=True)
    known = [(before, after) for before, after in pairs if not math.isnan(before + after)]
    lower = sum(after < before for before, after in known)
    share = lower / max(1, len(known))
    return Check(
        name="ascent",
        passed=share <= FALLING if known else None,
        finding=f"On {lower} of {len(known)} examples ({percent(share)}) the attack's own loss is "
        f"lower at the end than at the start; at most {percent(FALLING)} may be.",
        meaning="The attack climbs and does not arrive: its steps are too long, or the gradients "
        "point elsewhere; these examples count as robust without being so.",
    )


def check_rounding(survives: Sequence[bool]) -> Check:
    """Few successes are undone by rounding to 256 levels, as a saved picture has them.

    Args:
        survives: of each fooled image, whether it still is.
    """
    undone = sum(not one for one in survives)
    share = undone / max(1, len(survives))
    passed = share <= UNDONE
    return Check(
        name="rounding to 8 bits",
        passed=passed if len(survives) >= FEWEST or (passed and survives) else None,
        finding=f"Rounding to 256 levels undoes {undone} of {len(survives)} successes "
        f"({percent(share)}); at most {percent(UNDONE)} may be.",
        meaning="These adversarial images cannot be saved as pictures: the accuracy on pictures is "
        "higher than this attack says.",
    )


def check_probabilities(logits: Tensor) -> Check:
    """What the model returns are logits, not probabilities.

    Args:
        logits: (N, C).
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
