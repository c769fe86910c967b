"""The registry: methods by name, from flat settings and back to them."""

import json
import math
from dataclasses import replace
from typing import Literal, get_args, get_origin

import pytest
from models import batch, tiny

from nlp_adv.methods import (
    AWP,
    CAPO,
    CAT,
    FGM,
    FGSM,
    LAT,
    METHODS,
    PGD,
    RR,
    SAM,
    SMART,
    TAVAT,
    TRADES,
    VAT,
    YOPO,
    FGMMatrix,
    FGMRemembered,
    FreeAT,
    FreeLB,
    InnerPasses,
    NoAttack,
    Noise,
    RDrop,
    Scaled,
    bare,
    build,
    describe,
    floor_cost,
    own_settings,
)
from nlp_adv.perturbation import BALLS, L1Ball, L2Ball, LInfBall, Memory
from nlp_adv.sites.objective import text_objective

LENGTHS = ("step_size", "init_magnitude", "xi")
WITH_A_BALL = [name for name, method in METHODS.items() if isinstance(method.preset(), Scaled)]
BOUNDED = ["fgm", "fgm_remembered", "noise", "vat"]  # they go to the surface, or fill the ball

each_name = pytest.mark.parametrize("name", METHODS)
with_a_ball = pytest.mark.parametrize("name", WITH_A_BALL)
without_bound = pytest.mark.parametrize("name", [n for n in WITH_A_BALL if n not in BOUNDED])


def test_the_names_are_those_of_the_methods():
    assert {
        "awp": AWP,
        "capo": CAPO,
        "cat": CAT,
        "fgm": FGM,
        "fgm_matrix": FGMMatrix,
        "fgm_remembered": FGMRemembered,
        "fgsm": FGSM,
        "freeat": FreeAT,
        "freelb": FreeLB,
        "lat": LAT,
        "rr": RR,
        "noise": Noise,
        "none": NoAttack,
        "pgd": PGD,
        "rdrop": RDrop,
        "sam": SAM,
        "smart": SMART,
        "tavat": TAVAT,
        "trades": TRADES,
        "vat": VAT,
        "yopo": YOPO,
    } == METHODS


@each_name
def test_a_bare_name_builds_the_preset(name):
    method = build(name)
    assert method == METHODS[name].preset()
    assert method.name == name
    assert isinstance(bare(method), METHODS[name])
    assert method.passes >= 1
    assert method.inner_passes >= 0


@each_name
def test_a_preset_holds_finite_numbers(name):
    flat = describe(build(name))
    numbers = [value for value in flat.values() if isinstance(value, int | float)]
    assert all(math.isfinite(value) for value in numbers)
    assert math.isfinite(floor_cost(build(name), blocks=12))


@with_a_ball
def test_presets_are_scale_free(name):
    assert build(name).unit == "relative"


@with_a_ball
def test_presets_share_one_radius(name):
    """So that a comparison of bare names is one at equal ε."""
    pairs = hasattr(METHODS[name], "reads_completions")  # compared among themselves
    assert bare(build(name)).ball.epsilon == (0.05 if pairs else 0.03)


@each_name
def test_own_settings_are_the_fields_but_for_the_ball(name):
    method = bare(build(name))
    settings = own_settings(METHODS[name])
    flat = describe(method)
    known = {"method", "norm", "unit", "epsilon", "per"}
    assert set(settings) == set(flat) - known
    for key, kind in settings.items():
        value = getattr(method, key)
        assert value in get_args(kind) if get_origin(kind) is Literal else isinstance(value, kind)


def test_own_settings_have_types():
    assert own_settings(FreeLB) == {
        "step_size": float,
        "steps": int,
        "init_magnitude": float,
        "clean_weight": float,
        "reuse": bool,
    }
    assert own_settings(FGMMatrix) == own_settings(NoAttack) == {}


# --- settings


@with_a_ball
@pytest.mark.parametrize("epsilon", [0.3, 1e-3, 7.0])
def test_other_lengths_keep_their_ratio_to_epsilon(name, epsilon):
    before, after = bare(build(name)), bare(build(name, epsilon=epsilon))
    assert after.ball.epsilon == epsilon
    for length in LENGTHS:
        if hasattr(before, length):
            got = getattr(after, length) / epsilon
            assert math.isclose(got, getattr(before, length) / before.ball.epsilon)


@with_a_ball
def test_a_radius_of_zero_can_be_asked_for(name):
    """The attack of no size, at one end of a sweep over ε."""
    assert build(name, epsilon=0.0).ball.epsilon == 0


# --- no radius


@without_bound
def test_an_infinite_epsilon_keeps_the_presets_lengths(name):
    before, after = bare(build(name)), bare(build(name, epsilon=math.inf))
    assert after.ball == replace(before.ball, epsilon=math.inf)
    for key in own_settings(METHODS[name]):
        assert getattr(after, key) == getattr(before, key)


@without_bound
def test_a_step_without_a_ball_is_finite(name):
    if hasattr(METHODS[name], "reads_completions"):
        pytest.skip("it needs pairs: see tests/conformance/test_pairs_contracts.py")
    method, model = build(name, epsilon=math.inf, unit="absolute"), tiny("bert")
    objective = text_objective(model, batch("bert"), seed=0, memory=Memory())
    if name == "freeat":  # whose first replay is at the clean point
        method.step(objective)
        objective.memory.replay = 1
    report = method.step(objective)
    assert objective.delta.isfinite().all()
    assert objective.delta.any()
    assert report.loss.isfinite()
    assert not objective.nonfinite


@without_bound
def test_an_infinite_epsilon_is_described_in_strict_json(name):
    method = build(name, epsilon=math.inf)
    flat = json.loads(json.dumps(describe(method), allow_nan=False))
    assert flat["epsilon"] == "inf"


@without_bound
def test_the_description_of_no_ball_builds_the_method_again(name):
    method = build(name, epsilon=math.inf)
    flat = json.loads(json.dumps(describe(method), allow_nan=False))
    assert build(flat.pop("method"), **flat) == method


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *((name, {}) for name in BOUNDED),
        ("pgd", {"random_start": True}),
        ("fgsm", {"random_start": True}),
        ("yopo", {"random_start": True}),
    ],
    ids=str,
)
@pytest.mark.parametrize("norm", BALLS)
def test_a_method_that_needs_a_radius_refuses_none(name, settings, norm):
    assert build(name, epsilon=0.3, norm=norm, **settings)
    message = refusal(name, epsilon=math.inf, norm=norm, **settings)
    assert message.startswith("epsilon must be finite: ")


def test_a_matrix_step_has_a_length():
    assert "epsilon must be a finite number" in refusal("fgm_matrix", epsilon=math.inf)


# --- settings that are taken as they are


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
        ("freeat", {"clean_weight": 0.5}),
        ("freeat", {"steps": 3}),
        ("yopo", {"replays": 3}),
        ("yopo", {"init_magnitude": 0.1}),
        ("freelb", {"beta": 1.0}),
        ("tavat", {"reuse": True}),
        ("tavat", {"random_start": True}),
        ("vat", {"clean_weight": 0.5}),
        ("vat", {"step_size": 0.1}),
        ("vat", {"init_magnitude": 0.1}),
        ("smart", {"clean_weight": 0.5}),
        ("smart", {"xi": 0.1}),
        ("smart", {"symmetric": True}),
        ("trades", {"clean_weight": 0.5}),
        ("trades", {"proximal_weight": 0.5}),
        ("awp", {"xi": 0.5}),
        ("awp", {"beta": 1.0}),
        ("rdrop", {"epsilon": 0.1}),
        ("rdrop", {"unit": "relative"}),
        ("rdrop", {"steps": 1}),
        ("none", {"beta": 1.0}),
    ],
    ids=str,
)
def test_a_setting_that_the_method_does_not_have_is_refused(name, settings):
    message, setting = refusal(name, **settings), next(iter(settings))
    wanted = f"{setting} needs a method" if name == "none" else f"{name} has no {setting}"
    assert wanted in message


def test_a_refusal_lists_the_settings_there_are():
    message = refusal("pgd", typo=1)
    known = ("epsilon", "norm", "per", "unit", "step_size", "steps", "random_start", "clean_weight")
    assert all(key in message for key in known)


@pytest.mark.parametrize(
    "settings",
    [
        {"epsilon": -0.1},
        {"epsilon": math.nan},
        {"epsilon": -math.inf},
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


@pytest.mark.parametrize(
    ("name", "key", "values"),
    [
        ("freeat", "step_size", [-0.1, math.nan, math.inf]),
        ("freeat", "replays", [0, -1, 1.5]),
        ("yopo", "step_size", [-0.1, math.nan, math.inf]),
        ("yopo", "rounds", [0, -1, 1.5]),
        ("yopo", "steps", [0, -1, 1.5]),
        ("yopo", "clean_weight", [-0.1, 1.0, math.nan]),
        ("tavat", "step_size", [-0.1, math.nan, math.inf]),
        ("tavat", "steps", [0, -1, 1.5]),
        ("tavat", "init_magnitude", [-0.1, math.nan, math.inf]),
        ("tavat", "clean_weight", [-0.1, 1.0, math.nan]),
        ("vat", "xi", [-0.1, math.nan, math.inf]),
        ("vat", "steps", [0, -1, 1.5]),
        ("vat", "beta", [-0.1, math.nan, math.inf]),
        ("smart", "step_size", [-0.1, math.nan, math.inf]),
        ("smart", "steps", [0, -1, 1.5]),
        ("smart", "beta", [-0.1, math.nan, math.inf]),
        ("smart", "init_magnitude", [0.0, -0.1, math.nan, math.inf]),
        ("smart", "proximal_weight", [-0.1, math.nan, math.inf]),
        ("smart", "decay", [-0.1, 1.1, math.nan]),
        ("trades", "step_size", [-0.1, math.nan, math.inf]),
        ("trades", "steps", [0, -1, 1.5]),
        ("trades", "beta", [-0.1, math.nan, math.inf]),
        ("trades", "init_magnitude", [0.0, -0.1, math.nan, math.inf]),
        ("rdrop", "beta", [-0.1, math.nan, math.inf]),
        ("awp", "step_size", [-0.1, math.nan, math.inf]),
        ("awp", "steps", [-1, 1.5]),
        ("awp", "gamma", [-0.1, math.nan, math.inf]),
    ],
)
def test_each_method_refuses_what_is_out_of_its_range(name, key, values):
    for value in values:
        message = refusal(name, **{key: value})
        assert key in message
        assert str(value) in message


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("awp", {"steps": 0, "gamma": 0.0}),
        ("freeat", {"replays": 1, "step_size": 0.0}),
        ("rdrop", {"beta": 0.0}),
        ("smart", {"decay": 0.0, "beta": 0.0}),
        ("smart", {"decay": 1.0, "proximal_weight": 1.0}),
        ("tavat", {"steps": 1, "init_magnitude": 0.0}),
        ("trades", {"beta": 0.0, "step_size": 0.0}),
        ("vat", {"beta": 0.0, "symmetric": True}),
        ("yopo", {"rounds": 1, "steps": 1, "clean_weight": 0.0}),
    ],
    ids=str,
)
def test_the_ends_of_the_ranges_are_allowed(name, settings):
    method = bare(build(name, **settings))
    assert {key: getattr(method, key) for key in settings} == settings


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
        FreeAT(LInfBall(0.1), 0.1, replays=8, carry=True),
        Scaled(YOPO(L2Ball(0.1), 0.05, 5, 3, random_start=True, clean_weight=0.5), "relative"),
        FreeLB(L2Ball(0.3), 0.1, 2, reuse=True),
        TAVAT(L2Ball(0.3), 0.1, 2, init_magnitude=0.7, clean_weight=0.5),
        VAT(LInfBall(0.3, "token"), xi=0.1, steps=2, beta=3.0, symmetric=True),
        Scaled(SMART(L2Ball(0.3), 0.1, 2, 1.0, 0.1, 0.5, decay=0.9), "per_coordinate"),
        TRADES(L1Ball(0.3), 0.1, 2, beta=3.0, init_magnitude=0.1),
        RDrop(5.0),
        AWP(LInfBall(0.3), 0.1, 2, gamma=0.01),
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

EXTRA = {"beta": 1.0, "init_magnitude": 0.1}


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
        (FreeLB(L2Ball(1.0), 0.1, 3, reuse=True), 3),
        (FreeAT(L2Ball(1.0), 0.1, replays=8), 1),
        (YOPO(L2Ball(1.0), 0.1, rounds=5, steps=3), 5 + 4 * 2 * 2 / 3 / 12),
        (YOPO(L2Ball(1.0), 0.1, rounds=1, steps=9), 1),
        (YOPO(L2Ball(1.0), 0.1, 2, 1, random_start=True, clean_weight=0.5), 3),
        (TAVAT(L2Ball(1.0), 0.1, 3), 3),
        (TAVAT(L2Ball(1.0), 0.1, 3, clean_weight=0.5), 4),
        (VAT(L2Ball(1.0), xi=0.1, steps=2), 2 / 3 * 2 + 2),
        (SMART(L2Ball(1.0), 0.1, 2, **EXTRA), 2 / 3 * 2 + 2),
        (SMART(L2Ball(1.0), 0.1, 2, proximal_weight=1.0, **EXTRA), 2 / 3 * 2 + 2 + 1 / 3),
        (TRADES(L2Ball(1.0), 0.1, 3, **EXTRA), 2 / 3 * 3 + 2),
        (RDrop(), 2),
        (AWP(L2Ball(1.0), 0.1, 3, gamma=0.01), 2 / 3 * 3 + 2),
        (AWP(L2Ball(1.0), 0.1, 0, gamma=0.01), 2),
    ],
    ids=repr,
)
def test_the_floor_cost_is_the_documented_one(method, cost):
    assert math.isclose(floor_cost(method, blocks=12), cost)
    if hasattr(method, "ball"):
        assert floor_cost(Scaled(method, "relative"), 12) == floor_cost(method, 12)


@pytest.mark.parametrize(
    ("method", "below", "cost"),
    [
        (PGD(L2Ball(1.0), 0.1, 3), 0.0, 1 + 3 * 2 / 3),
        (PGD(L2Ball(1.0), 0.1, 3), 0.5, 1 + 3 * 1 / 2),
        (InnerPasses(PGD(L2Ball(1.0), 0.1, 3), prefix="once"), 0.5, 1 + 1 / 2 + 2 * 1 / 3),
        (InnerPasses(PGD(L2Ball(1.0), 0.1, 3), prefix="once"), 0.0, 1 + 3 * 2 / 3),
        (FreeLB(L2Ball(1.0), 0.1, 3), 0.5, 3),
    ],
    ids=["words", "half", "half-once", "words-once", "full-passes"],
)
def test_the_floor_cost_of_a_delta_at_a_layer(method, below, cost):
    assert math.isclose(floor_cost(method, below=below), cost)
    scaled = Scaled(method, "relative")
    assert floor_cost(scaled, below=below) == floor_cost(method, below=below)


PRESETS_COST = {
    "none": 1,
    "noise": 1,
    "freeat": 1,
    "fgm_remembered": 1,
    "rdrop": 2,
    "sam": 2,
    "fgm": 2,
    "fgsm": 2,
    "fgm_matrix": 2,
    "tavat": 2,
    "vat": 2 + 2 / 3,
    "smart": 2 + 2 / 3,
    "awp": 3,
    "freelb": 3,
    "yopo": 3 + 4 * 2 / 3 / 12,
    "pgd": 2 + 2 * 2 / 3,
    "cat": 1 + 10 / 3 * 2 / 3,
    "capo": 1 + 1 / 3 + 10 / 2 * 2 / 3,
    "lat": 1 + 16 * 2 / 3 * 2 / 3,
    "rr": 1 + 1 / 3,
    "trades": 2 + 3 * 2 / 3,
}


@each_name
def test_the_floor_cost_of_a_preset(name):
    assert math.isclose(floor_cost(build(name), blocks=12), PRESETS_COST[name])


def test_without_the_number_of_blocks_their_passes_are_not_counted():
    assert floor_cost(build("yopo")) == 3
