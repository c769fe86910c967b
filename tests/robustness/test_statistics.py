"""Counts and intervals against hand computation, scipy and slow transcriptions."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_records import words_record as record
from scipy import stats

from nlp_adv.errors import UserError
from nlp_adv.robustness.paired import holm, mcnemar
from nlp_adv.robustness.statistics import Share, robustness_curve, summarise, worst_case


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
        record(0, "wrong", queries=1, forwards=1, tokens=5, words_changed=0),
        record(1, "robust", queries=30, forwards=20, tokens=100, budget_stopped=True),
        record(2, "fooled", queries=10, forwards=9, tokens=50, words=4, words_changed=1),
        record(3, "fooled", queries=20, forwards=10, tokens=60, words=2, words_changed=1),
        record(4, "wrong", queries=1, forwards=1, tokens=5, words_changed=0),
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
        found = summarise([record(0, "wrong"), record(1, "wrong")])
        assert found.clean == found.under_attack == Share(0, 2)
        assert found.success == found.budget_stopped == Share(0, 0)
        assert math.isnan(found.queries)
        assert math.isnan(found.forwards)
        assert math.isnan(found.words_changed)

    def test_nothing_fell(self):
        found = summarise([record(0), record(1, "wrong")])
        assert found.success == Share(0, 1)
        assert math.isnan(found.words_changed)

    def test_a_text_without_words(self):
        assert summarise([record(0, "fooled", words=0, words_changed=0)]).words_changed == 0

    @given(st.lists(st.sampled_from(["wrong", "robust", "fooled"]), min_size=1, max_size=60))
    def test_identity(self, outcomes):
        found = summarise([record(n, outcome) for n, outcome in enumerate(outcomes)])
        share = {
            outcome: Fraction(outcomes.count(outcome), len(outcomes))
            for outcome in ("wrong", "robust", "fooled")
        }
        clean = Fraction(found.clean.count, found.clean.total)
        standing = Fraction(found.under_attack.count, found.under_attack.total)
        assert clean == 1 - share["wrong"]
        assert standing == share["robust"]
        if found.success.total:
            fell = Fraction(found.success.count, found.success.total)
            assert standing == clean * (1 - fell)
        assert share["robust"] + share["fooled"] == clean

    @pytest.mark.parametrize(
        ("records", "match"),
        [
            ([], "one attack"),
            ([record(0), record(1, attack="other")], "other, swap"),
            ([record(7), record(8), record(7)], "Example 7 of swap was recorded 2 times"),
            ([record(0), record(1, "fooled"), record(2, "lost")], "do not add up"),
            ([record(0, "lost")], "do not add up"),
            ([record(0), record(5, "robust", prediction=0)], "Example 5"),
            ([record(0), record(6, "fooled", prediction=0)], "Example 6"),
        ],
    )
    def test_what_does_not_add_up(self, records, match):
        with pytest.raises(ValueError, match=match):
            summarise(records)


class TestWorstCase:
    def test_all_must_be_stood(self):
        outcomes = {
            "a": ["robust", "robust", "fooled", "wrong"],
            "b": ["robust", "fooled", "fooled", "wrong"],
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
            record(n, "robust" if stood else "fooled", attack=str(attack))
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
        record(0, "wrong", queries=1),
        record(1, "robust", queries=3),
        record(2, "fooled", queries=5),
        record(3, "fooled", queries=9),
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
