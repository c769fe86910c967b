"""Which values the trials of a search have, before the first one runs."""

from itertools import product

import numpy as np
import optuna
import pytest
from scipy.stats import kstest

from nlp_adv.errors import UserError
from nlp_adv.experiments.plan import planned
from nlp_adv.experiments.space import Hyperparameter, parse_space


@pytest.fixture(scope="module", autouse=True)
def _quiet():
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(level)


def plan(search, space, n_trials=None, seed=0, **given) -> list[dict]:
    return planned(search, space, n_trials=n_trials, seed=seed, **given)


LENGTHS = [
    Hyperparameter("log", low=1e-5, high=1e-2, log=True),
    Hyperparameter("linear", low=-2.0, high=6.0),
    Hyperparameter("whole", low=1, high=4, whole=True),
    Hyperparameter("word", ("a", "b", "c")),
]


def test_draws_follow_their_laws():
    """Kolmogorov–Smirnov at one in a thousand; the wrong scale is far beyond it."""
    drawn = plan("random", LENGTHS, 800)
    logs = np.log10([one["log"] for one in drawn])
    assert kstest((logs + 5) / 3, "uniform").pvalue > 1e-3
    linear = np.array([one["linear"] for one in drawn])
    assert kstest((linear + 2) / 8, "uniform").pvalue > 1e-3
    for name, values in {"whole": [1, 2, 3, 4], "word": ["a", "b", "c"]}.items():
        shares = [sum(one[name] == value for one in drawn) / 800 for value in values]
        assert sum(shares) == 1
        assert shares == pytest.approx([1 / len(values)] * len(values), abs=0.06)
    assert abs(np.corrcoef(logs, linear)[0, 1]) < 0.15  # each name has draws of its own
    assert abs(np.corrcoef(logs[1:], logs[:-1])[0, 1]) < 0.15  # and each trial


def test_a_trial_is_its_seed_and_number():
    long, short = (plan("random", LENGTHS, n, seed=3) for n in (9, 4))
    assert long[:4] == short
    assert len({one["log"] for one in long}) == 9
    assert plan("random", LENGTHS, 4, seed=4)[0] != short[0]


def test_the_grid_is_the_product():
    space = parse_space(["adv=fgm,pgd", "adv_steps=2:3", "adv_epsilon=0.01:1"])
    got = [
        (one["adv"], one["adv_steps"], round(one["adv_epsilon"], 9)) for one in plan("grid", space)
    ]
    assert len(got) == 12
    assert set(got) == set(product(["fgm", "pgd"], [2, 3], [0.01, 0.1, 1]))
    assert plan("grid", space) == plan("grid", space)
    assert plan("grid", space, seed=1) != plan("grid", space)


def test_tpe_plans_nothing():
    assert plan("tpe", LENGTHS, 3) == [{}, {}, {}]


@pytest.mark.parametrize(
    ("words", "points", "want"),
    [
        ("learning_rate=1e-5:1e-1", 5, [1e-5, 1e-4, 1e-3, 1e-2, 1e-1]),
        ("weight_decay=0:1", 3, [0, 0.5, 1]),
        ("adv_steps=1:10", 4, [1, 4, 7, 10]),
        ("adv_steps=1:2", 4, [1, 2]),
        ("max_steps=1:64:log", 4, [1, 4, 16, 64]),
        ("adv_steps=5,1,3", 2, [5, 1, 3]),
    ],
)
def test_the_points_of_a_range(words, points, want):
    (one,) = parse_space([words])
    got = one.points(points)
    assert got == pytest.approx(want)
    assert (got[0], got[-1]) == (one.ends[0], one.ends[-1])
    if "steps" in words:
        assert {type(value) for value in got} == {int}


def test_a_grid_larger_than_asked_for():
    space = parse_space(["adv_steps=1:3"])
    assert len(plan("grid", space, 3)) == 3
    with pytest.raises(UserError, match="more than 2 trials"):
        plan("grid", space, 2)
    nine = [Hyperparameter(str(place), low=1, high=9, whole=True) for place in range(9)]
    with pytest.raises(UserError, match="more than 10000"):  # and not an endless loop
        plan("grid", nine, points=9)
