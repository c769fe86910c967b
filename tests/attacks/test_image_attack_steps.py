"""What is special to one attack: its schedule, when images leave, what a step waits for."""

import math
from dataclasses import replace

import pytest
import torch
from small_images import ATTACKS, digits, linear
from torch.utils._python_dispatch import TorchDispatchMode

from nlp_adv.attacks import APGD, FGSM, PGD, CarliniWagner, DeepFool, OptimizerAttack
from nlp_adv.attacks.apgd import checkpoints
from nlp_adv.attacks.losses import LOSSES, margin
from nlp_adv.attacks.sparse import SparseL1Ball
from nlp_adv.perturbation import L1Ball, L2Ball, LInfBall

SGD = torch.optim.SGD


# APGD.


def test_checkpoints_are_those_of_the_paper():
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]


@pytest.mark.parametrize("steps", [1, 2, 7, 10, 20, 33, 50, 250, 1000])
def test_checkpoints_are_rounded_up_exactly(steps):
    """The shares are hundredths, so 0.41 · 100 is 41 and not 42."""
    shares = [22, 41, 57, 70, 80, 87, 93, 99]
    want = sorted({math.ceil(share * steps / 100) for share in shares})
    assert checkpoints(steps) == want


def test_apgd_returns_its_best_point():
    """With the margin the largest loss fools if any does."""
    model, x, y = digits(64)
    result = APGD(LInfBall(0.1), 25, "margin")(model, x, y)
    assert (result.losses[-1] >= result.losses[:-1].amax(0) - 1e-12).all()
    assert (result.losses[-1] > result.losses[-2]).any()  # and the best is not always the last


def test_apgd_climbs_no_less_than_pgd_with_as_many_gradients():
    model, x, y = digits(128, torch.float32)
    apgd = APGD(L2Ball(0.5), 40)(model, x, y)
    pgd = PGD(L2Ball(0.5), 0.125, 40, random_start=False)(model, x, y)
    assert torch.equal(apgd.gradient_passes, pgd.gradient_passes)
    assert apgd.losses[-1].mean() > pgd.losses[-1].mean()
    assert apgd.success.sum() >= pgd.success.sum()


# What a step waits for.


class Waits(TorchDispatchMode):
    """Counts the operations for which a program waits until an accelerator has finished."""

    NAMES = ("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.is_nonzero")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        indices = args[1] if str(func).startswith(("aten.index.", "aten.index_put")) else []
        by_mask = any(index is not None and index.dtype == torch.bool for index in indices)
        self.count += by_mask or str(func).startswith(self.NAMES)
        return func(*args, **(kwargs or {}))


def waits(attack, steps: int) -> int:
    model, x, y = digits(4)
    radii = torch.full((4,), 0.1)
    ball = getattr(attack, "ball", None)
    if isinstance(ball, LInfBall):
        attack = replace(attack, ball=LInfBall(radii))
    with Waits() as mode:
        replace(attack, steps=steps)(model, x, y)
    return mode.count


@pytest.mark.parametrize(
    "name", ["pgd-linf", "pgd-l2", "pgd-l1", "mi-fgsm", "apgd-linf", "apgd-l2", "sgd-l2"]
)
def test_steps_do_not_wait_for_the_device(name):
    assert waits(ATTACKS[name], 25) == waits(ATTACKS[name], 5)


def test_waiting_is_counted():
    assert waits(ATTACKS["deepfool-l2"], 4) > waits(ATTACKS["deepfool-l2"], 1)


def test_carlini_and_wagner_waits_only_where_images_may_leave():
    attack = CarliniWagner(search_steps=1, abort_early=False)
    assert waits(attack, 25) == waits(attack, 5)
    assert waits(replace(attack, abort_early=True), 5) > waits(attack, 5)


# PGD.


def test_until_fooled_finds_as_many_for_less():
    model, x, y = digits(128, torch.float32)
    attack = PGD(L2Ball(0.75), 0.1, 20, random_start=False)
    all_steps, early = attack(model, x, y), replace(attack, until_fooled=True)(model, x, y)
    assert early.success[all_steps.success].all()
    assert early.gradient_passes.sum() < 0.8 * all_steps.gradient_passes.sum()
    left = early.gradient_passes < 20
    assert early.success[left].all()
    assert (early.norm(2) <= 0.75 * (1 + 1e-6)).all()


def test_a_random_start_belongs_to_the_image():
    model, x, y = digits(4)
    result = PGD(LInfBall(0.1), 0.0, 1)(model, x, y)
    assert (result.norm(torch.inf) > 0.05).all()
    twice = PGD(LInfBall(0.1), 0.0, 1)(model, torch.cat([x, x]), torch.cat([y, y]))
    assert torch.equal(twice.adv[:4], twice.adv[4:])
    assert torch.equal(twice.adv[:4], result.adv)


def test_a_random_start_is_of_free_pixels_and_within_the_box():
    model, x, y = digits(16)
    mask = torch.zeros_like(x)
    mask[:, :, :4] = 1
    for ball in (LInfBall(0.3), L2Ball(1.0), L1Ball(2.0)):
        result = PGD(ball, 0.0, 1)(model, x, y, mask=mask)
        assert torch.equal(result.adv[:, :, 4:], x[:, :, 4:])
        assert (result.adv[:, :, :4] != x[:, :, :4]).flatten(1).any(1).all()
        assert result.adv.min() >= 0
        assert result.adv.max() <= 1


def test_a_sparse_step_goes_to_the_largest_tenth():
    grad = torch.arange(1.0, 41.0).view(2, 20)
    grad[1] = -grad[1]
    step = SparseL1Ball(1.0).steepest(grad)
    want = torch.zeros(2, 20)
    want[0, -2:], want[1, -2:] = 0.5, -0.5
    assert torch.equal(step, want)


def test_a_sparse_step_of_little_or_no_gradient():
    grad = torch.zeros(4, 30)
    grad[1, 4] = 1e-20
    grad[2, 4], grad[2, 5] = 1.0, torch.nan
    grad[3, 4] = torch.inf
    want = torch.zeros(4, 30)
    want[1, 4] = 1.0
    assert torch.equal(SparseL1Ball(1.0).steepest(grad), want)
    with pytest.raises(ValueError, match="share"):
        SparseL1Ball(1.0, share=0.0)


# DeepFool.


def test_deepfool_looks_at_no_more_classes_than_asked():
    model, x, y = digits(16)
    near, all_of_them = DeepFool(classes=2)(model, x, y), DeepFool(classes=99)(model, x, y)
    assert 5 * near.gradient_passes.sum() < all_of_them.gradient_passes.sum()
    runner_up = model(x).topk(2).indices[:, 1]
    assert (near.answers == runner_up).double().mean() > 0.9
    assert near.norm(2).mean() >= all_of_them.norm(2).mean() * 0.999


def test_images_leave_deepfool_one_by_one():
    model, x, y = digits(64)
    result = DeepFool(overshoot=0.0)(model, x, y)
    assert result.success.all()
    assert len(result.gradient_passes.unique()) > 1
    longer = DeepFool(overshoot=0.3)(model, x, y)
    assert longer.norm(2).mean() > result.norm(2).mean()


class InfiniteGradient(torch.autograd.Function):
    """x, whose gradient is inf."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return torch.where(grad != 0, torch.inf, 0.0)


def test_deepfool_passes_over_a_class_without_a_finite_gradient():
    model, x, y = linear((4, 4), classes=3)
    x, y = x[y != 2], y[y != 2]
    assert len(x) >= 2

    def broken(images):
        return torch.cat([model(images)[:, :2], model(InfiniteGradient.apply(images))[:, 2:]], 1)

    result = DeepFool(steps=1)(broken, x, y)
    weight = (model.weight[0] - model.weight[1]).detach()
    logits = model(x).detach()
    distance = (logits[:, 0] - logits[:, 1]).abs() / weight.norm()
    torch.testing.assert_close(result.norm(2), 1.02 * (distance + 1e-4), rtol=1e-9, atol=0)


# Optimizers on pixels.


def test_sgd_of_a_steepest_direction_is_pgd():
    model, x, y = digits(8)
    for ball, step_size in ((LInfBall(0.1), 0.02), (L2Ball(0.75), 0.15)):
        want = PGD(ball, step_size, 12, random_start=False)(model, x, y)
        got = OptimizerAttack(SGD, step_size, 12, ball=ball, normalize=True)(model, x, y)
        torch.testing.assert_close(got.adv, want.adv, rtol=0, atol=1e-12)
        torch.testing.assert_close(got.losses, want.losses)


def test_a_normalised_step_of_sgd_has_length_lr():
    model, x, y = digits(8)
    result = OptimizerAttack(SGD, 0.2, 3, box=False, normalize=True)(model, x, y)
    torch.testing.assert_close(result.norms_along[1], torch.full((8,), 0.2, dtype=x.dtype))
    assert (result.norms_along[3] <= 0.6 + 1e-9).all()


def test_without_a_box_pixels_leave_their_range():
    model, x, y = digits(8)
    free = OptimizerAttack(torch.optim.Adam, 0.05, 10, box=False)(model, x, y)
    assert free.adv.min() < -0.1
    assert free.adv.max() > 1.1
    ball = OptimizerAttack(torch.optim.Adam, 0.05, 10, box=False, ball=L2Ball(0.5))(model, x, y)
    assert ball.adv.min() < -0.01
    assert (ball.norm(2) <= 0.5 * (1 + 1e-12)).all()


def test_options_reach_the_optimizer():
    model, x, y = digits(4)
    plain = OptimizerAttack(SGD, 0.1, 5)(model, x, y)
    heavy = OptimizerAttack(SGD, 0.1, 5, options={"momentum": 0.9})(model, x, y)
    assert (plain.norms_along[1] == heavy.norms_along[1]).all()
    assert (heavy.norms_along[3] > plain.norms_along[3]).all()


@pytest.mark.parametrize("ball", [None, L2Ball(0.5), LInfBall(0.1)], ids=repr)
@pytest.mark.parametrize("box", [True, False])
def test_weight_decay_does_not_reach_masked_pixels(ball, box):
    model, x, y = digits(4)
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 4:, :] = 1
    attack = OptimizerAttack(SGD, 0.1, 5, ball=ball, box=box, options={"weight_decay": 0.5})
    adv = attack(model, x, y, mask=mask).adv
    assert torch.equal(adv[:, :, :4], x[:, :, :4])
    assert (adv[:, :, 4:] < x[:, :, 4:]).any()


# Carlini and Wagner.


def test_a_narrow_search_ends():
    """Bounds within 1 % of each other: nothing more to be had of c."""
    model, x, y = digits(6)
    attack = CarliniWagner(steps=10, step_size=0.3, initial_constant=100.0, search_steps=40)
    result = attack(model, x, y)
    assert result.success.all()
    # An image that succeeds with every c has no lower bound, and goes on halving c.
    assert (result.gradient_passes < 40 * 10).all()
    assert result.gradient_passes.median() < 40 * 10 / 2


def test_a_hopeless_search_ends():
    """c grows to 10¹⁰ and no further."""
    model, x, y = digits(2)
    mask = torch.zeros_like(x)
    mask[:, :, 0, 0] = 1
    attack = CarliniWagner(steps=2, search_steps=40, abort_early=False)
    result = attack(model, x, y, mask=mask)
    assert not result.success.any()
    assert (result.gradient_passes == 2 * 14).all()  # c = 10⁻³ to 10¹⁰


def test_a_smaller_constant_is_found_for_a_smaller_change():
    model, x, y = digits(16)
    attack = CarliniWagner(steps=40, step_size=0.1, initial_constant=10.0, search_steps=1)
    once, searched = attack(model, x, y), replace(attack, search_steps=6)(model, x, y)
    assert once.success.all()
    assert (searched.norm(2) <= once.norm(2)).all()
    assert searched.norm(2).mean() < 0.9 * once.norm(2).mean()


# Losses.


@pytest.mark.parametrize("name", LOSSES)
def test_losses_against_their_definitions(name):
    logits = torch.tensor([[2.0, 0.5, -1.0, 0.0, 1.0], [0.0, 3.0, 1.0, -2.0, 2.5]])
    labels = torch.tensor([0, 4])
    p = logits.softmax(1)
    want = {
        "cross_entropy": ([-p[0, 0].log(), -p[1, 4].log()], [p[0, 0].log(), p[1, 4].log()]),
        "margin": ([1 - 2, 3 - 2.5], [2 - 1, 2.5 - 3]),
        "dlr": (
            [-(2 - 1) / (2 - 0.5), -(2.5 - 3) / (3 - 1)],
            [-(1 - 2) / (2 - (0.5 + 0) / 2), -(3 - 2.5) / (3 - (1 + 0) / 2)],
        ),
    }[name]
    for towards in (False, True):
        got = LOSSES[name](logits, labels, towards)
        torch.testing.assert_close(got, torch.tensor(want[towards]))


def test_a_margin_above_zero_is_success():
    model, x, y = digits(64)
    for asked in ({"y": y}, {"target": (y + 1) % 10}):
        result = FGSM(0.15, loss="margin")(model, x, **asked)
        assert 0 < result.success.sum() < 64
        assert torch.equal(result.losses[-1] > 0, result.success)
        label = asked.get("y", asked.get("target"))
        torch.testing.assert_close(
            result.losses[-1], margin(model(result.adv), label, "target" in asked).detach()
        )


# What it costs.


class Counted(torch.autograd.Function):
    """x, and a note of each backward pass."""

    @staticmethod
    def forward(ctx, x, passes):
        ctx.passes = passes
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        ctx.passes.append("backward")
        return grad, None


COSTS = {  # gradients, and forward passes beside: of one image as a check, and at the end two
    "fgsm": (1, 3),
    "pgd-linf": (5, 4),  # a random start: the images without attack have not been looked at
    "pgd-l1": (5, 4),
    "mi-fgsm": (5, 3),
    "apgd-linf": (12, 4),
    "apgd-l2": (12, 5),
    "adam": (6, 3),
    "sgd-l2": (6, 3),
}


@pytest.mark.parametrize("name", COSTS)
def test_an_attack_costs_what_it_says(name):
    model, x, y = digits(4)
    passes = []

    def watched(images):
        passes.append("forward")
        return model(Counted.apply(images, passes))

    result = ATTACKS[name](watched, x, y)
    gradients, beside = COSTS[name]
    assert passes.count("backward") == gradients
    assert passes.count("forward") == gradients + beside
    assert (result.gradient_passes == gradients).all()


def test_deepfool_costs_a_forward_pass_and_a_gradient_a_class():
    """And another forward pass where images leave, of those that stay."""
    model, x, y = digits(1)
    passes = []

    def watched(images):
        passes.append("forward")
        return model(Counted.apply(images, passes))

    result = DeepFool()(watched, x, y)
    steps = int(result.gradient_passes) // 9
    assert passes.count("backward") == 9 * steps
    assert passes.count("forward") == steps + 1 + 4  # the last finds it fooled


def test_carlini_and_wagner_costs_a_gradient_a_step():
    model, x, y = digits(2)
    passes = []

    def watched(images):
        passes.append("forward")
        return model(Counted.apply(images, passes))

    CarliniWagner(steps=7, search_steps=3, abort_early=False)(watched, x, y)
    assert passes.count("backward") == 21
    assert passes.count("forward") == 21 + 4
