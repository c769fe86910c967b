"""Intervals over seeds and texts: the formula, its limits, how often they hold the truth."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm
from scipy.stats import t as student

from nlp_adv.errors import UserError
from nlp_adv.robustness.seeds import (
    difference_of_tables,
    difference_over_seeds,
    mean_of_shares,
    mean_of_table,
    mean_over_seeds,
)
from nlp_adv.robustness.statistics import Share

Z = norm.ppf(0.975)


def seeds(table) -> list[dict[int, bool]]:
    return [dict(enumerate(map(bool, row))) for row in table]


def drawn(seeds: int, texts: int, *, spread: float = 0.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0.3, 1.5, texts) + rng.normal(0, spread, (seeds, 1))
    return (logits + rng.normal(0, 0.7, (seeds, texts)) > 0).astype(float)


def naive_half_width(a, b, confidence: float = 0.95) -> float:
    """The documented formula with loops."""
    texts, v_sum, squares, rest = len(a[0]), 0.0, 0.0, 0.0
    for table in (a, b):
        number = len(table)
        each = [sum(row) / texts for row in table]
        of_text = [sum(row[i] for row in table) / number for i in range(texts)]
        mean = sum(each) / number
        v = sum((one - mean) ** 2 for one in each) / (number * (number - 1))
        v_sum, squares = v_sum + v, squares + v**2 / (number - 1)
        residual = sum(
            (table[s][i] - each[s] - of_text[i] + mean) ** 2
            for s in range(number)
            for i in range(texts)
        )
        rest += residual / (number * texts * (texts - 1) * (number - 1))
    gaps = [sum(r[i] for r in a) / len(a) - sum(r[i] for r in b) / len(b) for i in range(texts)]
    middle = sum(gaps) / texts
    u = sum((gap - middle) ** 2 for gap in gaps) / texts**2
    tail = (1 + confidence) / 2
    t, z = student.ppf(tail, v_sum**2 / squares), norm.ppf(tail)
    return math.sqrt(max(t**2 * v_sum + z**2 * max(0, u - rest), z**2 * u))


@pytest.mark.fault("S1")
class TestDifference:
    @pytest.mark.parametrize("numbers", [(2, 2), (3, 3), (2, 5), (10, 4)])
    @pytest.mark.parametrize("spread", [0.0, 0.3])
    def test_is_the_formula(self, numbers, spread):
        a = drawn(numbers[0], 40, spread=spread, seed=1)
        b = drawn(numbers[1], 40, spread=spread, seed=2)
        for confidence in (0.5, 0.95):
            found = difference_of_tables(a, b, confidence=confidence)
            half = naive_half_width(a.tolist(), b.tolist(), confidence)
            assert found.difference == pytest.approx(a.mean() - b.mean())
            assert found.high == pytest.approx(min(1, found.difference + half))
            assert found.low == pytest.approx(max(-1, found.difference - half))

    def test_p_is_where_the_interval_ends_at_0(self):
        a, b = drawn(3, 200, seed=1), drawn(4, 200, spread=0.2, seed=2)
        found = difference_of_tables(a, b)
        at = difference_of_tables(a, b, confidence=1 - found.p)
        assert 0 < found.p < 1
        assert min(abs(at.low), abs(at.high)) == pytest.approx(0, abs=1e-6)
        assert (found.p < 0.05) == (not found.low <= 0 <= found.high)

    def test_seeds_alone_are_welchs_t(self):
        """Seeds that answer all texts alike leave nothing to the texts."""
        a = np.repeat([[0.0], [1.0], [1.0]], 50, axis=1)
        b = np.repeat([[0.0], [0.0], [1.0], [0.0]], 50, axis=1)
        found = difference_of_tables(a, b)
        v = [x.mean(1).var(ddof=1) / len(x) for x in (a, b)]
        df = sum(v) ** 2 / (v[0] ** 2 / 2 + v[1] ** 2 / 3)
        want = min(1, 2 / 3 - 1 / 4 + student.ppf(0.975, df) * math.sqrt(sum(v)))
        assert found.high == pytest.approx(want)
        statistic = (2 / 3 - 1 / 4) / math.sqrt(sum(v))
        assert found.p == pytest.approx(2 * student.sf(statistic, df), abs=1e-9)

    def test_two_seeds_far_apart_say_nothing(self):
        """84.3 and 69.7 %: nothing between these two and two others can be told."""
        rng = np.random.default_rng(0)
        a = (rng.random((2, 1000)) < [[0.843], [0.697]]).astype(float)
        b = (rng.random((2, 1000)) < [[0.85], [0.84]]).astype(float)
        found = difference_of_tables(b, a)
        assert found.high - found.low > 0.8
        assert found.p > 0.2

    def test_one_seed_each_is_paired_over_texts(self):
        a = drawn(1, 1000, seed=3)
        b = np.abs(a - (np.random.default_rng(4).random((1, 1000)) < 0.1))
        found = difference_of_tables(a, b)
        gap = a[0] - b[0]
        half = Z * gap.std() / math.sqrt(1000)
        assert (found.high - found.low) / 2 == pytest.approx(half)

    def test_one_seed_borrows_the_others_spread(self):
        """As if it had been drawn from seeds that differ as the other method's do."""
        b = np.repeat([[0.0], [1.0], [1.0]], 50, axis=1)
        found = difference_of_tables(np.ones((1, 50)), b, confidence=0.5)
        half = student.ppf(0.75, 2) * math.sqrt(b.mean(1).var(ddof=1) * (1 + 1 / 3))
        assert found.difference - found.low == pytest.approx(half)

    def test_methods_that_never_differ_are_not_exactly_alike(self):
        table = np.stack([drawn(1, 100, seed=5)[0]] * 3)
        found = difference_of_tables(table, table)
        assert (found.difference, found.p) == (0, 1)
        assert found.high == -found.low == pytest.approx(Z / 102)

    def test_turning_it_round_turns_the_sign(self):
        a, b = drawn(3, 60, seed=6), drawn(2, 60, spread=0.4, seed=7)
        one, other = difference_of_tables(a, b), difference_of_tables(b, a)
        assert (one.difference, one.low, one.high) == pytest.approx(
            (-other.difference, -other.high, -other.low)
        )
        assert one.p == pytest.approx(other.p)

    def test_order_of_ids_is_nothing(self):
        a, b = seeds(drawn(2, 30, seed=8)), seeds(drawn(3, 30, seed=9))
        turned = [dict(reversed(outcomes.items())) for outcomes in b]
        assert difference_over_seeds(a, turned) == difference_over_seeds(a, b)

    @pytest.mark.parametrize(
        ("a", "b"),
        [
            ([], []),
            ([{}], [{}]),
            ([{0: True}, {1: True}], [{0: True}]),
            ([{0: True}], [{0: True, 1: False}]),
            ([{0: True, 1: True}], [{0: True, 1: True}, {0: True}]),
        ],
    )
    def test_unequal_or_missing_texts_are_refused(self, a, b):
        with pytest.raises(UserError, match="text"):
            difference_over_seeds(a, b)


@pytest.mark.fault("S2")
class TestMean:
    @pytest.mark.parametrize("count", [0, 1, 37, 100])
    def test_one_seed_is_wilson(self, count):
        table = np.array([[1.0] * count + [0.0] * (100 - count)])
        want = Share(count, 100).interval()
        assert mean_of_table(table) == pytest.approx(want)
        assert mean_over_seeds(seeds(table)) == pytest.approx(want)
        assert mean_of_shares([Share(count, 100)]) == pytest.approx(want)

    @pytest.mark.parametrize("count", [0, 37, 100])
    def test_seeds_that_agree_on_all_texts_are_one(self, count):
        table = np.array([[1.0] * count + [0.0] * (100 - count)] * 4)
        assert mean_of_table(table) == pytest.approx(Share(count, 100).interval())

    def test_ends_are_where_the_score_statistic_is_the_quantile(self):
        """|p̂ − p| = z·√(p(1 − p)/n) at both ends, n as the variance of seeds and texts says."""
        table = drawn(3, 200, spread=0.3, seed=1)
        p = table.mean()
        half = naive_half_width(table.tolist(), np.zeros((2, 200)).tolist())
        n = Z**2 * p * (1 - p) / half**2
        for end in mean_of_table(table):
            assert abs(p - end) == pytest.approx(Z * math.sqrt(end * (1 - end) / n))

    def test_stays_between_0_and_1_and_is_no_point(self):
        for spread in (0.0, 3.0):
            for seed in range(20):
                low, high = mean_of_table(drawn(2, 20, spread=spread, seed=seed))
                assert 0 <= low < high <= 1

    def test_two_shares_far_apart_say_nothing(self):
        low, high = mean_of_shares([Share(1535, 1821), Share(1269, 1821)])
        assert low < 0.2
        assert high > 0.95
        assert high - low > 10 * (Share(1402, 1821).interval()[1] - Share(1402, 1821).interval()[0])

    def test_shares_alone_are_no_narrower_than_their_answers(self):
        for seed in range(10):
            table = drawn(3, 200, spread=0.2, seed=seed)
            shares = [Share(int(row.sum()), 200) for row in table]
            (low, high), known = mean_of_shares(shares), mean_of_table(table)
            assert low <= known[0] + 1e-12
            assert high >= known[1] - 1e-12

    @pytest.mark.parametrize("shares", [[], [Share(0, 0)], [Share(1, 2), Share(0, 0)]])
    def test_shares_of_nothing_are_refused(self, shares):
        with pytest.raises(UserError, match="at least one share"):
            mean_of_shares(shares)


def simulation():
    path = Path(__file__).parents[2] / "scripts" / "coverage.py"
    spec = importlib.util.spec_from_file_location("coverage_of_intervals", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


REPEATS = 800
LEAST = 0.95 - 3 * math.sqrt(0.95 * 0.05 / REPEATS)  # 0.927


@pytest.mark.slow
@pytest.mark.fault("S1")
@pytest.mark.fault("S2")
@pytest.mark.parametrize("texts", [200, 1000])
@pytest.mark.parametrize("number", [2, 3, 5, 10])
@pytest.mark.parametrize("spread", [0.0, 1.2, 2.4, 4.8])
def test_coverage(number, spread, texts):
    """Two methods of one law: 0 lies in the interval of the difference as often as it says."""
    found = simulation().coverage((number, number), (spread, spread), texts, REPEATS)
    assert found["difference"] >= LEAST
    assert found["mean"] >= LEAST
    # Few seeds cost some width; many do not.
    assert number < 10 or found["difference"] <= 0.98


@pytest.mark.slow
@pytest.mark.fault("S1")
def test_the_bootstrap_that_was_here_does_not_cover():
    """The simulation tells the two apart."""
    found = simulation().coverage((2, 2), (4.8, 4.8), 1000, 200, resamples=200)
    assert found["bootstrap"] < 0.85 < found["difference"]
