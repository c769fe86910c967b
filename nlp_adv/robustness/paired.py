"""Two models compared on the same texts, and many comparisons made at once.

McNemar's test is of two models and says nothing of others trained like them: methods of several
seeds are compared in `seeds`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeVar

from scipy.stats import binomtest

from nlp_adv.errors import UserError

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
