"""Checks of what attacks wrote down: budgets, confidence, transfer, and texts seen in training."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

from nlp_adv.robustness.check_result import Check
from nlp_adv.robustness.checks_paired import Pair, percent
from nlp_adv.robustness.record import Record, Substitution

SURE = 0.999  # of a wrong answer that was right a word or a step ago; 0.5 to 0.9 is usual
FEWEST = 10  # fooled examples, below which their median says nothing
STOPPED = 0.05  # had all of these been fooled, the accuracy would be lower by so much at most
SEEN = 0.01  # an accuracy on so few known texts is off by a point at most


def check_records(records: Iterable[Record]) -> list[Check]:
    """All that the records of one attack tell without another run."""
    chosen = list(records)
    fooled = [record for record in chosen if record.outcome == "fooled"]
    return [
        check_confidence(
            [record.confidence for record in chosen],
            [record.adversarial_confidence for record in fooled],
        ),
        check_budget(chosen),
    ]


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


def standing(records: Iterable[Record]) -> dict[int, bool]:
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
