"""Warm-up: ordinary steps, a linear ramp, then the method itself."""

import pytest
import torch
from models import LinearClassifier, linear_objective

from nlp_adv.methods import FGM, PGD, FGMMatrix, FreeLB, NoAttack, Scaled, WarmUp
from nlp_adv.perturbation import L2Ball

ABSOLUTE = FGM(L2Ball(0.4))
RELATIVE = Scaled(FreeLB(L2Ball(0.4), 0.2, 3, init_magnitude=0.3), "relative")

each_method = pytest.mark.parametrize("method", [ABSOLUTE, RELATIVE], ids=["absolute", "relative"])


@each_method
def test_without_settings_it_is_the_method_from_the_first_step(method):
    assert WarmUp(method).at(0) is method
    assert WarmUp(method).at(10**6) is method


@each_method
def test_before_the_start_steps_are_ordinary(method):
    schedule = WarmUp(method, start_step=3)
    assert [schedule.at(step) for step in range(5)] == [NoAttack()] * 3 + [method] * 2


@each_method
@pytest.mark.parametrize(("start", "ramp"), [(0, 4), (3, 4), (3, 1), (0, 999)])
def test_the_ramp_is_linear_and_full_at_its_end(method, start, ramp):
    schedule = WarmUp(method, start_step=start, ramp_steps=ramp)
    factors = [schedule.at(start + done).factor for done in range(ramp)]
    steps = [after - before for before, after in zip([0.0, *factors], [*factors, 1.0], strict=True)]
    assert steps == pytest.approx([1 / (ramp + 1)] * (ramp + 1))
    assert schedule.at(start + ramp) is method
    assert start == 0 or schedule.at(start - 1) == NoAttack()


@pytest.mark.parametrize("done", [0, 1, 2])
def test_the_ramp_keeps_method_and_unit(done):
    absolute = WarmUp(ABSOLUTE, ramp_steps=3).at(done)
    assert absolute == Scaled(ABSOLUTE, "absolute", factor=(done + 1) / 4)
    relative = WarmUp(RELATIVE, ramp_steps=3).at(done)
    assert relative == Scaled(RELATIVE.method, "relative", factor=(done + 1) / 4)


def test_a_factor_of_ones_own_is_ramped_too():
    method = Scaled(FGM(L2Ball(0.4)), "relative", factor=0.5)
    assert WarmUp(method, ramp_steps=1).at(0).factor == 0.25
    assert WarmUp(method, ramp_steps=1).at(1) is method


@pytest.mark.parametrize(
    "method",
    [
        PGD(L2Ball(0.4), 0.2, 3, random_start=False),
        Scaled(PGD(L2Ball(0.4), 0.2, 3, random_start=False), "relative"),
        RELATIVE,
    ],
    ids=["absolute", "relative", "random-start"],
)
def test_delta_grows_with_the_ramp(method):
    """On a linear model the path of δ is straight, so a share of the lengths is a share of δ."""
    found = []
    for step in range(5):
        model = LinearClassifier((5, 4))
        x = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        signs = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)
        objective = linear_objective(model, x, signs)
        WarmUp(method, ramp_steps=4).at(step).step(objective)
        found.append(objective.delta)
    assert (found[-1] != 0).all()
    for step, delta in enumerate(found):
        torch.testing.assert_close(delta, found[-1] * (step + 1) / 5)


@pytest.mark.parametrize("settings", [{"start_step": -1}, {"ramp_steps": -1}], ids=str)
def test_negative_steps_are_refused(settings):
    with pytest.raises(ValueError, match="≥ 0"):
        WarmUp(ABSOLUTE, **settings)


def test_a_method_without_a_ball_can_wait_but_not_ramp():
    method = FGMMatrix(1.0)
    assert WarmUp(method, start_step=2).at(2) is method
    with pytest.raises(ValueError, match="use start_step alone"):
        WarmUp(method, ramp_steps=2)


def test_a_baseline_keeps_the_flags_of_the_run_beside_it():
    schedule = WarmUp(NoAttack(), start_step=0.5, ramp_steps=0.5).over(4)
    assert [schedule.at(step) for step in range(4)] == [NoAttack()] * 4
    assert WarmUp(NoAttack(), start_step=9).over(4).at(0) == NoAttack()
