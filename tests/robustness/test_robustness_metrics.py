"""Robustness metrics: hand-counted, against the definitions written out, and in combinations."""

import math

import evaluate
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import EvalPrediction

from nlp_adv.errors import UserError
from nlp_adv.robustness.metrics import AttackSuccessRate, CalibrationError, RobustAccuracy


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path_factory.mktemp("metrics")))
    yield
    patch.undo()


def robust(predictions, references):
    scores = RobustAccuracy().compute(predictions=predictions, references=references)
    return scores["robust_accuracy"]


def success(predictions, clean, references):
    return AttackSuccessRate().compute(
        predictions=predictions, clean_predictions=clean, references=references
    )["attack_success_rate"]


def error(predictions, references, **settings):
    scores = CalibrationError(**settings).compute(predictions=predictions, references=references)
    return scores["calibration_error"]


class TestUnderAttack:
    def test_counted_by_hand(self):
        # right and stays, right and falls, right and falls, wrong, wrong and another wrong one
        references, clean, attacked = [0, 1, 2, 1, 0], [0, 1, 2, 0, 1], [0, 0, 1, 0, 2]
        assert robust(attacked, references) == pytest.approx(1 / 5)
        assert success(attacked, clean, references) == pytest.approx(2 / 3)

    def test_of_nothing_right_no_attack_succeeds(self):
        assert success([1, 1], [1, 1], [0, 0]) == 0.0
        assert success([], [], []) == 0.0
        assert robust([], []) == 0.0

    @given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)), min_size=1))
    def test_accuracy_under_attack_is_clean_times_what_stands(self, rows):
        references, clean, attacked = map(list, zip(*rows, strict=True))
        # An attack leaves alone what is wrong already.
        attacked = [a if c == r else c for r, c, a in zip(references, clean, attacked, strict=True)]
        accuracy = float(np.mean(np.equal(clean, references)))
        stands = 1 - success(attacked, clean, references)
        assert robust(attacked, references) == pytest.approx(accuracy * stands)

    def test_in_a_trainers_compute_metrics(self):
        clean = np.array([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0]])

        def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
            return AttackSuccessRate().compute(
                predictions=prediction.predictions.argmax(-1),
                clean_predictions=clean.argmax(-1),
                references=prediction.label_ids,
            )

        attacked = np.array([[0.0, 1.0], [0.0, 3.0], [1.0, 0.0]], dtype=np.float32)
        got = compute_metrics(EvalPrediction(predictions=attacked, label_ids=np.array([0, 1, 0])))
        assert got == pytest.approx({"attack_success_rate": 1 / 3})

    @pytest.mark.parametrize("at_once", [True, False])
    def test_combined(self, at_once):
        both = evaluate.combine([RobustAccuracy(), AttackSuccessRate()])
        rows = {"predictions": [0, 0, 1], "clean_predictions": [0, 1, 0], "references": [0, 1, 1]}
        if at_once:
            got = both.compute(**rows)
        else:
            for place in range(3):
                both.add_batch(**{name: [values[place]] for name, values in rows.items()})
            got = both.compute()
        assert got == pytest.approx({"robust_accuracy": 2 / 3, "attack_success_rate": 1 / 2})

    def test_combined_with_calibration(self):
        batch = {"predictions": [[0.2, 0.8], [0.9, 0.1]], "references": [1, 0]}
        two = evaluate.combine(
            {"few": CalibrationError(bins=2), "many": CalibrationError(bins=10)}, force_prefix=True
        )
        two.add_batch(**batch)
        assert two.compute() == pytest.approx(
            {"few_calibration_error": 0.15, "many_calibration_error": 0.15}
        )


class TestCalibration:
    def test_by_hand(self):
        # Two bins. (½, 1]: 0.9 right, 0.7 wrong, 0.6 right: |2/3 − 2.2/3|·3/4.
        # (0, ½] holds the last, 0.4 of three classes, wrong: |0 − 0.4|/4.
        rows = [[0.9, 0.1, 0], [0.7, 0.2, 0.1], [0.2, 0.6, 0.2], [0.3, 0.3, 0.4]]
        got = error(rows, [0, 1, 1, 0], bins=2)
        assert got == pytest.approx(abs(2 - 2.2) / 4 + 0.4 / 4)

    def test_a_bin_holds_its_upper_edge(self):
        """0.5 belongs to (0, ½], where it meets none of the others' errors."""
        rows, references = [[0.5, 0.3, 0.2], [1.0, 0.0, 0.0]], [0, 1]
        # Bins (0, ½] and (½, 1]: |1 − 0.5| and |0 − 1|; together they would be |1 − 1.5|.
        assert error(rows, references, bins=2) == pytest.approx((0.5 + 1.0) / 2)
        assert error(rows, references, bins=1) == pytest.approx(0.5 / 2)

    def test_fifteen_bins_by_default(self):
        rng = np.random.default_rng(0)
        rows = rng.dirichlet([1, 1, 1], 80)
        # Drawn by their probabilities: bins err to both sides, and joining two of them shows.
        references = [int(rng.choice(3, p=row)) for row in rows]
        for bins in range(5, 30):
            same = error(rows, references) == error(rows, references, bins=bins)
            assert same == (bins == 15)

    def test_perfect_and_worst(self):
        sure = [[1.0, 0.0], [0.0, 1.0]]
        assert error(sure, [0, 1]) == 0.0
        assert error(sure, [1, 0]) == 1.0
        assert error([[0.75, 0.25]] * 4, [0, 0, 0, 1]) == pytest.approx(0.0)
        assert error([], []) == 0.0

    @given(
        st.lists(
            st.tuples(st.lists(st.floats(-20, 20), min_size=3, max_size=3), st.integers(0, 2)),
            min_size=1,
            max_size=30,
        ),
        st.integers(1, 20),
    )
    def test_against_the_definition(self, rows, bins):
        """Σₘ |Bₘ|/N·|acc(Bₘ) − conf(Bₘ)|, bin by bin."""
        logits, references = map(list, zip(*rows, strict=True))
        shares = np.exp(np.array(logits)) / np.exp(np.array(logits)).sum(1, keepdims=True)
        confidence, tie = shares.max(1), (shares == shares.max(1, keepdims=True)).sum(1) > 1
        right = (shares.argmax(1) == references) & ~tie
        want = 0.0
        for m in range(1, bins + 1):
            inside = (confidence > (m - 1) / bins) & (confidence <= m / bins)
            if inside.any():
                gap = right[inside].mean() - confidence[inside].mean()
                want += inside.sum() / len(rows) * abs(gap)
        # A confidence that rounds to the other side of an edge may be in either bin.
        near = np.abs(confidence[:, None] * bins - np.arange(1, bins)[None]) < 1e-9
        if not near.any():
            assert error(shares, references, bins=bins) == pytest.approx(want, abs=1e-12)
            # Logits may differ by less than probabilities can show: a tie of one is none of both.
            clear = [sorted(row)[-1] > sorted(row)[-2] for row in logits]
            if (tie != clear).all():
                assert error(logits, references, bins=bins, logits=True) == pytest.approx(want)

    def test_logits_and_probabilities_are_not_confused(self):
        logits = [[2.0, -1.0], [0.5, 0.6]]
        with pytest.raises(UserError, match="logits=True"):
            error(logits, [0, 1])
        assert 0 < error(logits, [0, 1], logits=True) < 1

    def test_extreme_logits(self):
        assert error([[1e4, -1e4], [-1e300, 1e300]], [0, 1], logits=True) == 0.0

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("logits", [True, False])
    def test_a_row_without_numbers_is_sure_and_wrong(self, logits, value):
        assert error([[value, 0.5]], [0], logits=logits) == 1.0
        assert error([[value, 0.5]], [1], logits=logits) == 1.0

    @pytest.mark.fault("E10")
    def test_a_tie_is_no_answer(self):
        for label in (0, 1):
            assert error([[0.5, 0.5]], [label]) == 0.5
            assert error([[3.0, 3.0]], [label], logits=True) == 0.5

    def test_rounded_probabilities_are_probabilities(self):
        rows = np.array([[0.3331, 0.3331, 0.3331]], dtype=np.float16)
        assert error(rows, [0]) == pytest.approx(0.3331, abs=1e-3)

    def test_settings(self):
        with pytest.raises(UserError, match="bins"):
            CalibrationError(bins=0)
