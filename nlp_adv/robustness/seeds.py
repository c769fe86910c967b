"""Intervals of accuracies over seeds and texts, for models that answered the same texts.

Two sources of chance are crossed: the seeds that were trained and the texts that were drawn. The
answer of seed s to text i is taken as mean + seed + text + rest; the seeds of two methods are
independent, and the texts are the same. With S seeds and N texts, ȳ_s, ȳ_i and ȳ the means,

    v = Σ_s (ȳ_s − ȳ)² / (S(S − 1))         what the seeds contribute, and a part of the rest
    r = Σ_si (y_si − ȳ_s − ȳ_i + ȳ)² / (NS(N − 1)(S − 1))                  that part of the rest
    u = the variance of the mean over texts what the texts contribute, and r once more

    half-width² = t²·Σ v + z²·max(0, u − Σ r), and at least z²·u

with sums over the methods that are compared, t the Student quantile with Welch's degrees of
freedom for the seeds, S − 1 for one method, and z the normal one for the texts. Each part has its
own quantile, so that the interval does not get too narrow where two or three seeds happen to lie
close together; a bootstrap over seeds and texts, which has no quantile for few seeds, does.
Adding squared half-widths keeps at least the coverage of the parts: Banerjee, Sankhyā 22 (1960).
The parts are those of the analysis of several readers and several cases in diagnostic radiology
(Hillis, Statistics in Medicine 26, 2007), with seeds for readers.

`python scripts/coverage.py` measures how often the truth lies inside.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm
from scipy.stats import t as student

from nlp_adv.errors import UserError
from nlp_adv.robustness.statistics import Share

Answers = NDArray[np.float64]  # (seeds, texts), 1 where the answer is right
_SMALLEST_P = 1e-9


@dataclass(frozen=True)
class Interval:
    """A difference of accuracies, as measured, and where it may lie.

    Args:
        difference: of the two means.
        low, high: ends of the interval.
        p: two-sided, of: there is no difference. 1 − p is the confidence at which the interval
            would end at 0.
    """

    difference: float
    low: float
    high: float
    p: float = math.nan


@dataclass(frozen=True)
class _Parts:
    """Σ v with its degrees of freedom, the texts' own part, and u."""

    seeds: float
    df: float
    texts: float
    least: float

    def half_width(self, confidence: float) -> float:
        tail = (1 - confidence) / 2
        z = float(norm.isf(tail))
        t = float(student.isf(tail, self.df)) if self.seeds else 0.0
        squared = t**2 * self.seeds + z**2 * self.texts
        return math.sqrt(max(squared, z**2 * self.least))


def difference_over_seeds(
    a: Sequence[Mapping[int, bool]],
    b: Sequence[Mapping[int, bool]],
    *,
    confidence: float = 0.95,
) -> Interval:
    """Mean accuracy of a minus that of b, on the same texts.

    A method of one seed says nothing of how its seeds differ: it is taken to vary as the other one
    does. With one seed each, the interval is over texts alone: it is of these two models, and says
    nothing of others trained like them.

    Args:
        a: example id → right or not, one mapping a seed.
        b: the same of the other method.
        confidence: of the interval.

    Raises:
        UserError: there is no seed or no text, or the seeds do not cover the same ids.
    """
    mine, theirs = _tables(a, b)
    return difference_of_tables(mine, theirs, confidence=confidence)


def difference_of_tables(a: Answers, b: Answers, *, confidence: float = 0.95) -> Interval:
    """The same of tables (seeds, texts), 1 where the answer is right."""
    texts = a.shape[1]
    apart = a.mean(0) - b.mean(0)
    difference = float(apart.mean())
    parts = _parts(float(apart.var()) / texts, a, b)
    if parts.half_width(confidence) == 0:
        # All texts say the same. With one more for and one more against, as halves of two texts,
        # and two without difference (Agresti and Min, Statistics in Medicine 24, 2005), they do
        # not say it for certain.
        parts = _Parts(0.0, math.inf, 0.0, 1 / (texts + 2) ** 2)
    half = parts.half_width(confidence)
    low, high = max(-1.0, difference - half), min(1.0, difference + half)
    return Interval(difference, low, high, _p_value(parts, abs(difference)))


def mean_over_seeds(
    seeds: Sequence[Mapping[int, bool]], *, confidence: float = 0.95
) -> tuple[float, float]:
    """The ends of an interval of the mean accuracy of seeds on the same texts.

    Wilson's interval with the number of texts n for which z²·p(1 − p)/n is the half-width² above,
    as for clustered samples (Dean and Pagano, Journal of Survey Statistics and Methodology 3,
    2015). Of one seed it is Wilson's own.

    Raises:
        UserError: there is no seed or no text, or the seeds do not cover the same ids.
    """
    return mean_of_table(_tables(seeds)[0], confidence=confidence)


def mean_of_table(seeds: Answers, *, confidence: float = 0.95) -> tuple[float, float]:
    """The same of a table (seeds, texts), 1 where the answer is right."""
    each = seeds.mean(0)
    parts = _parts(float(each.var()) / len(each), seeds)
    return _wilson(float(each.mean()), parts, len(each), confidence)


def mean_of_shares(shares: Sequence[Share], *, confidence: float = 0.95) -> tuple[float, float]:
    """The same where only each seed's share is known, and not its answers.

    The texts' part is then unknown and taken at its largest, p(1 − p)/N, beside all of v: the
    interval is a little too wide.

    Raises:
        UserError: there is no share, or one of nothing.
    """
    if not shares or not all(share.total for share in shares):
        raise UserError("There is nothing to put together; give at least one share of something.")
    values = np.array([share.value for share in shares])
    texts, p = min(share.total for share in shares), float(values.mean())
    u = p * (1 - p) / texts
    between = float(values.var(ddof=1)) / len(values) if len(values) > 1 else 0.0
    return _wilson(p, _Parts(between, max(1, len(values) - 1), u, u), texts, confidence)


def _parts(u: float, *methods: Answers) -> _Parts:
    known = [_between(table) for table in methods if len(table) > 1]
    if not known:
        return _Parts(0.0, math.inf, u, u)
    if len(known) < len(methods):  # the other one borrows both, and adds nothing to know them by
        inverse = sum(1 / len(table) for table in methods)
        (v, r, df) = known[0]
        return _Parts(v * inverse, df, max(0.0, u - r * inverse), u)
    each = [(v / len(table), df) for table, (v, _, df) in zip(methods, known, strict=True)]
    seeds, squares = sum(v for v, _ in each), sum(v**2 / df for v, df in each)
    rest = sum(r / len(table) for table, (_, r, _) in zip(methods, known, strict=True))
    return _Parts(seeds, seeds**2 / squares if squares else math.inf, max(0.0, u - rest), u)


def _between(seeds: Answers) -> tuple[float, float, int]:
    """S·v and S·r, which are of one seed, and the degrees of freedom."""
    number, texts = seeds.shape
    means = seeds.mean(1)
    rest = seeds - means[:, None] - seeds.mean(0) + seeds.mean()
    r = float((rest**2).sum()) / (texts * max(1, texts - 1) * (number - 1))
    return float(means.var(ddof=1)), r, number - 1


def _wilson(p: float, parts: _Parts, texts: int, confidence: float) -> tuple[float, float]:
    square = float(norm.isf((1 - confidence) / 2)) ** 2
    half = parts.half_width(confidence)
    n = square * p * (1 - p) / half**2 if half else float(texts)
    middle, scale = (p + square / (2 * n)) / (1 + square / n), 1 / (1 + square / n)
    reach = scale * math.sqrt(square * (p * (1 - p) / n + square / (4 * n**2)))
    return max(0.0, middle - reach), min(1.0, middle + reach)


def _p_value(parts: _Parts, difference: float) -> float:
    """The p at which the half-width is the difference; not below a billionth."""
    if difference == 0:
        return 1.0
    if parts.half_width(1 - _SMALLEST_P) <= difference:
        return _SMALLEST_P
    excess = lambda p: parts.half_width(1 - p) - difference  # noqa: E731
    return float(brentq(excess, _SMALLEST_P, 1.0, xtol=1e-12))


def _tables(*methods: Sequence[Mapping[int, bool]]) -> list[Answers]:
    """Of each method (seeds, texts), 1 where the answer is right."""
    if not all(methods) or not methods[0][0]:
        raise UserError("There is nothing to compare; give at least one seed and one text.")
    ids = sorted(methods[0][0])
    for outcomes in (one for method in methods for one in method):
        if outcomes.keys() != methods[0][0].keys():
            raise UserError("All seeds must cover the same texts; compare on those in common.")
    return [
        np.array([[outcomes[number] for number in ids] for outcomes in method], dtype=np.float64)
        for method in methods
    ]
