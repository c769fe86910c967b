"""Checks against masking: hand-made numbers on both sides of each threshold."""

import json
import math
from dataclasses import asdict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_measured import left, measured
from made_records import point_record
from made_records import words_record as record
from point_cases import each_case
from small_texts import opinion_batches, reader
from torch import Tensor

from nlp_adv.attacks import ladder
from nlp_adv.robustness import embedding_pgd
from nlp_adv.robustness.checks_alone import (
    check_ascent,
    check_confidence,
    check_probabilities,
    check_rounding,
    check_zero_gradients,
)
from nlp_adv.robustness.checks_masking import (
    check_beats,
    check_cross_entropy,
    check_large_radius,
    check_margin_scale,
    check_radii,
    check_restarts,
    check_softmax_scale,
    check_step_size,
    check_steps,
)
from nlp_adv.robustness.checks_paired import Pair
from nlp_adv.robustness.checks_records import (
    check_budget,
    check_overlap,
    check_transfer,
    record_checks,
    robust_to,
)
from nlp_adv.robustness.scaled_logits import scaled_logits, softening_factor

NAN = math.nan


def outcomes(both: int, first: int, second: int, neither: int = 0) -> Pair:
    """So many examples right in both, in the first only, in the second only, in neither."""
    groups = [(both, (1, 1)), (first, (1, 0)), (second, (0, 1)), (neither, (0, 0))]
    rows = [pair for count, pair in groups for _ in range(count)]
    return Pair([bool(a) for a, _ in rows], [bool(b) for _, b in rows])


class TestPairs:
    @pytest.mark.parametrize(
        ("first", "second", "want"),
        [
            (0, 0, 1.0),
            (7, 0, 1 / 128),
            (0, 7, 1.0),
            (3, 1, (4 + 1) / 16),
            (8, 2, (45 + 10 + 1) / 1024),
        ],
    )
    def test_p_is_the_upper_tail_of_fair_coins(self, first, second, want):
        assert outcomes(40, first, second, 9).p_value == pytest.approx(want)

    @pytest.mark.parametrize(
        ("pair", "want"),
        [
            (outcomes(50, 0, 50), True),
            (outcomes(99, 1, 0), True),  # a single example, a point
            (outcomes(18, 1, 0), True),  # a single example, though five points
            (outcomes(96, 4, 0), None),  # p = 1/16
            (outcomes(95, 5, 0), False),  # p = 1/32
            (outcomes(60, 24, 16), None),
            (outcomes(985, 9, 0), True),  # sure, but below a point
        ],
    )
    def test_verdicts(self, pair, want):
        assert pair.not_above() is want

    def test_level_looks_both_ways(self):
        assert outcomes(90, 10, 0).level(0.02) is False
        assert outcomes(90, 0, 10).level(0.02) is False
        assert outcomes(97, 0, 3).level(0.02) is None
        assert outcomes(80, 10, 10).level(0.02) is True

    def test_other_examples_are_no_pair(self):
        with pytest.raises(ValueError, match="same examples"):
            Pair([True], [True, False])

    @given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
    def test_only_one_direction_can_be_more_than_chance(self, rows):
        pair = Pair([a for a, _ in rows], [b for _, b in rows])
        back = Pair(pair.second, pair.first)
        assert pair.gap == -back.gap
        assert max(pair.p_value, back.p_value) >= 0.5
        assert True in (pair.not_above(), back.not_above())


class TestOfMeasurements:
    @pytest.mark.parametrize(
        ("robust", "length", "want"),
        [(5, 1.0, True), (6, 1.0, False), (100, 1.0, False), (100, 1.01, None), (0, 1.01, None)],
    )
    def test_a_large_radius(self, robust, length, want):
        """Large is from the radius on at which all may be erased."""
        found = left(robust, 100 - robust, epsilon=1.0, erasing_length=length)
        assert check_large_radius(found).passed is want

    def test_b_radii_attacked_alone(self):
        small, middle = left(60, 40, epsilon=0.1), left(40, 60, epsilon=0.2)
        lost = left(60, 40, epsilon=0.4)
        assert check_radii([small, middle]).passed is True
        assert check_radii([middle, small]).passed is True
        assert check_radii([lost, small, middle]).passed is False
        check = check_radii([small, middle, lost])
        assert "60.0 % at ε = 0.1, 40.0 % at ε = 0.2, 60.0 % at ε = 0.4" in check.finding

    @pytest.mark.parametrize(
        ("fewer", "more", "want"),
        [(50, 50, True), (50, 45, True), (50, 44, None), (50, 51, True), (50, 60, False)],
    )
    def test_b_steps(self, fewer, more, want):
        check = check_steps(left(fewer, 100 - fewer), left(more, 100 - more), (5, 20))
        assert check.passed is want
        assert f"20 steps leave {more}.0 %, 5 steps {fewer}.0 %" in check.finding

    @pytest.mark.fault("S4")
    def test_b_step_size(self):
        own = left(60, 40)
        assert check_step_size(own, {0.5: left(70, 30), 2.0: left(59, 41)}).passed is True
        assert check_step_size(own, {0.5: left(70, 30), 2.0: left(40, 60)}).passed is False
        assert check_step_size(own, {0.5: left(57, 43), 2.0: left(60, 40)}).passed is None
        assert check_step_size(left(9, 0), {2.0: left(9, 0)}).passed is None

    @pytest.mark.parametrize(
        ("one", "several", "want"),
        [(50, 50, True), (50, 45, True), (50, 30, False), (50, 60, False)],
    )
    def test_b_restarts(self, one, several, want):
        check = check_restarts(left(one, 100 - one), left(several, 100 - several), 5)
        assert check.passed is want
        assert "5 starts leave" in check.finding

    @pytest.mark.parametrize(
        ("attack", "simple", "want"),
        [(20, 90, True), (20, 20, True), (90, 20, False), (100, 100, None)],
    )
    def test_c_beats(self, attack, simple, want):
        found = left(attack, 100 - attack), left(simple, 100 - simple)
        check = check_beats(*found, "noise", "the best of 4 random directions")
        assert check.passed is want
        assert check.name == "noise"
        assert f"the best of 4 random directions {simple}.0 %" in check.finding

    @pytest.mark.parametrize(
        ("margin", "cross_entropy", "want"),
        [
            (20, 20, True), (20, 22, True), (20, 23, None), (20, 30, False), (30, 20, False),
            (100, 100, None),
        ],
    )  # fmt: skip
    def test_d_cross_entropy(self, margin, cross_entropy, want):
        other = left(cross_entropy, 100 - cross_entropy)
        assert check_cross_entropy(left(margin, 100 - margin), other).passed is want

    @pytest.mark.parametrize(
        ("given_rows", "rescaled", "want"),
        [
            (20, {0.01: 20, 30.0: 20}, True),
            (20, {0.01: 20, 30.0: 95}, True),  # any model: shown, not judged
            (20, {0.01: 19, 30.0: 95}, True),
            (20, {0.01: 17}, None),
            (90, {0.01: 20, 30.0: 95}, False),
            (90, {0.01: 90, 0.0003: 20}, False),  # the best of them counts
            (20, {0.01: 90}, True),
        ],
    )
    def test_e_softmax(self, given_rows, rescaled, want):
        scaled = {factor: left(rows, 100 - rows) for factor, rows in rescaled.items()}
        assert check_softmax_scale(left(given_rows, 100 - given_rows), scaled).passed is want

    def test_e_needs_a_factor_below_one(self):
        with pytest.raises(ValueError, match="below 1"):
            check_softmax_scale(left(1, 1), {30.0: left(1, 1)})

    @pytest.mark.parametrize(
        ("rescaled", "want"),
        [
            ({0.01: 20, 30.0: 20}, True),
            ({0.01: 20, 30.0: 21}, True),
            ({0.01: 10, 30.0: 20}, False),
            ({0.01: 20, 30.0: 30}, False),
            ({0.01: 20, 30.0: 23}, None),
        ],
    )
    def test_e_margin(self, rescaled, want):
        scaled = {factor: left(rows, 100 - rows) for factor, rows in rescaled.items()}
        assert check_margin_scale(left(20, 80), scaled).passed is want

    def test_nothing_compared_is_nothing_passed(self):
        idle = left(80, 0, wrong=20)
        for check in (
            check_cross_entropy(idle, idle),
            check_beats(idle, idle, "noise", "noise"),
            check_softmax_scale(idle, {0.01: idle}),
            check_zero_gradients([]),
        ):
            assert check.passed is None

    def test_results_that_do_not_belong_together_are_refused(self):
        linf = left(5, 5, ladder=embedding_pgd((0.1,), norm="linf"))
        absolute = left(5, 5, ladder=embedding_pgd((0.1,), unit="absolute"))
        for other in (linf, absolute):
            with pytest.raises(ValueError, match="what a radius means"):
                check_steps(left(5, 5), other, (1, 2))
        with pytest.raises(ValueError, match="same examples"):
            check_steps(left(5, 5), left(5, 4, wrong=1), (1, 2))


class TestOfOneAttack:
    @pytest.mark.parametrize(
        ("norms", "want"),
        [
            ([1.0] * 95 + [0.0] * 5, True),
            ([1.0] * 94 + [0.0] * 6, False),
            ([1.0] * 94 + [math.inf] * 6, False),
            ([1.0] * 94 + [NAN] * 6, False),
            ([1e-38] * 100, True),
        ],
    )
    def test_h_zero_gradients(self, norms, want):
        check = check_zero_gradients(norms, "margin")
        assert check.passed is want
        assert check.name == "zero gradients, margin"
        assert "of 100 right answers" in check.finding
        assert check_zero_gradients(norms).name == "zero gradients"

    @pytest.mark.parametrize(("lower", "want"), [(5, True), (6, False)])
    def test_ascent(self, lower, want):
        last = [-2.0] * lower + [0.0] * (100 - lower)
        assert check_ascent([-1.0] * 101, [*last, NAN]).passed is want
        assert check_ascent([NAN], [1.0]).passed is None

    @pytest.mark.parametrize(
        ("undone", "fooled", "want"),
        [(20, 100, True), (21, 100, False), (2, 3, None), (0, 3, True), (0, 0, None)],
    )
    def test_rounding(self, undone, fooled, want):
        assert check_rounding([False] * undone + [True] * (fooled - undone)).passed is want

    def test_probabilities_are_told_from_logits(self):
        logits = torch.tensor([[2.0, -1.0], [0.5, 0.5]])
        assert check_probabilities(logits).passed is True
        assert check_probabilities(logits.softmax(1)).passed is False
        assert check_probabilities(torch.tensor([[0.5, 0.5], [3.0, 0.0]])).passed is True

    @pytest.mark.parametrize(
        ("after", "want"),
        [
            ([0.6] * 20, True),
            ([0.9995] * 11 + [0.5] * 9, False),  # their mean is only 77 %
            ([0.9995] * 9 + [0.5] * 11, True),
            ([0.999] * 10, False),
            ([0.9999] * 9, None),
            ([], None),
            ([0.6] * 10 + [NAN] * 30, True),
        ],
    )
    def test_g_confidence(self, after, want):
        assert check_confidence([0.99, 0.97, NAN], after).passed is want
        assert "98.0 %" in check_confidence([0.99, 0.97, NAN], after).finding


class TestOfRecords:
    def test_g_looks_at_fooled_texts_alone(self):
        sure = {"adversarial_confidence": 0.99999}
        fooled = [record(n, "fooled") for n in range(12)]
        robust = [record(n, "robust", **sure) for n in range(12, 90)]
        assert record_checks([*fooled, *robust])[0].passed is True
        fooled = [record(n, "fooled", **sure) for n in range(12)]
        assert record_checks([*fooled, *robust])[0].passed is False

    @pytest.mark.parametrize(("stopped", "want"), [(0, True), (2, True), (3, False)])
    def test_i_budget(self, stopped, want):
        records = [record(n, "robust", budget_stopped=n < stopped) for n in range(20)]
        records += [record(n, "fooled") for n in range(20, 40)]
        records += [record(n, "wrong") for n in range(40, 100)]
        check = check_budget(records)
        assert check.passed is want
        assert f"{stopped} of 40 attacks" in check.finding
        of_records = record_checks(records)[1]
        assert of_records.name == f"{check.name} ({records[0].attack})"
        assert (of_records.passed, of_records.finding) == (check.passed, check.finding)

    def test_i_of_no_attack_is_undecided(self):
        assert check_budget([record(0, "wrong")]).passed is None

    def test_f_transfer(self):
        direct = {n: n < 60 for n in range(100)}
        better = {n: n < 50 for n in range(100)}
        assert check_transfer(direct, {n: n < 80 for n in range(100)}).passed is True
        assert check_transfer(direct, direct).passed is True
        assert check_transfer(direct, better).passed is False
        assert check_transfer(direct, {}).passed is None
        elsewhere = {**better, **{n: True for n in range(200, 300)}}
        check = check_transfer(direct, elsewhere)
        assert check.passed is False
        assert "On 100 texts the direct attack leaves 60.0 %" in check.finding

    def test_f_from_records(self):
        records = [record(4, "robust"), record(7, "fooled"), record(9, "wrong")]
        assert robust_to(records) == {4: True, 7: False, 9: False}

    def test_j_overlap(self):
        trained = ["A  film\n", "STRASSE", ("p", "q")]
        check = check_overlap(trained, ["a FILM", "straße", ("P ", " q"), "other"])
        assert check.passed is False
        assert "3 of 4" in check.finding
        assert check_overlap(trained, [("q", "p"), "afilm", "p q"]).passed is True
        assert check_overlap(trained, []).passed is None
        many = [f"text {number}" for number in range(99)]
        assert check_overlap(trained, [*many, "a film"]).passed is True
        check = check_overlap(trained, [*many, "a film", "A film"])
        assert check.passed is False
        assert "2 of 101" in check.finding

    def test_of_pixels(self):
        """Whether the attack saw and climbed, and whether its pictures can be saved."""
        records = [
            point_record(n, "fooled" if n < 40 else "robust", epsilon=0.1) for n in range(90)
        ]
        records += [point_record(n, "wrong", epsilon=0.1) for n in range(90, 100)]
        checks = {check.name: check for check in record_checks(records)}
        names = ("zero gradients", "ascent", "rounding to 8 bits")
        assert set(checks) == {f"{name} (pgd-linf)" for name in names}
        assert {check.passed for check in checks.values()} == {True}
        anywhere = [point_record(n, "fooled", attack="deepfool-l2") for n in range(20)]
        assert [check.name for check in record_checks(anywhere)] == ["zero gradients (deepfool-l2)"]
        noise = [point_record(n, gradient_passes=0, first_gradient=NAN) for n in range(20)]
        assert record_checks(noise) == []
        texts = [point_record(n, text="a film", epsilon=0.1) for n in range(20)]
        assert record_checks(texts) == []


class TestScaledLogits:
    @pytest.mark.parametrize("factor", [0.01, 30.0])
    def test_only_the_logits_are_multiplied(self, factor):
        model, (batch, _) = reader(), opinion_batches()
        model.register_forward_hook(lambda module, args, output: output | {"loss": torch.ones(1)})
        plain = model(**batch)
        with scaled_logits(model, factor):
            scaled = model(**batch)
        assert torch.equal(scaled["logits"], plain["logits"] * factor)
        assert torch.equal(scaled["loss"], plain["loss"])
        assert torch.equal(model(**batch)["logits"], plain["logits"])

    def test_no_trace_after_an_exception(self):
        model = reader()
        with pytest.raises(RuntimeError, match="inside"), scaled_logits(model, 2.0):
            raise RuntimeError("inside")
        assert not model._forward_hooks

    @given(st.floats(1e-3, 1e4), st.floats(0.55, 0.99))
    def test_two_equal_margins_have_a_closed_form(self, margin, confidence):
        """σ(f·m) = c ⇔ f = log(c/(1 − c))/m."""
        logits = torch.tensor([[margin, 0.0], [-margin, 0.0], [torch.nan, 0.0]])
        want = math.log(confidence / (1 - confidence)) / margin
        assert softening_factor(logits, confidence) == pytest.approx(want, rel=1e-4)

    def test_it_reaches_the_mean_confidence(self):
        generator = torch.Generator().manual_seed(0)
        logits = 100 * torch.randn(50, 4, generator=generator)
        factor = softening_factor(logits, 0.8)
        assert float((factor * logits).softmax(-1).amax(-1).mean()) == pytest.approx(0.8, abs=1e-4)
        assert softening_factor(30 * logits, 0.8) == pytest.approx(factor / 30, rel=1e-4)

    @pytest.mark.parametrize("logits", [torch.zeros(4, 2), torch.full((4, 2), torch.nan)])
    def test_logits_that_tell_nothing_apart_stay(self, logits):
        assert softening_factor(logits, 0.9) == 1.0


def test_findings_are_sentences_of_plain_values():
    for check in (check_steps(left(5, 5), left(4, 6), (1, 2)), check_rounding([True] * 3)):
        assert check.finding.endswith(".")
        assert check.meaning.endswith(".")
        assert json.loads(json.dumps(asdict(check))) == asdict(check)


@each_case
def test_measurements_made_by_hand_are_as_attacks_make_them(case):
    steps = ladder(case.pgd(steps=1), case.radii)
    real, made = case.measured(steps), measured([0.0] * 30, steps)
    for name, value in vars(made).items():
        if isinstance(value, Tensor) and name not in ("logits", "first_logits"):
            assert getattr(real, name).shape == value.shape
            assert getattr(real, name).dtype == value.dtype
