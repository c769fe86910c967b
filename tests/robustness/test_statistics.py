"""Counts and intervals against hand computation, scipy and slow transcriptions."""

import itertools
import math
import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nlp_adv.errors import UserError
from nlp_adv.robustness.paired import Interval, holm, mcnemar, two_level_bootstrap
from nlp_adv.robustness.records import Record
from nlp_adv.robustness.statistics import Share, robustness_curve, summarise, worst_case


def record(number=0, outcome="failed", **changes) -> Record:
    values = {
        "id": number,
        "attack": "swap",
        "original": "a good film",
        "adversarial": "a fine film",
        "label": 1,
        "prediction": 0 if outcome == "skipped" else 1,
        "adversarial_prediction": 1 if outcome == "failed" else 0,
        "outcome": outcome,
        "queries": 10,
        "forwards": 8,
        "tokens": 40,
        "words": 3,
        "words_changed": 1,
        "confidence": 0.9,
        "adversarial_confidence": 0.6,
    }
    return Record(**{**values, **changes})


class TestShare:
    @pytest.mark.parametrize(
        ("share", "low", "high"),
        [(Share(200, 1000), 17.6, 22.6), (Share(40, 200), 15.0, 26.1)],
        ids=str,
    )
    def test_wilson_known_answers(self, share, low, high):
        ends = [round(100 * end, 1) for end in share.interval()]
        assert ends == [low, high]

    @given(st.integers(1, 500), st.data(), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
    def test_wilson_ends_are_where_the_score_test_rejects(self, total, data, confidence):
        """|k/n − p| = z·√(p(1 − p)/n) at both ends: what the interval inverts."""
        share = Share(data.draw(st.integers(0, total)), total)
        z = stats.norm.ppf((1 + confidence) / 2)
        low, high = share.interval(confidence)
        assert 0 <= low <= share.value <= high <= 1
        for end in (low, high):
            if 0 < end < 1:
                score = abs(share.value - end) / math.sqrt(end * (1 - end) / total)
                assert score == pytest.approx(z, rel=1e-6)
        if share.count == 0:
            assert high == pytest.approx(z**2 / (total + z**2))
        if share.count == total:
            assert low == pytest.approx(total / (total + z**2))

    def test_nothing_has_no_value(self):
        assert math.isnan(Share(0, 0).value)
        assert all(map(math.isnan, Share(0, 0).interval()))

    @pytest.mark.parametrize(("count", "total"), [(-1, 3), (4, 3), (1, 0)])
    def test_what_is_no_share(self, count, total):
        with pytest.raises(ValueError, match="no share"):
            Share(count, total)


class TestSummarise:
    RECORDS = (
        record(0, "skipped", queries=1, forwards=1, tokens=5, words_changed=0),
        record(1, "failed", queries=30, forwards=20, tokens=100, budget_stopped=True),
        record(2, "succeeded", queries=10, forwards=9, tokens=50, words=4, words_changed=1),
        record(3, "succeeded", queries=20, forwards=10, tokens=60, words=2, words_changed=1),
        record(4, "skipped", queries=1, forwards=1, tokens=5, words_changed=0),
    )

    def test_by_hand(self):
        found = summarise(self.RECORDS)
        assert (found.attack, found.examples, found.tokens) == ("swap", 5, 220)
        assert found.clean == Share(3, 5)
        assert found.under_attack == Share(1, 5)
        assert found.success == Share(2, 3)
        assert found.queries == 20
        assert found.forwards == 13
        assert found.words_changed == pytest.approx((1 / 4 + 1 / 2) / 2)
        assert found.budget_stopped == Share(1, 3)

    def test_nothing_attacked(self):
        found = summarise([record(0, "skipped"), record(1, "skipped")])
        assert found.clean == found.under_attack == Share(0, 2)
        assert found.success == found.budget_stopped == Share(0, 0)
        assert math.isnan(found.queries)
        assert math.isnan(found.forwards)
        assert math.isnan(found.words_changed)

    def test_nothing_fell(self):
        found = summarise([record(0), record(1, "skipped")])
        assert found.success == Share(0, 1)
        assert math.isnan(found.words_changed)

    def test_a_text_without_words(self):
        assert summarise([record(0, "succeeded", words=0, words_changed=0)]).words_changed == 0

    @given(st.lists(st.sampled_from(["skipped", "failed", "succeeded"]), min_size=1, max_size=60))
    def test_identity(self, outcomes):
        found = summarise([record(n, outcome) for n, outcome in enumerate(outcomes)])
        share = {
            outcome: Fraction(outcomes.count(outcome), len(outcomes))
            for outcome in ("skipped", "failed", "succeeded")
        }
        clean = Fraction(found.clean.count, found.clean.total)
        standing = Fraction(found.under_attack.count, found.under_attack.total)
        assert clean == 1 - share["skipped"]
        assert standing == share["failed"]
        if found.success.total:
            fell = Fraction(found.success.count, found.success.total)
            assert standing == clean * (1 - fell)
        assert share["failed"] + share["succeeded"] == clean

    @pytest.mark.parametrize(
        ("records", "match"),
        [
            ([], "one attack"),
            ([record(0), record(1, attack="other")], "other, swap"),
            ([record(7), record(8), record(7)], "Example 7 of swap was recorded 2 times"),
            ([record(0), record(1, "succeeded"), record(2, "lost")], "do not add up"),
            ([record(0, "lost")], "do not add up"),
            ([record(0), record(5, "failed", prediction=0)], "Example 5"),
            ([record(0), record(6, "succeeded", prediction=0)], "Example 6"),
        ],
    )
    def test_what_does_not_add_up(self, records, match):
        with pytest.raises(ValueError, match=match):
            summarise(records)


class TestWorstCase:
    def test_all_must_be_stood(self):
        outcomes = {
            "a": ["failed", "failed", "succeeded", "skipped"],
            "b": ["failed", "succeeded", "succeeded", "skipped"],
        }
        records = [
            record(n, outcome, attack=attack)
            for attack, column in outcomes.items()
            for n, outcome in reversed(list(enumerate(column)))
        ]
        found = worst_case(iter(records))
        assert found == {0: True, 1: False, 2: False, 3: False}
        assert list(found) == [0, 1, 2, 3]

    @given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=4))
    def test_never_better_than_any_attack(self, columns):
        records = [
            record(n, "failed" if stood else "succeeded", attack=str(attack))
            for attack, column in enumerate(columns)
            for n, stood in enumerate(column)
        ]
        found = worst_case(records)
        assert [found[n] for n in range(4)] == np.array(columns).all(0).tolist()

    def test_unequal_examples_are_refused(self):
        records = [record(0), record(1), record(0, attack="b"), record(2, attack="b")]
        with pytest.raises(UserError, match=r"swap and b .* 1 is missing"):
            worst_case(records)
        with pytest.raises(UserError, match="2 times"):
            worst_case([record(0), record(0)])


class TestCurve:
    RECORDS = (
        record(0, "skipped", queries=1),
        record(1, "failed", queries=3),
        record(2, "succeeded", queries=5),
        record(3, "succeeded", queries=9),
    )

    def test_by_hand(self):
        budgets = [0, 4, 5, 8, 9, math.inf]
        curve = robustness_curve(iter(self.RECORDS), budgets)
        assert [budget for budget, _ in curve] == budgets
        assert [share for _, share in curve] == [Share(n, 4) for n in (3, 3, 2, 2, 1, 1)]

    def test_ends_are_clean_and_under_attack(self):
        found = summarise(self.RECORDS)
        (_, first), (_, last) = robustness_curve(self.RECORDS, [0, math.inf])
        assert (first, last) == (found.clean, found.under_attack)

    def test_of_one_attack(self):
        with pytest.raises(UserError, match="one attack"):
            robustness_curve([*self.RECORDS, record(0, attack="b")], [1])


def pair(both: int, only_first: int, only_second: int, neither: int) -> tuple[dict, dict]:
    rows = (
        [(True, True)] * both
        + [(True, False)] * only_first
        + [(False, True)] * only_second
        + [(False, False)] * neither
    )
    return {n: row[0] for n, row in enumerate(rows)}, {n: row[1] for n, row in enumerate(rows)}


class TestMcNemar:
    def test_by_hand(self):
        # 2·P(X ≤ 1), X ~ Binomial(6, ½): 2·(1 + 6)/64
        assert mcnemar(*pair(50, 1, 5, 20)) == pytest.approx(14 / 64)
        assert mcnemar(*pair(0, 5, 0, 0)) == pytest.approx(2 / 32)

    @given(*[st.integers(0, 30)] * 4)
    def test_against_the_binomial_tail(self, both, only_first, only_second, neither):
        first, second = pair(both, only_first, only_second, neither)
        if not first:
            return
        n, k = only_first + only_second, min(only_first, only_second)
        want = min(1, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n) if n else 1
        assert mcnemar(first, second) == pytest.approx(want)
        assert mcnemar(second, first) == pytest.approx(want)

    def test_on_common_ids_only(self):
        first, second = pair(3, 1, 5, 2)
        more = {**first, 100: True, 101: True, 102: True}
        assert mcnemar(more, second) == mcnemar(first, second) < 1

    def test_no_common_ids(self):
        with pytest.raises(ValueError, match="share no example"):
            mcnemar({0: True}, {1: True})


class TestHolm:
    def test_by_hand(self):
        found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
        # sorted: 4·0.005, 3·0.01, 2·0.03, 1·0.04 → 0.02, 0.03, 0.06, 0.06
        assert list(found) == ["a", "b", "c", "d"]
        assert list(found.values()) == pytest.approx([0.03, 0.06, 0.06, 0.02])

    def test_never_above_one(self):
        assert holm({"a": 0.6, "b": 0.9}) == {"a": 1.0, "b": 1.0}
        assert holm({}) == {}

    @given(st.lists(st.floats(0, 1), max_size=8), st.floats(0.001, 0.999))
    def test_rejects_what_the_step_down_procedure_rejects(self, values, level):
        adjusted = holm(dict(enumerate(values)))
        rejected = set()
        for rank, key in enumerate(sorted(range(len(values)), key=values.__getitem__)):
            if (len(values) - rank) * values[key] > level:
                break
            rejected.add(key)
        assert {key for key, p in adjusted.items() if p <= level} == rejected

    @pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
    def test_what_is_no_p_value(self, value):
        with pytest.raises(ValueError, match="no p-value"):
            holm({"a": 0.5, "b": value})


def seeds(table) -> list[dict[int, bool]]:
    return [dict(enumerate(map(bool, row))) for row in table]


def all_resamples(a, b) -> list[float]:
    """a − b for every way to draw seeds of both and texts, all equally likely."""
    a, b = np.array(a, float), np.array(b, float)
    texts = a.shape[1]
    return [
        a[np.ix_(mine, drawn)].mean() - b[np.ix_(theirs, drawn)].mean()
        for mine in itertools.product(range(len(a)), repeat=len(a))
        for theirs in itertools.product(range(len(b)), repeat=len(b))
        for drawn in itertools.product(range(texts), repeat=texts)
    ]


def some_resamples(a, b, number: int) -> np.ndarray:
    """a − b for drawn seeds and texts, each picked one by one."""
    rng = np.random.default_rng(1)
    texts = rng.integers(a.shape[1], size=(number, 1, a.shape[1]))
    mine = rng.integers(len(a), size=(number, len(a), 1))
    theirs = rng.integers(len(b), size=(number, len(b), 1))
    return a[mine, texts].mean((1, 2)) - b[theirs, texts].mean((1, 2))


class TestBootstrap:
    def test_against_all_resamples_of_a_small_table(self):
        a = [[1, 1, 0, 1], [1, 0, 0, 1]]
        b = [[0, 1, 0, 0], [0, 0, 0, 1]]
        values = all_resamples(a, b)
        for confidence in (0.5, 0.75, 0.9):
            tail = (1 - confidence) / 2
            found = two_level_bootstrap(seeds(a), seeds(b), resamples=40_000, confidence=confidence)
            want = np.quantile(values, [tail, 1 - tail], method="inverted_cdf")
            assert found.difference == pytest.approx(5 / 8 - 2 / 8)
            assert [found.low, found.high] == pytest.approx(list(want), abs=1e-9)

    def test_law_is_that_of_drawing_one_by_one(self):
        rng = np.random.default_rng(0)
        hard = rng.random(200)  # a text is easy or hard for all: the pairing matters
        a = rng.random((3, 200)) < np.array([[0.35], [0.5], [0.6]]) * 2 * hard
        b = rng.random((4, 200)) < np.array([[0.3], [0.3], [0.4], [0.5]]) * 2 * hard
        values = some_resamples(a, b, 6000)
        for confidence in (0.5, 0.8, 0.95):
            found = two_level_bootstrap(seeds(a), seeds(b), confidence=confidence)
            tail = (1 - confidence) / 2
            want = np.quantile(values, [tail, 1 - tail])
            assert found.difference == pytest.approx(a.mean() - b.mean())
            # Three standard errors of a 2.5 % quantile of so few draws.
            assert [found.low, found.high] == pytest.approx(list(want), abs=0.12 * values.std())

    def test_one_seed_each_is_the_paired_bootstrap_over_texts(self):
        """Var = (σ²)/N of the per-text differences: nothing of it is due to seeds."""
        rng = np.random.default_rng(2)
        a = rng.random((1, 1000)) < 0.4
        b = a ^ (rng.random((1, 1000)) < 0.1)
        found = two_level_bootstrap(seeds(a), seeds(b))
        gap = a[0].astype(float) - b[0]
        half = 1.96 * gap.std() / math.sqrt(1000)
        assert found.high - found.low == pytest.approx(2 * half, rel=0.05)
        assert (found.low + found.high) / 2 == pytest.approx(gap.mean(), abs=0.1 * half)

    def test_without_a_second_method_it_is_the_mean(self):
        rng = np.random.default_rng(3)
        a = rng.random((1, 1000)) < 0.2
        found = two_level_bootstrap(seeds(a))
        assert found.difference == pytest.approx(a.mean())
        assert (found.low, found.high) == pytest.approx(
            Share(int(a.sum()), 1000).interval(), abs=0.003
        )
        never = seeds(np.zeros_like(a))
        assert two_level_bootstrap(seeds(a), never).low == pytest.approx(found.low, abs=0.003)

    def test_seeds_alone(self):
        """Seeds that are all right or all wrong: three drawn of {0, 1, 1}, texts do not matter."""
        table = np.repeat([[0], [1], [1]], 50, axis=1)
        found = two_level_bootstrap(seeds(table), confidence=0.9)
        # P(all three are the zero) = 1/27 = 0.037 < 5 %; P(two zeros or more) = 7/27
        assert found == Interval(pytest.approx(2 / 3), pytest.approx(1 / 3), 1.0)
        wide = two_level_bootstrap(seeds(table), confidence=0.95)
        assert (wide.low, wide.high) == (0.0, 1.0)

    def test_equal_rows_have_no_width(self):
        for value in (0, 1):
            table = seeds(np.full((3, 20), value))
            assert two_level_bootstrap(table) == Interval(value, value, value)
        right, wrong = seeds(np.ones((3, 20))), seeds(np.zeros((2, 20)))
        assert two_level_bootstrap(right, wrong) == Interval(1, 1, 1)
        assert two_level_bootstrap(wrong, right) == Interval(-1, -1, -1)

    def test_equal_methods_without_difference_between_seeds(self):
        """The same texts are drawn for both, so that no draw can part them."""
        row = np.random.default_rng(4).random(100) < 0.5
        table = seeds(np.stack([row] * 3))
        assert two_level_bootstrap(table, table) == Interval(0, 0, 0)

    def test_equal_methods_whose_seeds_differ_are_drawn_apart(self):
        table = seeds(np.random.default_rng(5).random((3, 100)) < 0.5)
        found = two_level_bootstrap(table, table)
        assert found.difference == 0
        assert found.low < 0 < found.high
        assert found.low == pytest.approx(-found.high, abs=0.02)

    def test_order_of_ids_is_nothing(self):
        rng = np.random.default_rng(6)
        a, b = seeds(rng.random((2, 30)) < 0.5), seeds(rng.random((2, 30)) < 0.5)
        turned = [dict(reversed(outcomes.items())) for outcomes in b]
        assert two_level_bootstrap(a, turned) == two_level_bootstrap(a, b)

    def test_seed_decides(self):
        rng = np.random.default_rng(7)
        a, b = seeds(rng.random((3, 97)) < 0.5), seeds(rng.random((3, 97)) < 0.5)
        first = two_level_bootstrap(a, b, resamples=200)
        assert two_level_bootstrap(a, b, resamples=200) == first
        assert two_level_bootstrap(a, b, resamples=200, seed=1) != first

    def test_in_parts_it_is_the_same_law(self, monkeypatch):
        rng = np.random.default_rng(8)
        a, b = seeds(rng.random((3, 100)) < 0.5), seeds(rng.random((3, 100)) < 0.4)
        whole = two_level_bootstrap(a, b)
        monkeypatch.setattr("nlp_adv.robustness.paired._CELLS", 64 * 10)
        parts = two_level_bootstrap(a, b)
        assert (parts.low, parts.high) == pytest.approx((whole.low, whole.high), abs=0.01)
        assert parts != whole

    def test_a_thousand_texts_take_no_time(self):
        rng = np.random.default_rng(9)
        a, b = seeds(rng.random((3, 1000)) < 0.2), seeds(rng.random((3, 1000)) < 0.25)
        start = time.process_time()
        two_level_bootstrap(a, b)
        assert time.process_time() - start < 2

    def test_coverage(self):
        """Seeds and texts drawn from a known law: the interval holds the truth often enough.

        Six seeds a side; the percentile bootstrap of few seeds is known to be too narrow.
        """
        # E clip(U + d) = ½ + d − d·|d|/2 for U uniform; d ~ N(±0.05, 0.03²).
        truth = 0.1 - (0.05**2 + 0.03**2)
        rng = np.random.default_rng(10)
        held = 0
        for _ in range(60):
            hard = rng.random(150)
            a = rng.random((6, 150)) < np.clip(hard + 0.05 + rng.normal(0, 0.03, (6, 1)), 0, 1)
            b = rng.random((6, 150)) < np.clip(hard - 0.05 + rng.normal(0, 0.03, (6, 1)), 0, 1)
            found = two_level_bootstrap(seeds(a), seeds(b), resamples=400)
            held += found.low <= truth <= found.high
        assert 0.85 <= held / 60 <= 1.0

    @pytest.mark.parametrize(
        ("a", "b"),
        [
            ([], []),
            ([{}], []),
            ([{0: True}, {1: True}], []),
            ([{0: True}], [{0: True, 1: False}]),
            ([{0: True, 1: True}], [{0: True, 1: True}, {0: True}]),
        ],
    )
    def test_unequal_or_missing_texts_are_refused(self, a, b):
        with pytest.raises(UserError, match="text"):
            two_level_bootstrap(a, b)
