"""The registry: methods by name, from flat settings and back to them."""

import json
import math

import pytest

from nlp_adv.methods import (
    FGM,
    FGSM,
    METHODS,
    PGD,
    FGMMatrix,
    FreeLB,
    NoAttack,
    Noise,
    Scaled,
    build,
    describe,
    floor_cost,
)
from nlp_adv.perturbation import BALLS, L1Ball, L2Ball, LInfBall

each_name = pytest.mark.parametrize("name", METHODS)
with_a_ball = pytest.mark.parametrize(
    "name", [name for name, method in METHODS.items() if isinstance(method.preset(), Scaled)]
)


def bare(method):
    return method.method if isinstance(method, Scaled) else method


def test_the_names_are_those_of_the_methods():
    assert {
        "none": NoAttack,
        "noise": Noise,
        "fgsm": FGSM,
        "fgm": FGM,
        "fgm_matrix": FGMMatrix,
        "pgd": PGD,
        "freelb": FreeLB,
    } == METHODS


@each_name
def test_a_bare_name_builds_the_preset(name):
    method = build(name)
    assert method == METHODS[name].preset()
    assert method.name == name
    assert isinstance(bare(method), METHODS[name])
    assert method.passes >= 1


@with_a_ball
def test_presets_are_scale_free(name):
    assert build(name).unit == "relative"


# --- settings


@with_a_ball
@pytest.mark.parametrize("epsilon", [0.3, 1e-3, 7.0])
def test_other_lengths_keep_their_ratio_to_epsilon(name, epsilon):
    before, after = bare(build(name)), bare(build(name, epsilon=epsilon))
    assert after.ball.epsilon == epsilon
    for length in ("step_size", "init_magnitude"):
        if hasattr(before, length):
            got = getattr(after, length) / epsilon
            assert math.isclose(got, getattr(before, length) / before.ball.epsilon)


def test_given_lengths_are_taken_as_they_are():
    method = build("freelb", epsilon=0.6, step_size=0.1, init_magnitude=1.0, unit="absolute")
    assert method == FreeLB(L2Ball(0.6), step_size=0.1, steps=3, init_magnitude=1.0)


def test_a_length_alone_leaves_epsilon_and_the_others():
    before, after = bare(build("freelb")), bare(build("freelb", step_size=0.5))
    assert after.step_size == 0.5
    assert (after.ball, after.init_magnitude) == (before.ball, before.init_magnitude)


@pytest.mark.parametrize(("norm", "kind"), [("l2", L2Ball), ("linf", LInfBall), ("l1", L1Ball)])
@with_a_ball
def test_norm_and_slice_are_put_in(name, norm, kind):
    before = bare(build(name)).ball.epsilon
    assert bare(build(name, norm=norm, per="token")).ball == kind(before, "token")


@pytest.mark.parametrize("unit", ["per_coordinate", "relative"])
def test_a_unit_comes_with_an_epsilon(unit):
    method = build("pgd", epsilon=0.2, unit=unit)
    assert isinstance(method, Scaled)
    assert (method.unit, method.ball.epsilon) == (unit, 0.2)


def test_the_absolute_unit_is_no_unit():
    method = build("pgd", epsilon=0.2, unit="absolute", steps=5, clean_weight=0.5)
    assert method == PGD(L2Ball(0.2), 0.1, 5, random_start=False, clean_weight=0.5)


def test_none_and_false_are_not_the_same():
    assert bare(build("pgd", steps=None, random_start=True)).random_start is True
    assert bare(build("fgsm", random_start=False, clean_weight=0.0)).clean_weight == 0.0
    assert build("pgd", steps=None) == build("pgd")


def test_fgm_matrix_has_its_own_epsilon():
    assert build("fgm_matrix", epsilon=0.3) == FGMMatrix(0.3)
    assert build("none") == NoAttack()


# --- refusals: one sentence each


def refusal(*args, **settings) -> str:
    with pytest.raises(ValueError, match=r"\.$") as error:
        build(*args, **settings)
    message = str(error.value)
    assert "\n" not in message
    assert ". " not in message  # one sentence
    return message


def test_an_unknown_name_is_refused_with_the_known_ones():
    message = refusal("pdg")
    assert "'pdg'" in message
    assert all(name in message for name in METHODS)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("fgm", {"steps": 3}),
        ("freelb", {"random_start": True}),
        ("noise", {"step_size": 0.1}),
        ("none", {"epsilon": 0.1}),
        ("none", {"steps": 1}),
        ("fgm_matrix", {"norm": "l2"}),
        ("fgm_matrix", {"per": "token"}),
        ("fgm_matrix", {"unit": "relative"}),
        ("pgd", {"init_magnitude": 0.1}),
        ("pgd", {"typo": 1}),
        ("pgd", {"ball": L2Ball(1.0)}),
    ],
    ids=str,
)
def test_a_setting_that_the_method_does_not_have_is_refused(name, settings):
    message = refusal(name, **settings)
    assert f"{name} has no {next(iter(settings))}" in message


def test_a_refusal_lists_the_settings_there_are():
    message = refusal("pgd", typo=1)
    known = ("epsilon", "norm", "per", "unit", "step_size", "steps", "random_start", "clean_weight")
    assert all(key in message for key in known)


@pytest.mark.parametrize(
    "settings",
    [
        {"epsilon": -0.1},
        {"epsilon": math.nan},
        {"epsilon": math.inf},
        {"step_size": -0.1},
        {"step_size": math.nan},
        {"step_size": math.inf},
        {"init_magnitude": -1.0},
        {"steps": 0},
        {"steps": -1},
        {"steps": 2.5},
        {"clean_weight": -0.1},
        {"clean_weight": 1.0},
        {"clean_weight": math.nan},
        {"norm": "l3"},
        {"per": "word"},
        {"epsilon": 0.1, "unit": "furlong"},
    ],
    ids=str,
)
def test_a_value_out_of_range_is_refused(settings):
    message = refusal("freelb", **settings)
    name, value = list(settings.items())[-1]
    assert name in message.lower()
    assert str(value) in message


def test_a_unit_without_an_epsilon_is_refused():
    assert "needs an epsilon" in refusal("pgd", unit="absolute")
    assert build("pgd", unit="relative") == build("pgd")


# --- and back


@pytest.mark.parametrize(
    "method",
    [
        *(method.preset() for method in METHODS.values()),
        PGD(LInfBall(0.1), 0.05, 4, random_start=True, clean_weight=0.25),
        FreeLB(L1Ball(0.3, "token"), 0.1, 2, init_magnitude=0.7, clean_weight=0.5),
        Scaled(FGSM(LInfBall(0.1), 0.125, random_start=True, clean_weight=0.0), "per_coordinate"),
        Scaled(FGM(L2Ball(0.0)), "relative"),
        Noise(L2Ball(2.9)),
        FGMMatrix(0.3),
    ],
    ids=repr,
)
def test_a_description_builds_the_method_again(method):
    flat = json.loads(json.dumps(describe(method)))
    assert all(not isinstance(value, dict | list) for value in flat.values())
    assert build(flat.pop("method"), **flat) == method


@pytest.mark.parametrize("norm", BALLS)
def test_a_description_names_norm_slice_and_unit(norm):
    flat = describe(build("pgd", epsilon=0.2, norm=norm, per="token", unit="per_coordinate"))
    assert flat == {
        "method": "pgd",
        "norm": norm,
        "unit": "per_coordinate",
        "epsilon": 0.2,
        "per": "token",
        "step_size": 0.1,
        "steps": 3,
        "random_start": False,
        "clean_weight": 0.5,
    }


# --- the cost that the docstrings and DESIGN.md, §6, promise


@pytest.mark.parametrize(
    ("method", "cost"),
    [
        (NoAttack(), 1),
        (Noise(L2Ball(1.0)), 1),
        (Noise(L2Ball(1.0), clean_weight=0.5), 2),
        (FGM(L2Ball(1.0)), 2),
        (FGM(L2Ball(1.0), clean_weight=0.0), 1 + 2 / 3),
        (FGSM(LInfBall(1.0), 1.0), 2),
        (FGSM(LInfBall(1.0), 1.0, random_start=True), 2 + 2 / 3),
        (FGSM(LInfBall(1.0), 1.0, clean_weight=0.0), 1 + 2 / 3),
        (FGMMatrix(1.0), 2),
        (PGD(L2Ball(1.0), 0.1, 3), 2 / 3 * 3 + 1),
        (PGD(L2Ball(1.0), 0.1, 3, random_start=False, clean_weight=0.5), 2 / 3 * 2 + 2),
        (PGD(L2Ball(1.0), 0.1, 3, random_start=True, clean_weight=0.5), 2 / 3 * 3 + 2),
        (PGD(L2Ball(1.0), 0.1, 0, random_start=False, clean_weight=0.5), 2),
        (FreeLB(L2Ball(1.0), 0.1, 3), 3),
        (FreeLB(L2Ball(1.0), 0.1, 3, clean_weight=0.5), 4),
    ],
    ids=repr,
)
def test_the_floor_cost_is_the_documented_one(method, cost):
    assert math.isclose(floor_cost(method), cost)
    if hasattr(method, "ball"):
        assert floor_cost(Scaled(method, "relative")) == floor_cost(method)
