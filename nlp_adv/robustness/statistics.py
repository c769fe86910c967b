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

import torch
from scipy.stats import binomtest

from nlp_adv.errors import UserError
from nlp_adv.perturbation import Ball
from nlp_adv.robustness.record import Norm, Point, Record, Substitution

_ROUNDING = 1e-6  # by which a δ on the surface of a ball may be longer than ε


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
    """One attack on one model; what its kind of attack does not have is nan, or a share of nothing.

    Args:
        attack: its title.
        examples: N, all of them.
        clean: right without attack.
        under_attack: right whatever the attack did in the ball.
        success: fooled in the ball, of those that were attacked: right without attack.
        fooled: fooled in the ball or outside, of the same.
        fooled_8_bit: those that are still fooled after rounding to 256 levels, of the same.
        queries, forwards: mean over attacked examples. An attack on a point asks with each pass.
        tokens: of all examples together.
        words_changed: mean share of a text's words over the fooled.
        budget_stopped: attacks that ended with their budget, of those attacked.
        l2, linf, l1, l0: of δ in the unit of ε, means over the fooled.
        gradient_passes: mean over attacked examples.
        zero_gradients: whose first gradient was 0, of those attacked.
    """

    attack: str
    examples: int
    clean: Share
    under_attack: Share
    success: Share
    fooled: Share
    fooled_8_bit: Share
    queries: float
    forwards: float
    tokens: int
    words_changed: float
    budget_stopped: Share
    l2: float
    linf: float
    l1: float
    l0: float
    gradient_passes: float
    zero_gradients: Share


def summarise(records: Iterable[Record], within: Ball | None = None) -> Summary:
    """Count one attack's records, and check that Aua = Clean·(1 − Suc), exactly.

    Args:
        records: of one attack at one radius.
        within: the ball in which a success counts against the accuracy; any without.

    Raises:
        UserError: there are none, they are of several attacks, an id comes twice, or an outcome
            contradicts the others or its own prediction.
    """
    chosen = _of_one_attack(records)
    attacked = [record for record in chosen if record.attacked]
    fooled = [record for record in chosen if record.outcome == "fooled"]
    standing = sum(is_robust(record, within) for record in chosen)
    points = [one.found for one in attacked if isinstance(one.found, Point)]
    rounded = [one.found.survives_8_bit for one in fooled if isinstance(one.found, Point)]
    stopped = [getattr(one.found, "budget_stopped", False) for one in attacked]
    # What was attacked and is neither robust nor fooled is counted nowhere, and told by the check.
    counted = [one for one in attacked if one.outcome in ("robust", "fooled")]
    summary = Summary(
        attack=chosen[0].title,
        examples=len(chosen),
        clean=Share(len(attacked), len(chosen)),
        under_attack=Share(standing, len(chosen)),
        success=Share(len(counted) - standing, len(counted)),
        fooled=Share(len(fooled), len(attacked)),
        fooled_8_bit=Share(
            sum(one is True for one in rounded), len(attacked) if chosen[0].text is None else 0
        ),
        queries=_mean([queries_of(record) for record in attacked]),
        forwards=_mean([record.forwards for record in attacked]),
        tokens=sum(record.found.tokens for record in chosen),
        words_changed=_mean([_changed(one) for one in fooled if one.text is not None]),
        budget_stopped=Share(sum(stopped), len(attacked)),
        l2=_mean([record.norm("l2") for record in fooled]),
        linf=_mean([record.norm("linf") for record in fooled]),
        l1=_mean([record.norm("l1") for record in fooled]),
        l0=_mean([record.norm("l0") for record in fooled]),
        gradient_passes=_mean([one.gradient_passes for one in points]),
        zero_gradients=Share(sum(one.first_gradient == 0 for one in points), len(points)),
    )
    _check(summary, attacked)
    return summary


def is_robust(record: Record, within: Ball | None = None) -> bool:
    """Right without attack, and not fooled, or only by a δ outside the ball."""
    if record.outcome != "fooled" or within is None:
        return record.outcome == "robust"
    return record.norm(norm_of(within)) > radius_of(within) * (1 + _ROUNDING)


def norm_of(ball: Ball) -> Norm:
    """ "l2", "linf" or "l1"."""
    name: Norm = type(ball).__name__.removesuffix("Ball").lower()  # type: ignore[assignment]
    return name


def radius_of(ball: Ball) -> float:
    """ε; the largest of several."""
    return float(torch.as_tensor(ball.epsilon, dtype=torch.float64).max())


def queries_of(record: Record) -> int:
    """Questions asked of the model; an attack on a point asks with each pass."""
    return record.found.queries if isinstance(record.found, Substitution) else record.forwards


def _changed(record: Record) -> float:
    """Of a text without words, fooled by an insertion, none changed."""
    found = record.found
    if not isinstance(found, Substitution):
        return 0.0
    return found.words_changed / max(found.words, 1)


def _check(summary: Summary, attacked: Sequence[Record]) -> None:
    for record in attacked:
        if record.prediction != record.label:
            raise UserError(
                f"Example {record.id} of {record.title} counts as attacked ({record.outcome}), "
                "but was wrong without attack; the outcome of such a record must be wrong."
            )
    clean, success = summary.clean, summary.success
    # No attacked example, no success rate: all there is to ask is that none is robust.
    lost = Fraction(success.count, success.total) if success.total else Fraction(0)
    left = Fraction(clean.count, clean.total) * (1 - lost)
    if left != Fraction(summary.under_attack.count, summary.under_attack.total):
        raise UserError(
            f"The records of {summary.attack} do not add up: {clean.count} examples were right, "
            f"{summary.under_attack.count} stayed so and {success.count} were fooled; an outcome "
            "must be wrong, robust or fooled."
        )


def _of_one_attack(records: Iterable[Record]) -> list[Record]:
    chosen = list(records)
    attacks = sorted({record.title for record in chosen})
    if len(attacks) != 1:
        found = f"of {', '.join(attacks)}" if attacks else "none"
        raise UserError(f"Records of one attack are needed; these are {found}.")
    _check_ids(chosen)
    return chosen


def _check_ids(records: Iterable[Record]) -> None:
    counts = Counter((record.title, record.id) for record in records)
    for (attack, number), count in counts.items():
        if count > 1:
            raise UserError(f"Example {number} of {attack} was recorded {count} times; keep one.")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def worst_case(records: Iterable[Record], within: Ball | None = None) -> dict[int, bool]:
    """Example id → whether the model is robust to every attack, as AutoAttack counts its ensemble.

    Args:
        records: of all attacks.
        within: the ball in which a success counts; any without.

    Raises:
        UserError: the attacks were not run on the same examples, or one twice on the same.
    """
    chosen = list(records)
    _check_ids(chosen)
    each: dict[str, dict[int, bool]] = {}
    for record in chosen:
        each.setdefault(record.title, {})[record.id] = is_robust(record, within)
    for attack, outcomes in each.items():
        first = next(iter(each))
        if outcomes.keys() != each[first].keys():
            number = min(outcomes.keys() ^ each[first].keys())
            raise UserError(
                f"{first} and {attack} were not run on the same examples: {number} is missing "
                "from one of them; finish both runs."
            )
    ids = sorted({record.id for record in chosen})
    return {number: all(outcomes[number] for outcomes in each.values()) for number in ids}


def robustness_curve(
    records: Iterable[Record], budgets: Sequence[float]
) -> list[tuple[float, Share]]:
    """Accuracy under an attack that may ask at most q queries an example, for each q.

    An example is fooled at q ⇔ the attack succeeded with queries ≤ q. This is read off one run;
    an attack that must stop at q amid the candidates of a word may still find one among those it
    could ask, so a run with that budget can end a little lower.

    Raises:
        UserError: as `summarise`.
    """
    chosen = _of_one_attack(records)
    fooled_at = [queries_of(record) for record in chosen if record.outcome == "fooled"]
    right = sum(record.attacked for record in chosen)
    return [
        (budget, Share(right - sum(queries <= budget for queries in fooled_at), len(chosen)))
        for budget in budgets
    ]
