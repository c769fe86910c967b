"""What goes around a method: a beginning, a linear change, steps left out; their closed forms."""

import re
from dataclasses import replace
from itertools import permutations

import pytest

from nlp_adv.methods import (
    AWP,
    FGM,
    PGD,
    Every,
    FGMMatrix,
    FreeAT,
    FreeLB,
    Linear,
    NoAttack,
    RDrop,
    Scaled,
    StartWhen,
    WarmUp,
    bare,
)
from nlp_adv.methods import METHODS as REGISTRY
from nlp_adv.methods.condition import Condition
from nlp_adv.perturbation import L2Ball

ORDINARY = NoAttack()
FGM_RUN = FGM(L2Ball(0.4))
FREELB = FreeLB(L2Ball(0.4), 0.2, 5, init_magnitude=0.3)
METHODS = [FGM_RUN, Scaled(FREELB, "relative")]
each_method = pytest.mark.parametrize("method", METHODS, ids=["fgm", "freelb"])


def acting(schedule, steps):
    return [step for step in range(steps) if schedule.at(step) != ORDINARY]


@each_method
@pytest.mark.parametrize("start", [0, 3])
@pytest.mark.parametrize("every", [1, 2, 5])
def test_every_nth_step_from_the_first(method, start, every):
    schedule = Every(WarmUp(method, start), every).over(17)
    assert acting(schedule, 17) == [s for s in range(start, 17) if (s - start) % every == 0]
    assert schedule.at(start) is method


def test_every_nth_batch_of_a_method_that_replays():
    method = FreeAT(L2Ball(0.4), step_size=0.2, replays=3)
    assert acting(Every(method, 2).over(15), 15) == [0, 1, 2, 6, 7, 8, 12, 13, 14]
    # Begun within a batch, it attacks what is left of it.
    assert acting(Every(WarmUp(method, 4), 2).over(15), 15) == [4, 5, 9, 10, 11]


@pytest.mark.parametrize(
    ("start", "epoch", "want"), [(0, 1, 6), (0, 0.5, 3), (8, 1, 8), (0.25, 1, 6), (0.5, 1, 12)]
)
def test_the_later_of_step_and_epoch_begins(start, epoch, want):
    schedule = WarmUp(FGM_RUN, start, start_epoch=epoch).over(24, 6)
    assert schedule.begins == want
    assert acting(schedule, 24) == list(range(want, 24))


def test_an_epoch_needs_a_length_and_the_run_must_last():
    with pytest.raises(ValueError, match="needs training data with a length"):
        WarmUp(FGM_RUN, start_epoch=1).over(24)
    with pytest.raises(ValueError, match=r"step 12 of a run of 12.*--adv_start_epoch"):
        WarmUp(FGM_RUN, start_epoch=2).over(12, 6)
    with pytest.raises(ValueError, match="call over"):
        WarmUp(FGM_RUN, start_epoch=2).at(0)
    assert WarmUp(NoAttack(), start_epoch=9).over(12).at(0) == ORDINARY


@each_method
@pytest.mark.parametrize("start", [0, 4])
@pytest.mark.parametrize(("steps", "n"), [(0, None), (6, 6), (0.5, 8), (1, 1)])
def test_a_number_changes_linearly_and_stays(method, start, steps, n):
    total = 16
    n = n or total - 1 - start
    schedule = Linear(WarmUp(method, start), {"epsilon": 0.1}, steps).over(total)
    for step in range(total):
        found = bare(schedule.at(step))
        if step < start:
            assert found == ORDINARY
            continue
        want = 0.1 + (0.4 - 0.1) * min(1, (step - start) / n)
        assert found.ball.epsilon == pytest.approx(want)
        assert replace(found, ball=bare(method).ball) == bare(method)  # and nothing else
    assert schedule.at(total - 1) == method  # to the last bit


MOVING = [name for name in REGISTRY if name not in ("none", "rdrop", "sam", "rr")]  # in a ball


@pytest.mark.parametrize("name", MOVING)
def test_every_method_that_moves_something_can_be_scheduled(name):
    preset = REGISTRY[name].preset()
    key = "rho" if name == "sam" else "epsilon"
    radius = getattr(getattr(bare(preset), "ball", bare(preset)), key)
    schedule = Every(Linear(preset, {key: radius / 2}, 4), 2).over(12 * 8)
    first, ordinary = schedule.at(0), schedule.at(2 * getattr(bare(preset), "replays", 1) - 1)
    assert getattr(getattr(bare(first), "ball", bare(first)), key) == radius / 2
    assert type(first) is type(preset)
    assert ordinary == ORDINARY


def test_whole_numbers_are_rounded_and_numbers_may_fall():
    steps = Linear(FREELB, {"steps": 1}, 8).over(99)
    assert [steps.at(k).steps for k in range(10)] == [1, 2, 2, 3, 3, 4, 4, 5, 5, 5]
    awp = AWP(L2Ball(0.4), 0.2, 1, gamma=0.01)
    gamma = Linear(awp, {"gamma": 0.05, "step_size": 0.0}, 4).over(9)
    assert [gamma.at(k).gamma for k in range(6)] == pytest.approx(
        [0.05, 0.04, 0.03, 0.02, 0.01, 0.01]
    )
    assert [gamma.at(k).step_size for k in range(5)] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    matrix = Linear(FGMMatrix(1.0), {"epsilon": 0.0}, 2).over(9)
    assert [matrix.at(k).epsilon for k in range(3)] == [0, 0.5, 1]
    assert Linear(RDrop(beta=2.0), {"beta": 0.0}, 2).over(9).at(1).beta == 1


def test_an_epsilon_of_one_is_no_whole_number():
    schedule = Linear(FreeLB(L2Ball(1), 1, 2), {"epsilon": 0.5, "step_size": 0}, 4)
    found = [(schedule.at(k).ball.epsilon, schedule.at(k).step_size) for k in (0, 1, 4)]
    assert found == [(0.5, 0), (0.625, 0.25), (1, 1)]


def test_the_ramp_and_the_change_multiply():
    schedule = Linear(WarmUp(FGM_RUN, ramp_steps=3), {"epsilon": 0.0}, 4).over(9)
    lengths = [m.factor * m.ball.epsilon for m in map(schedule.at, range(3))]
    assert lengths == pytest.approx([0, 0.1 * 2 / 4, 0.2 * 3 / 4])
    assert schedule.at(4) == FGM_RUN


def test_the_end_of_the_run_must_be_known():
    with pytest.raises(ValueError, match="call over"):
        Linear(FGM_RUN, {"epsilon": 0.1}).at(0)
    assert Linear(FGM_RUN, {"epsilon": 0.1}, 2).at(1).ball.epsilon == pytest.approx(0.25)


# A beginning that waits.


@each_method
def test_it_waits_until_it_is_told(method):
    schedule = StartWhen(WarmUp(method, start_step=4), "loss<0.4").over(20)
    assert (schedule.begins, schedule.begun_at) == (None, None)
    assert str(schedule.waits_for) == "loss<0.4"
    assert acting(schedule, 20) == []
    assert acting(schedule.begun(9), 20) == list(range(9, 20))
    early = schedule.begun(2)  # the warm-up still holds
    assert (early.waits_for, early.begun_at, early.begins) == (None, 2, 4)
    assert acting(early, 20) == list(range(4, 20))


WRAPPERS = {
    "when": lambda inner: StartWhen(inner, "loss<0.4"),
    "linear": lambda inner: Linear(inner, {"epsilon": 0.1}),
    "every": lambda inner: Every(inner, 3),
}


@each_method
@pytest.mark.parametrize("order", list(permutations(WRAPPERS)), ids="-".join)
def test_the_order_of_wrapping_changes_nothing(method, order):
    schedule = method
    for name in order:
        schedule = WRAPPERS[name](schedule)
    schedule = schedule.over(20)
    assert acting(schedule, 20) == []
    begun = schedule.begun(5)
    assert acting(begun, 20) == [5, 8, 11, 14, 17]
    radii = [bare(begun.at(step)).ball.epsilon for step in (5, 8, 11)]
    assert radii == pytest.approx([0.1, 0.1 + 0.3 * 3 / 14, 0.1 + 0.3 * 6 / 14])
    assert begun.settings() == {
        "start_step": 0,
        "ramp_steps": 0,
        "start_when": "loss<0.4",
        "begun_at": 5,
        "linear": {"epsilon": 0.1},
        "linear_steps": 0,
        "total_steps": 20,
        "every": 3,
    }


@pytest.mark.parametrize(
    ("text", "below", "at", "above"),
    [
        ("loss<0.4", True, False, False),
        (" loss <= 0.4 ", True, True, False),
        ("eval_recall@5>4e-1", False, False, True),
        ("eval_a/b>=0.4", False, True, True),
    ],
)
def test_a_condition(text, below, at, above):
    condition = Condition.parse(text)
    assert [condition.holds(value) for value in (0.3, 0.4, 0.5)] == [below, at, above]
    assert not condition.holds(float("nan"))
    assert Condition.parse(str(condition)) == condition


BAD = {
    "a condition without a sign": (lambda: StartWhen(FGM_RUN, "loss"), "--adv_start_when"),
    "a threshold that is no number": (lambda: StartWhen(FGM_RUN, "loss<x"), "'loss<x'"),
    "a threshold of nan": (lambda: StartWhen(FGM_RUN, "loss<nan"), "loss<nan"),
    "two signs": (lambda: StartWhen(FGM_RUN, "0.1<loss<0.4"), "0.1<loss<0.4"),
    "every 0": (lambda: Every(FGM_RUN, 0), "--adv_every"),
    "every 1.5": (lambda: Every(FGM_RUN, 1.5), "not 1.5"),
    "a negative epoch": (lambda: WarmUp(FGM_RUN, start_epoch=-1), "--adv_start_epoch"),
    "a negative length": (lambda: Linear(FGM_RUN, {"epsilon": 0}, -1), "--adv_linear_steps"),
    "an unknown number": (lambda: Linear(FGM_RUN, {"steps": 1}), "epsilon, clean_weight"),
    "replays": (lambda: Linear(FreeAT(L2Ball(1.0), 0.1, 3), {"replays": 1}), "replays"),
    "a text for a number": (lambda: Linear(FREELB, {"steps": "1"}), "not {'steps': '1'}"),
    "a text for all numbers": (lambda: Linear(FREELB, "steps=1"), "not 'steps=1'"),
    "half a step": (lambda: Linear(FREELB, {"steps": 1.5}), "whole number"),
    "no step": (lambda: Linear(FREELB, {"steps": 0}), "integer ≥ 1, not 0"),
    "a negative radius": (lambda: Linear(FGM_RUN, {"epsilon": -1}), "out of range"),
    "no ball": (lambda: Linear(PGD(L2Ball(float("inf")), 0.1, 2, False), {"epsilon": 1}), "finite"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_refused(case):
    make, words = BAD[case]
    with pytest.raises(ValueError, match=re.escape(words)):
        make()


def test_a_baseline_keeps_the_schedule_of_the_run_beside_it():
    schedule = Every(Linear(StartWhen(ORDINARY, "loss<1"), {"steps": 1}), 2).over(4)
    assert acting(schedule.begun(0), 4) == []
