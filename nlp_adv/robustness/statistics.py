"""What records say of a model, and how sure one may be of it.

Two sources of chance are kept apart: the texts that were drawn, and the seeds that were trained.
An interval over texts alone says nothing of another training run.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from nlp_adv.errors import UserError
from nlp_adv.robustness.records import Record

_CELLS = 2**22  # of the largest table that the bootstrap holds at once: 32 MiB

Key = TypeVar("Key", bound=Hashable)


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


def mcnemar(first: Mapping[int, bool], second: Mapping[int, bool]) -> float:
    """Two-sided exact p of: both models are right equally often, on the ids that both have.

    Only discordant pairs say anything: of n of them, k for the first, k ~ Binomial(n, ½).
    McNemar, Psychometrika 12 (1947). Without discordant pairs, 1.

    Raises:
        UserError: they have no id in common.
    """
    common = first.keys() & second.keys()
    if not common:
        raise UserError("The two models share no example; compare them on the same texts.")
    only_first = sum(first[number] and not second[number] for number in common)
    only_second = sum(second[number] and not first[number] for number in common)
    if not only_first + only_second:
        return 1.0
    return float(binomtest(only_first, only_first + only_second).pvalue)


def holm(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """p-values adjusted for their number m, in the order given.

    p̃₍ᵢ₎ = min(1, max_{j ≤ i} (m − j + 1)·p₍ⱼ₎), p₍₁₎ ≤ … ≤ p₍ₘ₎. Rejecting where p̃ ≤ α keeps the
    chance of any false rejection below α. Holm, Scand. J. Statist. 6 (1979).

    Raises:
        ValueError: a value is not in [0, 1].
    """
    adjusted: dict[Key, float] = {}
    largest = 0.0
    for rank, key in enumerate(sorted(p_values, key=lambda key: p_values[key])):
        if not 0 <= p_values[key] <= 1:
            raise ValueError(f"{p_values[key]} ({key}) is no p-value.")
        largest = max(largest, (len(p_values) - rank) * p_values[key])
        adjusted[key] = min(1.0, largest)
    return {key: adjusted[key] for key in p_values}


@dataclass(frozen=True)
class Interval:
    """A difference of accuracies, as measured, and where it may lie."""

    difference: float
    low: float
    high: float


def two_level_bootstrap(
    a: Sequence[Mapping[int, bool]],
    b: Sequence[Mapping[int, bool]] = (),
    *,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Mean accuracy of a minus that of b, with a percentile interval over seeds and texts.

    Each resample draws seeds with replacement, for a and b apart, and texts with replacement, the
    same for both. A few seeds say little of how seeds differ: of the variance between S of them,
    the bootstrap sees (S − 1)/S, of one seed nothing.

    Args:
        a: example id → right or not, one mapping a seed.
        b: the same of the other method; without it, the interval is of a's mean accuracy.
        resamples: R.
        confidence: of the interval.
        seed: of the resampling.

    Raises:
        UserError: there is no seed or no text, or the seeds do not cover the same ids.

    **Cost:** O(R·K), K the number of patterns in which all seeds answer a text: at most 2^seeds,
    and at most the number of texts.
    """
    right = _table(a, b)
    texts = right.shape[1]
    # Texts that all seeds answer alike are the same to every mean: drawing N texts evenly is
    # drawing how many there are of each pattern.
    patterns, counts = np.unique(right, axis=1, return_counts=True)
    rng = np.random.default_rng(seed)
    means = []
    size = max(1, _CELLS // len(counts))
    for start in range(0, resamples, size):
        rows = min(size, resamples - start)
        drawn = rng.multinomial(texts, counts / texts, rows)  # (rows, K)
        answers = drawn @ patterns.T  # (rows, seeds): right ones of N
        mine, theirs = answers[:, : len(a)], answers[:, len(a) :]
        means.append(_over_drawn_seeds(mine, rng) - _over_drawn_seeds(theirs, rng))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means) / texts, [tail, 1 - tail])
    difference = right[: len(a)].mean() - (right[len(a) :].mean() if b else 0.0)
    return Interval(float(difference), float(low), float(high))


def _table(a: Sequence[Mapping[int, bool]], b: Sequence[Mapping[int, bool]]) -> NDArray[np.float64]:
    """(seeds of a and of b, texts), 1 where the answer is right."""
    if not a or not a[0]:
        raise UserError("There is nothing to resample; give at least one seed and one text.")
    ids = sorted(a[0])
    for outcomes in (*a, *b):
        if outcomes.keys() != a[0].keys():
            raise UserError("All seeds must cover the same texts; compare on those in common.")
    rows = [[outcomes[number] for number in ids] for outcomes in (*a, *b)]
    return np.array(rows, dtype=np.float64)


def _over_drawn_seeds(
    answers: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """(rows, seeds) → (rows,): the mean over as many seeds, drawn with replacement; 0 of none."""
    rows, seeds = answers.shape
    if not seeds:
        return np.zeros(rows)
    drawn = rng.multinomial(seeds, np.full(seeds, 1 / seeds), rows)
    means: NDArray[np.float64] = (answers * drawn).sum(1) / seeds
    return means
