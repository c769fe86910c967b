"""Checks of image attacks: an ordinary model passes each, a model with the fault fails it."""

from dataclasses import replace

import faulty_models as small
import pytest
import torch
from faulty_models import EPSILON, left, record
from nlp_adv.robustness.images.checks import (
    check_ascent,
    check_beats,
    check_image_records,
    check_large_radius,
    check_losses,
    check_margin_scale,
    check_probabilities,
    check_radii,
    check_repeatable,
    check_restarts,
    check_rounding,
    check_softmax_scale,
    check_steps,
    check_zero_gradients,
    grey_radius,
    image_checks,
)

from nlp_adv.attacks import FGM, PGD
from nlp_adv.errors import UserError
from nlp_adv.perturbation import L2Ball, LInfBall
from nlp_adv.robustness.images import PixelNoise, evaluate_images

ATTACK = PGD(LInfBall(EPSILON), step_size=EPSILON / 5, steps=12)


def checked(model, epsilon: float = EPSILON) -> dict[str, bool | None]:
    x, y = small.images()
    attack = replace(ATTACK, ball=LInfBall(epsilon), step_size=epsilon / 5)
    found = image_checks(model, [(x[:40], y[:40]), (x[40:], y[40:])], attack)
    return {check.name: check.passed for check in found}


def test_an_ordinary_model_passes_every_check():
    found = checked(small.trained())
    assert set(found.values()) == {True}, found
    assert len(found) == 16


@pytest.mark.parametrize(
    ("fault", "names"),
    [
        (
            small.saturated,
            {
                "cross entropy",
                "logit scale, softmax",
                "confidence",
                "zero gradients, cross entropy",
            },
        ),
        (small.probabilities, {"logits"}),
        (small.rounding, {"large radius", "zero gradients, margin"}),
        (small.noisy, {"repeatable"}),
        (small.backwards, {"large radius", "ascent"}),
        (small.flat_at_pictures, {"restarts", "zero gradients, margin"}),
        (small.true_at_pictures, {"PGD and one step", "ascent"}),
        (small.remembering, {"radius", "large radius"}),
        (small.huge, {"logit scale, margin"}),
    ],
)
def test_a_model_with_a_fault_fails_its_checks(fault, names):
    found = checked(fault())
    assert names <= {name for name, passed in found.items() if passed is False}, found


def test_noise_beats_an_attack_that_goes_backwards():
    assert checked(small.backwards(), epsilon=0.35)["PGD and noise"] is False
    assert checked(small.trained(), epsilon=0.35)["PGD and noise"] is True


def test_the_checks_leave_the_model_and_the_random_streams_as_they_were():
    model = small.trained().train()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    checked(model)
    assert model.training
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(parameter.grad is None for parameter in model.parameters())
    model.eval()


def test_the_checks_need_images_and_a_radius():
    with pytest.raises(UserError, match="need images"):
        image_checks(small.trained(), [], ATTACK)
    with pytest.raises(UserError, match="a radius above 0"):
        image_checks(small.trained(), [small.images(3)], replace(ATTACK, ball=LInfBall(0.0)))


def test_every_pixel_can_become_grey_at_the_large_radius():
    x = torch.rand(2, 3, 4, 4)
    for ball in (LInfBall(0.1), L2Ball(0.1)):
        away = ball.norm(0.5 - x).max()
        assert away <= grey_radius(ball, x) <= 2 * away


class TestVerdicts:
    """On both sides of each threshold, on records made by hand."""

    @pytest.mark.parametrize(("standing", "want"), [(0, True), (5, True), (6, False)])
    def test_large_radius(self, standing, want):
        assert check_large_radius(left(standing), 0.5).passed is want

    def test_radii(self):
        by_radius = {0.1: left(60), 0.2: left(40)}
        assert check_radii(by_radius).passed is True
        assert check_radii(by_radius | {0.4: left(60)}).passed is False
        assert "60.0 % at ε = 0.1, 40.0 % at ε = 0.2" in check_radii(by_radius).finding

    @pytest.mark.parametrize(
        ("fewer", "more", "want"), [(50, 48, True), (50, 40, None), (40, 60, False)]
    )
    def test_steps(self, fewer, more, want):
        check = check_steps(left(fewer), left(more), (10, 20))
        assert check.passed is want
        assert f"20 steps leave {more}.0 %" in check.finding

    @pytest.mark.parametrize(
        ("one", "several", "want"), [(50, 48, True), (50, 30, False), (30, 50, False)]
    )
    def test_restarts(self, one, several, want):
        assert check_restarts(left(one), left(several), 3).passed is want

    @pytest.mark.parametrize(
        ("strong", "weak", "want"), [(30, 50, True), (50, 30, False), (100, 100, None)]
    )
    def test_beats(self, strong, weak, want):
        assert check_beats(left(strong), left(weak), ("PGD", "FGSM")).passed is want

    @pytest.mark.parametrize(
        ("margin", "cross_entropy", "want"),
        [(40, 41, True), (40, 60, False), (60, 40, False), (100, 100, None)],
    )
    def test_losses(self, margin, cross_entropy, want):
        assert check_losses(left(margin), left(cross_entropy)).passed is want

    def test_logit_scales(self):
        assert check_softmax_scale(left(50), {0.01: left(50), 30.0: left(90)}).passed is True
        assert check_softmax_scale(left(90), {0.01: left(50), 30.0: left(90)}).passed is False
        assert check_margin_scale(left(50), {0.01: left(50), 30.0: left(50)}).passed is True
        assert check_margin_scale(left(50), {0.01: left(50), 30.0: left(80)}).passed is False

    @pytest.mark.parametrize(("blind", "want"), [(5, True), (6, False)])
    def test_zero_gradients(self, blind, want):
        records = [record(n, first_gradient=0.0 if n < blind else 1.0) for n in range(100)]
        assert check_zero_gradients(records).passed is want
        skipped = [record(n, outcome="wrong", first_gradient=0.0) for n in range(3)]
        assert check_zero_gradients(skipped).passed is None

    @pytest.mark.parametrize(("lower", "want"), [(5, True), (6, False)])
    def test_ascent(self, lower, want):
        records = [record(n, last_loss=-2.0 if n < lower else 0.0) for n in range(100)]
        assert check_ascent(records).passed is want
        assert check_ascent([record(first_loss=float("nan"))]).passed is None

    @pytest.mark.parametrize(
        ("undone", "fallen", "want"),
        [(20, 100, True), (21, 100, False), (2, 3, None), (0, 3, True), (0, 0, None)],
    )
    def test_rounding(self, undone, fallen, want):
        records = [record(n, outcome="fooled", survives_8_bit=n >= undone) for n in range(fallen)]
        assert check_rounding([*records, record(200)]).passed is want


def test_rounding_undoes_what_is_no_picture():
    x, y = small.images()
    attack = {"pgd": replace(ATTACK, until_fooled=True)}
    for model, want in ((small.trained(), True), (small.off_grid(), False)):
        records = evaluate_images(model, [(x, y)], attack).of("pgd")
        checks = {check.name: check for check in check_image_records(records, in_ball=True)}
        assert set(checks) == {"zero gradients (pgd)", "ascent (pgd)", "rounding to 8 bits (pgd)"}
        assert checks["rounding to 8 bits (pgd)"].passed is want, model
    assert len(check_image_records(records, in_ball=False)) == 1


def test_probabilities_are_told_from_logits():
    logits = torch.tensor([[2.0, -1.0], [0.5, 0.5]])
    assert check_probabilities(logits).passed is True
    assert check_probabilities(logits.softmax(1)).passed is False
    assert check_probabilities(torch.tensor([[0.5, 0.5], [3.0, 0.0]])).passed is True


def test_a_model_that_answers_at_random_is_not_repeatable():
    x, _ = small.images(6)
    assert check_repeatable(small.trained(), x).passed is True
    assert check_repeatable(small.noisy(), x).passed is False
    dropout = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(64, 3))
    assert check_repeatable(dropout.double().train(), x).passed is True  # eval mode has none
    assert dropout.training


class TestNoise:
    def test_draws_are_on_the_sphere_and_in_the_box_and_belong_to_the_image(self):
        x, y = small.images(12)
        for ball in (LInfBall(0.02), L2Ball(0.3)):
            found = PixelNoise(ball, draws=3, seed=4)(small.trained(), x, y)
            length = ball.norm(found.delta).flatten()
            assert (length <= ball.epsilon * (1 + 1e-6)).all()
            assert (length > 0.9 * ball.epsilon).all()
            assert ((found.adv >= 0) & (found.adv <= 1)).all()
            assert not found.gradient_passes.any()
            alone = PixelNoise(ball, draws=3, seed=4)(small.trained(), x[5:6], y[5:6])
            assert torch.allclose(alone.adv[0], found.adv[5])
            other = PixelNoise(ball, draws=3, seed=5)(small.trained(), x, y)
            assert not torch.equal(other.adv, found.adv)

    def test_the_first_draw_that_fools_is_kept(self):
        x, y = small.images(30)
        found = PixelNoise(LInfBall(0.5), draws=8)(small.trained(), x, y)
        first = PixelNoise(LInfBall(0.5), draws=1)(small.trained(), x, y)
        assert found.success.sum() > first.success.sum() > 0
        assert torch.equal(found.adv[first.success], first.adv[first.success])

    def test_numbers_are_checked(self):
        with pytest.raises(ValueError, match="draws"):
            PixelNoise(LInfBall(0.1), draws=0)
        with pytest.raises(ValueError, match="8/255"):
            PixelNoise(LInfBall(8))
        assert PixelNoise(L2Ball(1.0)).name == "noise-l2"


def test_one_step_is_no_weaker_where_the_model_is_linear():
    x, y = small.images(30)
    torch.manual_seed(0)
    linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)).double()
    y = linear(x).argmax(1)
    runs = {"one": FGM(LInfBall(0.05), "margin"), "pgd": replace(ATTACK, loss="margin")}
    found = evaluate_images(linear, [(x, y)], runs)
    assert found.summaries["one"].under_attack == found.summaries["pgd"].under_attack
