"""Models compared on the same texts, and how sure one may be of a difference.

Two sources of chance are kept apart: the texts that were drawn, and the seeds that were trained.
An interval over texts alone says nothing of another training run.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from nlp_adv.errors import UserError

_CELLS = 2**22  # of the largest table that the bootstrap holds at once: 32 MiB

Key = TypeVar("Key", bound=Hashable)


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
