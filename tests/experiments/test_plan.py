"""Which values the trials of a search have, before the first one runs."""

from itertools import product

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from scipy.stats import kstest

from nlp_adv.errors import UserError
from nlp_adv.experiments.plan import planned, spread


@pytest.fixture(scope="module", autouse=True)
def _quiet():
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(level)


def plan(search, space, n_trials=None, seed=0, **given) -> list[dict]:
    return planned(search, space, n_trials=n_trials, seed=seed, **given)


def lengths(trial):
    trial.suggest_float("log", 1e-5, 1e-2, log=True)
    trial.suggest_float("linear", -2.0, 6.0)
    trial.suggest_int("whole", 1, 4)
    trial.suggest_categorical("word", ["a", "b", "c"])


def test_draws_follow_their_laws():
    """Kolmogorov–Smirnov at one in a thousand; the wrong scale is far beyond it."""
    drawn = plan("random", lengths, 800)
    logs = np.log10([one["log"] for one in drawn])
    assert kstest((logs + 5) / 3, "uniform").pvalue > 1e-3
    linear = np.array([one["linear"] for one in drawn])
    assert kstest((linear + 2) / 8, "uniform").pvalue > 1e-3
    for name, values in {"whole": [1, 2, 3, 4], "word": ["a", "b", "c"]}.items():
        shares = [sum(one[name] == value for one in drawn) / 800 for value in values]
        assert sum(shares) == 1
        assert shares == pytest.approx([1 / len(values)] * len(values), abs=0.06)
    assert abs(np.corrcoef(logs, linear)[0, 1]) < 0.15  # each name has draws of its own


def test_a_trial_is_its_seed_and_number():
    long, short = (plan("random", lengths, n, seed=3) for n in (9, 4))
    assert long[:4] == short
    assert len({one["log"] for one in long}) == 9
    assert plan("random", lengths, 4, seed=4)[0] != short[0]


def test_a_value_does_not_depend_on_what_else_is_asked():
    drawn = plan("random", lambda trial: trial.suggest_float("linear", -2.0, 6.0), 4, seed=3)
    assert [one["linear"] for one in drawn] == [
        one["linear"] for one in plan("random", lengths, 4, seed=3)
    ]


def test_the_grid_is_the_product():
    def space(trial):
        trial.suggest_categorical("word", ["a", "b"])
        trial.suggest_int("whole", 2, 3)
        trial.suggest_float("log", 0.01, 1, log=True)

    got = [(one["word"], one["whole"], round(one["log"], 9)) for one in plan("grid", space)]
    assert len(got) == 12
    assert set(got) == set(product(["a", "b"], [2, 3], [0.01, 0.1, 1]))
    assert plan("grid", space) == plan("grid", space)
    assert plan("grid", space, seed=1) != plan("grid", space)


def test_a_grid_asks_only_what_applies():
    """A method without steps is one trial, not one for each number of steps."""

    def space(trial):
        if trial.suggest_categorical("adv", ["fgm", "pgd"]) == "fgm":
            return
        if trial.suggest_int("steps", 1, 3) == 3:
            trial.suggest_categorical("norm", ["l2", "linf"])

    assert sorted(plan("grid", space), key=str) == [
        {"adv": "fgm"},
        {"adv": "pgd", "steps": 1},
        {"adv": "pgd", "steps": 2},
        {"adv": "pgd", "steps": 3, "norm": "l2"},
        {"adv": "pgd", "steps": 3, "norm": "linf"},
    ]


def test_tpe_plans_nothing():
    assert plan("tpe", lengths, 3) == [{}, {}, {}]


@pytest.mark.parametrize(
    ("distribution", "points", "want"),
    [
        (FloatDistribution(1e-5, 1e-1, log=True), 5, [1e-5, 1e-4, 1e-3, 1e-2, 1e-1]),
        (FloatDistribution(0, 1), 3, [0, 0.5, 1]),
        (FloatDistribution(2, 2), 3, [2]),
        (IntDistribution(1, 10), 4, [1, 4, 7, 10]),
        (IntDistribution(1, 2), 4, [1, 2]),
        (IntDistribution(0, 8, step=4), 9, [0, 4, 8]),
        (IntDistribution(1, 64, log=True), 4, [1, 4, 16, 64]),
        (FloatDistribution(0.0, 1.0, step=0.25), 3, [0, 0.5, 1]),
    ],
)
def test_the_points_of_a_range(distribution, points, want):
    got = spread(distribution, points)
    assert got == pytest.approx(want)
    assert (got[0], got[-1]) == (distribution.low, distribution.high)
    if isinstance(distribution, IntDistribution):
        assert {type(value) for value in got} == {int}


BAD_SPACES = {
    "backwards": lambda t: t.suggest_float("x", 2, 1),
    "logarithm of nothing": lambda t: t.suggest_float("x", 0, 1, log=True),
    "logarithm with steps": lambda t: t.suggest_float("x", 1, 2, log=True, step=0.5),
    "no step": lambda t: t.suggest_int("x", 1, 2, step=0),
    "no choice": lambda t: t.suggest_categorical("x", []),
}


@pytest.mark.parametrize("search", ["grid", "random"])
@pytest.mark.parametrize("case", BAD_SPACES)
def test_a_space_that_is_none(case, search):
    with pytest.raises(UserError, match="The space to search is wrong") as caught:
        plan(search, BAD_SPACES[case], 3)
    assert "\n" not in str(caught.value)


def test_a_grid_larger_than_asked_for():
    def space(trial):
        trial.suggest_int("x", 1, 3)

    assert len(plan("grid", space, 3)) == 3
    with pytest.raises(UserError, match="more than 2 trials"):
        plan("grid", space, 2)
    with pytest.raises(UserError, match="more than 10000"):  # and not an endless loop
        plan("grid", lambda t: [t.suggest_int(str(i), 1, 9) for i in range(9)], points=9)
    for wrong in ({"n_trials": 0}, {"points": 1}):
        with pytest.raises(UserError):
            plan("grid", space, **wrong)
