"""Checks of what attacks wrote down: budgets, confidence, transfer, and texts seen in training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from nlp_adv.robustness.check_result import Check
from nlp_adv.robustness.checks_alone import (
    check_ascent,
    check_confidence,
    check_rounding,
    check_zero_gradients,
)
from nlp_adv.robustness.checks_paired import Pair, percent
from nlp_adv.robustness.record import Point, Record, Substitution

STOPPED = 0.05  # had all of these been fooled, the accuracy would be lower by so much at most
SEEN = 0.01  # an accuracy on so few known texts is off by a point at most


def record_checks(records: Sequence[Record], *, classes: bool = True) -> list[Check]:
    """What the records of each attack tell without another run, under its name.

    Of attacks on words: how sure the model is of the wrong answers, and budgets. Of attacks on
    pixels: gradients of 0, and of those that climb a loss in a ball whether they arrived, and
    whether their pictures can be saved. (One that looks for the smallest δ goes down as well as
    up, and ends at the border between the answers, where rounding often undoes it.) The embeddings
    have the masking checks.

    Args:
        records: of any attacks.
        classes: confidences are a classifier's; those of requests are a judge's margin.
    """
    return [
        replace(check, name=f"{check.name} ({title})")
        for title in dict.fromkeys(record.title for record in records)
        for check in _checks([one for one in records if one.title == title], classes)
    ]


def _checks(records: Sequence[Record], classes: bool) -> list[Check]:
    """Of one attack."""
    fooled = [record for record in records if record.outcome == "fooled"]
    if records[0].changes_text:
        clean = [record.confidence for record in records]
        wrong = [record.adversarial_confidence for record in fooled]
        return [*([check_confidence(clean, wrong)] if classes else []), check_budget(records)]
    attacked = [one for one in records if one.attacked and isinstance(one.found, Point)]
    points = [one.found for one in attacked if isinstance(one.found, Point)]
    if records[0].text is not None or not any(_climbed(point) for point in points):
        return []
    checks = [check_zero_gradients([_length(point.first_gradient) for point in points])]
    if records[0].epsilon is not None:
        ends = [(point.first_loss, point.last_loss) for point in points]
        rounded = [bool(one.found.survives_8_bit) for one in fooled if isinstance(one.found, Point)]
        checks += [check_ascent(*zip(*ends, strict=True)), check_rounding(rounded)]
    return checks


def _length(gradient: float) -> float:
    """Of a gradient whose length was not measured: it was not 0."""
    return 1.0 if math.isnan(gradient) else gradient


def _climbed(point: Point) -> bool:
    return point.gradient_passes > 0 or point.first_gradient == 0


def check_budget(records: Iterable[Record]) -> Check:
    """(i) Few attacks ended because their query budget was spent."""
    attacked = [record for record in records if record.attacked]
    stopped = sum(
        isinstance(record.found, Substitution)
        and record.found.budget_stopped
        and record.outcome == "robust"
        for record in attacked
    )
    share = stopped / len(attacked) if attacked else 0.0
    return Check(
        name="query budget",
        passed=share <= STOPPED if attacked else None,
        finding=f"{stopped} of {len(attacked)} attacks ({percent(share)}) were stopped by their "
        f"budget; at most {percent(STOPPED)} may be.",
        meaning="The accuracy is that of a small budget: a patient attacker may find more.",
    )


def check_transfer(direct: Mapping[int, bool], transferred: Mapping[int, bool]) -> Check:
    """(f) Texts made against another model do not fool more than an attack on this one does.

    Args:
        direct: example id → whether this model is right under an attack on itself.
        transferred: the same on the adversarial texts of the other model, by the same attack.
    """
    common = sorted(direct.keys() & transferred.keys())
    pair = Pair([direct[one] for one in common], [transferred[one] for one in common])
    own, other = pair.accuracies
    return Check(
        name="transfer",
        passed=pair.not_above() if common else None,
        finding=f"On {len(common)} texts the direct attack leaves {percent(own)}, adversarial "
        f"texts of the other model leave {percent(other)}.",
        meaning="The direct attack misses what is there to be found: the model hides its scores "
        "or gradients, and the accuracy is overstated.",
    )


def robust_to(records: Iterable[Record]) -> dict[int, bool]:
    """Example id → whether the model is right under the attack, for `check_transfer`."""
    return {record.id: record.outcome == "robust" for record in records}


def check_overlap(
    trained: Iterable[str | Sequence[str]], attacked: Iterable[str | Sequence[str]]
) -> Check:
    """(j) The attacked texts were not trained on.

    Texts are compared exactly after case folding and collapsing white space; of a pair, both
    must agree.

    Args:
        trained: texts, or pairs of texts.
        attacked: the same.
    """
    seen = {_normal(text) for text in trained}
    texts = [_normal(text) for text in attacked]
    known = sum(text in seen for text in texts)
    share = known / len(texts) if texts else 0.0
    return Check(
        name="overlap",
        passed=share <= SEEN if texts else None,
        finding=f"{known} of {len(texts)} attacked texts ({percent(share)}) are training texts; "
        f"at most {percent(SEEN)} may be.",
        meaning="The model has seen the answers: the accuracies do not hold for new texts.",
    )


def _normal(text: str | Sequence[str]) -> tuple[str, ...]:
    parts = (text,) if isinstance(text, str) else text
    return tuple(" ".join(part.casefold().split()) for part in parts)
