"""Plain training at a method's own clean accuracy: the hull, the gain, its interval."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.stats import t as student

from nlp_adv.errors import UserError
from nlp_adv.robustness.matched import (
    Outcome,
    constant_answers,
    gain_at_equal_accuracy,
    hull,
    plain_at,
)


def model(clean: int, robust: int, texts: int = 20) -> Outcome:
    """So many right answers, and so many of them robust: the first ones."""
    places = np.arange(texts)
    return Outcome(places < clean, places < robust)


def best_mixture(clean_accuracy: float, plain: list[Outcome]) -> float:
    """H(c) by linear programming, as it is defined."""
    cleans = np.array([one.clean_accuracy for one in plain])
    robusts = np.array([one.robust_accuracy for one in plain])
    found = linprog(
        -robusts,
        A_ub=-cleans[None],
        b_ub=[-clean_accuracy],
        A_eq=np.ones((1, len(plain))),
        b_eq=[1.0],
    )
    return -found.fun if found.success else robusts[cleans == cleans.max()].max()


models = st.tuples(st.integers(0, 20), st.integers(0, 20)).map(
    lambda pair: model(max(pair), min(pair))
)


@settings(deadline=None, max_examples=150)
@given(st.lists(models, min_size=1, max_size=6), st.integers(0, 20))
def test_the_hull_is_the_best_mixture_of_plain_models(plain, right):
    c = right / 20
    found = plain_at(c, plain)
    assert math.isclose(found.robust.mean(), best_mixture(c, plain), abs_tol=1e-9)
    most = max(one.clean_accuracy for one in plain)
    assert found.right.mean() >= min(c, most) - 1e-12
    assert found.price >= 0


@settings(deadline=None, max_examples=60)
@given(st.lists(models, min_size=1, max_size=6))
def test_no_plain_model_gains_anything(plain):
    """Each lies on or below the curve that it helps to draw; the corners lie on it."""
    for one in plain:
        gain = gain_at_equal_accuracy([one], [plain])
        assert gain.difference <= 1e-12
    for corner in hull(plain):
        assert gain_at_equal_accuracy([corner], [plain]).difference == pytest.approx(0, abs=1e-12)


def test_a_less_accurate_model_is_held_against_a_less_accurate_curve():
    plain = [model(18, 6), model(12, 10)]
    on_the_line = gain_at_equal_accuracy([model(15, 8)], [plain])
    assert on_the_line.difference == pytest.approx(0)
    above = gain_at_equal_accuracy([model(15, 9)], [plain])
    assert above.difference == pytest.approx(1 / 20)
    assert plain_at(15 / 20, plain).price == pytest.approx(4 / 6)


def test_a_more_accurate_model_gets_no_credit_for_its_accuracy():
    gain = gain_at_equal_accuracy([model(20, 7)], [[model(18, 6), model(12, 10)]])
    assert gain.difference == pytest.approx(1 / 20)


def test_a_constant_answer_is_a_plain_model():
    labels = [0] * 12 + [1] * 8
    constant = constant_answers(labels)
    assert [one.clean_accuracy for one in constant] == [0.6, 0.4]
    assert all(one.robust_accuracy == one.clean_accuracy for one in constant)
    # 18 of 20 right and 4 robust against 12 of 12: at 15 of 20 the mixture keeps 8.
    assert plain_at(0.75, [model(18, 4), *constant]).robust.mean() == pytest.approx(8 / 20)


def test_the_interval_is_of_paired_seeds():
    """Where texts add nothing, it is the t interval of the seeds' gains."""
    methods, curves, gains = [], [], []
    for seed, (clean, robust) in enumerate([(16, 9), (15, 11), (17, 7), (15, 10)]):
        plain = [model(18, 4 + seed % 2), model(12, 9)]
        methods.append(model(clean, robust))
        curves.append(plain)
        gains.append(robust / 20 - best_mixture(clean / 20, plain))
    found = gain_at_equal_accuracy(methods, curves)
    assert found.difference == pytest.approx(np.mean(gains))
    t_alone = student.isf(0.025, 3) * np.std(gains, ddof=1) / 2
    assert found.high - found.difference >= t_alone - 1e-12
    assert found.low < found.difference < found.high


def test_the_price_carries_the_chance_of_the_clean_accuracy():
    """What a draw of the texts does to c moves r − H(c) by λ times as much.

    The two texts' parts that differ in clean answers alone differ by λ.
    """
    plain = [Outcome([1, 1, 1, 0], [0, 0, 0, 0]), Outcome([1, 1, 0, 0], [1, 1, 0, 0])]
    mixture = plain_at(0.75, plain)
    assert mixture.price == 0  # the most accurate corner
    between = plain_at(0.7, plain)
    assert between.price == pytest.approx(0.5 / 0.25)


def test_over_many_draws_the_interval_holds_the_truth():
    """Texts drawn anew, a method on the curve in truth: the gain is 0, and 0 lies inside."""
    rng = np.random.default_rng(0)
    inside, draws = 0, 200
    for _ in range(draws):
        methods, curves = [], []
        for _ in range(4):
            tilt = rng.normal(0, 0.05)

            def drawn(clean, robust, tilt=tilt):
                sure = rng.random(300)
                return Outcome(sure < clean + tilt, sure < robust + tilt)

            curves.append([drawn(0.88, 0.4), drawn(0.72, 0.56)])
            methods.append(drawn(0.8, 0.48))
        gain = gain_at_equal_accuracy(methods, curves)
        inside += gain.low <= 0 <= gain.high
    assert inside / draws > 0.9


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: Outcome([], []), "of some"),
        (lambda: Outcome([1, 0], [1]), "same texts"),
        (lambda: Outcome([1, 0], [1, 1]), "only where"),
        (lambda: hull([]), "at least one model"),
        (lambda: gain_at_equal_accuracy([model(3, 2)], []), "Each seed"),
        (lambda: gain_at_equal_accuracy([model(3, 2)], [[model(3, 2, 19)]]), "same texts"),
    ],
)
def test_what_cannot_be_compared_is_refused(build, said):
    with pytest.raises(UserError, match=said):
        build()
