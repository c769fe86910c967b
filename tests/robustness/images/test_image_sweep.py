"""Accuracy over ε: the cheap ways give what separate attacks give."""

import math
from dataclasses import replace

import faulty_models as small
import pytest
import torch
from nlp_adv.robustness.images.sweep import at_radius

from nlp_adv.attacks import APGD, FGM, FGSM, PGD, DeepFool, OptimizerAttack
from nlp_adv.errors import UserError
from nlp_adv.perturbation import L2Ball, LInfBall
from nlp_adv.robustness.curve import EpsilonSweep, sweep_by_length
from nlp_adv.robustness.images import epsilon_sweep, evaluate_images

RADII = (0.02, 0.045, 0.06, 0.3)
PGD_ATTACK = PGD(LInfBall(0.045), step_size=0.01, steps=6, loss="margin", until_fooled=True)


def batches(count: int = 30):
    x, y = small.images(count)
    y = y.clone()
    y[::7] = (y[::7] + 1) % small.CLASSES  # some that are wrong without attack
    return [(x[:20], y[:20]), (x[20:], y[20:])]


def counting():
    """The ordinary model, and how many images went through it with a gradient."""
    seen = []

    def look(x):
        if x.requires_grad:
            seen.append(len(x))
        return x

    return small.Changed(before=look), seen


@pytest.mark.parametrize("attack", [FGSM(0.1), FGM(L2Ball(0.4), "margin")])
def test_one_gradient_gives_what_separate_attacks_give(attack):
    model, seen = counting()
    sweep = epsilon_sweep(attack, model, batches(), RADII)
    assert seen == [int(sweep.right[:20].sum()), int(sweep.right[20:].sum())]
    assert sweep.gradient_passes.tolist() == sweep.right.long().tolist()
    for place, epsilon in enumerate(RADII):
        alone = FGSM(epsilon) if isinstance(attack, FGSM) else FGM(L2Ball(epsilon), "margin")
        records = evaluate_images(small.trained(), batches(), {"one": alone}).of("one")
        assert sweep.stood[:, place].tolist() == [one.outcome == "robust" for one in records]


@pytest.mark.parametrize(
    ("attack", "unit"),
    [
        (PGD_ATTACK, 1),
        (replace(PGD_ATTACK, ball=L2Ball(0.4), step_size=0.1, random_start=False), 8),
        (APGD(LInfBall(0.045), 6, "margin"), 1),
    ],
)
def test_ascending_radii_give_what_separate_attacks_give(attack, unit):
    model, seen = counting()
    radii = tuple(unit * radius for radius in RADII)
    sweep = epsilon_sweep(attack, model, batches(), radii[::-1])
    assert sweep.epsilons == radii
    fell = torch.zeros(30, dtype=torch.bool)
    alone = 0
    for place, epsilon in enumerate(radii):
        run = {"one": at_radius(attack, epsilon)}
        records = evaluate_images(small.trained(), batches(), run).of("one")
        # The ball of a radius holds the smaller ones, so an image that fell there has fallen here.
        fell |= torch.tensor([one.outcome == "fooled" for one in records])
        assert torch.equal(sweep.stood[:, place], sweep.right & ~fell)
        alone += sum(one.found.gradient_passes for one in records)
    assert sum(seen) >= int(sweep.gradient_passes.sum())
    assert int(sweep.gradient_passes.sum()) < alone
    assert 0 < int(sweep.stood[:, 1].sum()) < int(sweep.right.sum()) < 30


def test_full_steps_are_cut_short_in_a_sweep():
    whole = replace(PGD_ATTACK, until_fooled=False)
    short = epsilon_sweep(PGD_ATTACK, small.trained(), batches(), RADII)
    sweep = epsilon_sweep(whole, small.trained(), batches(), RADII)
    assert torch.equal(sweep.stood, short.stood)
    assert torch.equal(sweep.gradient_passes, short.gradient_passes)


def test_the_smallest_delta_of_one_run_says_it_for_all_radii():
    attack = DeepFool("linf")
    sweep = epsilon_sweep(attack, small.trained(), batches(), RADII)
    records = evaluate_images(small.trained(), batches(), [attack]).of("deepfool-linf")
    for place, epsilon in enumerate(RADII):
        want = [r.attacked and r.found.linf > epsilon for r in records]
        assert sweep.stood[:, place].tolist() == want
    again = sweep_by_length(records, LInfBall(0.1), RADII[::-1])
    assert torch.equal(again.stood, sweep.stood)
    assert again.epsilons == RADII


def test_a_target_is_reached_or_the_image_stands():
    x, y = small.images(30)
    others = y != 2
    for attack in (FGSM(0.1, "margin"), PGD_ATTACK):
        sweep = epsilon_sweep(
            attack, small.trained(), [(x[others], y[others])], [0.0, 0.06, 0.3], target=2
        )
        found = at_radius(PGD_ATTACK, 0.3)(small.trained(), x[others], target=2)
        assert torch.equal(sweep.stood[:, 0], sweep.right)
        if attack is PGD_ATTACK:
            assert torch.equal(sweep.stood[:, 2], sweep.right & ~found.success)


def test_the_curve_begins_without_attack_and_has_intervals_and_an_area():
    sweep = epsilon_sweep(PGD_ATTACK, small.trained(), batches(), [0.06, 0.0])
    first, last = sweep.curve.points
    assert (first.epsilon, last.epsilon) == (0.0, 0.06)
    assert first.share == sweep.share(0.0) == sweep.share(0)
    assert first.share.count == int(sweep.right.sum())
    low, high = last.interval
    assert low < last.accuracy < high
    assert sweep.curve.area == pytest.approx((first.accuracy + last.accuracy) / 2)
    again = EpsilonSweep.read(sweep.described())
    assert again.curve == sweep.curve


def test_the_step_grows_with_the_radius():
    larger = at_radius(PGD_ATTACK, 0.09)
    assert larger == replace(PGD_ATTACK, ball=LInfBall(0.09), step_size=0.01 * (0.09 / 0.045))
    assert at_radius(APGD(LInfBall(0.1)), 0.2) == APGD(LInfBall(0.2))
    nothing = at_radius(replace(PGD_ATTACK, ball=LInfBall(0.0)), 0.0)
    assert nothing.step_size == 0
    with pytest.raises(ValueError, match="no step to enlarge"):
        at_radius(replace(PGD_ATTACK, ball=LInfBall(0.0)), 0.1)


def test_an_optimizer_without_a_ball_is_measured_by_its_length():
    attack = OptimizerAttack(torch.optim.Adam, lr=0.02, steps=10)
    sweep = epsilon_sweep(attack, small.trained(), batches(), [0.01, 100.0])
    assert sweep.stood[:, 0].sum() == sweep.right.sum()
    assert not sweep.stood[:, 1].any()


@pytest.mark.parametrize("radii", [[], [-0.1], [math.inf], [math.nan]])
def test_radii_are_finite_and_not_negative(radii):
    with pytest.raises(UserError, match="radii that are finite"):
        epsilon_sweep(PGD_ATTACK, small.trained(), batches(), radii)


def test_a_sweep_needs_images_in_the_range_of_pixels():
    with pytest.raises(UserError, match="no images"):
        epsilon_sweep(PGD_ATTACK, small.trained(), [], RADII)
    x, y = small.images(3)
    with pytest.raises(UserError, match=r"Pixels\(model, mean, std\)"):
        epsilon_sweep(PGD_ATTACK, small.trained(), [(2 * x - 1, y)], RADII)
    with pytest.raises(ValueError, match="grey levels"):
        epsilon_sweep(PGD_ATTACK, small.trained(), batches(), [8.0])
