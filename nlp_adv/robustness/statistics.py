"""What records say of a model, and how sure one may be of it.

Its intervals are over the texts that were drawn, and say nothing of another training run; seeds
are put together in `seeds`, models compared there and in `paired`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from scipy.stats import binomtest

from nlp_adv.errors import UserError
from nlp_adv.robustness.records import Record


@dataclass(frozen=True)
class Share:
    """So many out of so many.

    Args:
        count: k.
        total: n.
    """

    count: int
    total: int

    def __post_init__(self) -> None:
        if not 0 <= self.count <= self.total:
            raise ValueError(f"{self.count} of {self.total} is no share.")

    @property
    def value(self) -> float:
        """p = k/n; nan of nothing."""
        return self.count / self.total if self.total else math.nan

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Wilson's score interval; (nan, nan) of nothing.

        (p + z²/2n ± z·√(p(1 − p)/n + z²/4n²)) / (1 + z²/n), z the normal quantile at
        (1 + confidence)/2. Wilson, JASA 22 (1927).
        """
        if not self.total:
            return math.nan, math.nan
        found = binomtest(self.count, self.total).proportion_ci(confidence, method="wilson")
        return float(found.low), float(found.high)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One attack on one model.

    Args:
        attack: its name.
        examples: N, all of them.
        clean: right without attack.
        under_attack: right whatever the attack did.
        success: fallen, of those that were attacked: right without attack.
        queries, forwards: mean over attacked examples; nan without any.
        tokens: of all examples together.
        words_changed: mean share of a text's words over successes; nan without any.
        budget_stopped: attacks that ended with their budget, of those attacked.
    """

    attack: str
    examples: int
    clean: Share
    under_attack: Share
    success: Share
    queries: float
    forwards: float
    tokens: int
    words_changed: float
    budget_stopped: Share


def summarise(records: Iterable[Record]) -> Summary:
    """Count one attack's records, and check that Aua = Clean·(1 − Suc), exactly.

    Raises:
        UserError: there are none, they are of several attacks, an id comes twice, or an outcome
            contradicts the others or its own prediction.
    """
    chosen = _of_one_attack(records)
    attacked = [record for record in chosen if record.outcome != "skipped"]
    fallen = [record for record in chosen if record.outcome == "succeeded"]
    stood = sum(record.outcome == "failed" for record in chosen)
    summary = Summary(
        attack=chosen[0].attack,
        examples=len(chosen),
        clean=Share(len(attacked), len(chosen)),
        under_attack=Share(stood, len(chosen)),
        success=Share(len(fallen), stood + len(fallen)),
        queries=_mean([record.queries for record in attacked]),
        forwards=_mean([record.forwards for record in attacked]),
        tokens=sum(record.tokens for record in chosen),
        # A text without words can still fall, to an insertion: none of its words changed.
        words_changed=_mean([record.words_changed / max(record.words, 1) for record in fallen]),
        budget_stopped=Share(sum(record.budget_stopped for record in attacked), len(attacked)),
    )
    _check(summary, attacked)
    return summary


def _check(summary: Summary, attacked: Sequence[Record]) -> None:
    for record in attacked:
        if record.prediction != record.label:
            raise UserError(
                f"Example {record.id} of {record.attack} counts as attacked ({record.outcome}), "
                "but was wrong without attack; such a record must be skipped."
            )
    clean, success = summary.clean, summary.success
    # No attacked example, no success rate: all there is to ask is that none stands.
    fell = Fraction(success.count, success.total) if success.total else Fraction(0)
    standing = Fraction(clean.count, clean.total) * (1 - fell)
    if standing != Fraction(summary.under_attack.count, summary.under_attack.total):
        raise UserError(
            f"The records of {summary.attack} do not add up: {clean.count} examples were right, "
            f"{summary.under_attack.count} stood and {success.count} fell; an outcome must be "
            "skipped, failed or succeeded."
        )


def _of_one_attack(records: Iterable[Record]) -> list[Record]:
    chosen = list(records)
    attacks = sorted({record.attack for record in chosen})
    if len(attacks) != 1:
        found = f"of {', '.join(attacks)}" if attacks else "none"
        raise UserError(f"Records of one attack are needed; these are {found}.")
    _check_ids(chosen)
    return chosen


def _check_ids(records: Iterable[Record]) -> None:
    counts = Counter((record.attack, record.id) for record in records)
    for (attack, number), count in counts.items():
        if count > 1:
            raise UserError(f"Example {number} of {attack} was recorded {count} times; keep one.")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def worst_case(records: Iterable[Record]) -> dict[int, bool]:
    """Example id → whether the model stood every attack, as AutoAttack counts its ensemble.

    Raises:
        UserError: the attacks were not run on the same examples, or one twice on the same.
    """
    chosen = list(records)
    _check_ids(chosen)
    stood: dict[str, dict[int, bool]] = {}
    for record in chosen:
        stood.setdefault(record.attack, {})[record.id] = record.outcome == "failed"
    for attack, outcomes in stood.items():
        first = next(iter(stood))
        if outcomes.keys() != stood[first].keys():
            number = min(outcomes.keys() ^ stood[first].keys())
            raise UserError(
                f"{first} and {attack} were not run on the same examples: {number} is missing "
                "from one of them; finish both runs."
            )
    ids = sorted({record.id for record in chosen})
    return {number: all(outcomes[number] for outcomes in stood.values()) for number in ids}


def robustness_curve(
    records: Iterable[Record], budgets: Sequence[float]
) -> list[tuple[float, Share]]:
    """Accuracy under an attack that may ask at most q queries an example, for each q.

    An example has fallen at q ⇔ the attack succeeded with queries ≤ q. This is read off one run;
    an attack that must stop at q amid the candidates of a word may still find one among those it
    could ask, so a run with that budget can end a little lower.

    Raises:
        UserError: as `summarise`.
    """
    chosen = _of_one_attack(records)
    fell_at = [record.queries for record in chosen if record.outcome == "succeeded"]
    right = sum(record.outcome != "skipped" for record in chosen)
    return [
        (budget, Share(right - sum(queries <= budget for queries in fell_at), len(chosen)))
        for budget in budgets
    ]
