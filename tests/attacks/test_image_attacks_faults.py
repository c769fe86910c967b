"""Faults that other implementations have or had, each as a test of ours."""

from dataclasses import replace
from itertools import combinations

import pytest
import torch
from small_images import digits
from torch import nn

from nlp_adv.attacks import APGD, FGSM, PGD, CarliniWagner, DeepFool, OptimizerAttack
from nlp_adv.attacks.losses import margin
from nlp_adv.perturbation import LInfBall


@pytest.mark.slow
def test_pixels_at_0_and_1_move_under_carlini_and_wagner():
    """w = atanh(±1) is infinite, and a pixel that begins there would never move."""
    model, x, y = digits(32, torch.float32)
    edge = (x == 0) | (x == 1)
    assert edge.float().mean() > 0.4
    attack = CarliniWagner(steps=60, search_steps=3, initial_constant=1.0, step_size=0.1)
    result, inside = attack(model, x, y), attack(model, x, y, mask=~edge)
    assert result.success.all()
    assert (result.delta.abs() > 1e-4)[edge].float().mean() > 0.2
    assert result.norm(2).mean() < inside.norm(2).mean()


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_deepfool_ends_past_the_boundary(norm):
    """Clamping a step to the box takes some of it back; the overshoot is of the whole sum."""
    model, x, y = digits(128, torch.float32)
    result = DeepFool(norm)(model, x, y)
    assert result.success.all()
    with torch.no_grad():
        # How far past depends on the logits, and on the processor's last bits.
        assert margin(model(result.adv), y).min() > 0


class Scaled(nn.Module):
    """Equal answers, and probabilities that are 1 in float32."""

    def __init__(self, model: nn.Module, factor: float) -> None:
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, x):
        return self.factor * self.model(x)


@pytest.mark.parametrize("loss", ["margin", "dlr"])
@pytest.mark.parametrize("attack", [PGD(LInfBall(0.1), 0.02, 10, loss="margin"), FGSM(0.1)])
def test_the_margin_does_not_see_how_logits_are_scaled(attack, loss):
    model, x, y = digits(64, torch.float32)
    attack = replace(attack, loss=loss)
    plain = attack(model, x, y)
    scaled = attack(Scaled(model, 50.0), x, y)
    same = torch.isclose(plain.adv, scaled.adv, atol=1e-6).flatten(1).all(1)
    assert same.float().mean() > 0.95  # a gradient of rounding alone may change its sign
    assert (plain.success == scaled.success)[same].all()
    assert not scaled.zero_gradients.any()


def test_saturated_cross_entropy_is_reported():
    model, x, y = digits(64, torch.float32)
    attack = PGD(LInfBall(0.1), 0.02, 10, random_start=False)
    plain, scaled = attack(model, x, y), attack(Scaled(model, 50.0), x, y)
    assert not plain.zero_gradients.any()
    assert scaled.zero_gradients.float().mean() > 0.5
    assert scaled.success.sum() < plain.success.sum()
    assert scaled.summary()["zero_gradients"] == scaled.zero_gradients.double().mean()
    assert torch.equal(scaled.adv[scaled.zero_gradients], x[scaled.zero_gradients])


OPTIMIZERS = ["SGD", "RMSprop", "Adam", "Adagrad", "Adamax", "NAdam"]


def test_optimizers_differ_from_each_other():
    """A class that forgets its own optimizer is the plain attack under another name."""
    model, x, y = digits(8)
    images = {
        name: OptimizerAttack(getattr(torch.optim, name), 0.01, 10)(model, x, y).adv
        for name in OPTIMIZERS
    }
    for one, other in combinations(OPTIMIZERS, 2):
        differs = (images[one] - images[other]).abs().flatten(1).amax(1) > 1e-4
        assert differs.all(), (one, other)


def test_first_steps_of_equal_lr_are_not_equal():
    """SGD's is lr·|∇|, Adam's lr, RMSprop's 10·lr: its mean square begins at a hundredth of g²."""
    model, x, y = digits(16)
    optimizers = (torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop)
    sgd, adam, rmsprop = (
        OptimizerAttack(optimizer, 0.01, 2, box=False)(model, x, y).first_steps
        for optimizer in optimizers
    )
    leaf = x.clone().requires_grad_()
    nn.functional.cross_entropy(model(leaf), y, reduction="sum").backward()
    slope = leaf.grad.flatten(1).abs().amax(1)
    torch.testing.assert_close(sgd, 0.01 * slope, rtol=1e-9, atol=0)
    torch.testing.assert_close(adam, torch.full_like(adam, 0.01), rtol=1e-3, atol=0)
    torch.testing.assert_close(rmsprop, torch.full_like(adam, 0.1), rtol=1e-2, atol=0)


def test_an_image_that_was_fooled_once_counts_under_apgd():
    """The point of the largest loss need not be one that fools."""
    model, x, y = digits(200, torch.float32)
    fooled = torch.zeros(200, dtype=torch.bool)

    def watch(module, args, output):
        if len(output) == 200:
            fooled.logical_or_(output.argmax(1) != y)

    handle = model.register_forward_hook(watch)
    result = APGD(LInfBall(0.09), 40)(model, x, y)
    handle.remove()
    rounded = model(result.quantized).argmax(1) != y  # looked at as well
    assert torch.equal(result.success | rounded, fooled)
    assert 0 < fooled.sum() < 200


def test_the_seed_of_the_caller_is_kept_by_apgd():
    model, x, y = digits(2)
    torch.manual_seed(0)
    first = torch.rand(1)
    APGD(LInfBall(0.1), 3, random_start=True)(model, x, y)
    assert torch.rand(1) != first


@pytest.mark.parametrize("attack", [FGSM(0.05), APGD(LInfBall(0.05), 4), DeepFool()], ids=repr)
def test_logits_that_are_no_numbers_are_no_right_answer_and_no_target(attack):
    model, x, y = digits(4, torch.float32)
    x[2, 0, -1, -1] = 0.123
    mask = torch.ones_like(x)
    mask[:, :, -1, -1] = 0

    def broken(images):
        bad = images[:, 0, -1, -1] == images.new_tensor(0.123)
        return model(images).masked_fill(bad[:, None], torch.nan)

    result = attack(broken, x, y, mask=mask)
    assert result.success[2]
    assert torch.equal(result.adv[2], x[2])
    assert result.answers[2] == result.clean_answers[2] == -1
    if not isinstance(attack, DeepFool):
        assert not attack(broken, x, target=0, mask=mask).success[2]  # what argmax makes of nan


def test_no_gradient_of_a_parameter_is_computed():
    """It would be thrown away, and what it needs would be kept in memory."""
    model, x, y = digits(2)
    model.train()
    seen = []
    model[4].register_forward_hook(
        lambda module, args, output: seen.extend(p.requires_grad for p in model.parameters())
    )
    PGD(LInfBall(0.1), 0.03, 3)(model, x, y)
    assert seen
    assert not any(seen)
    assert all(p.requires_grad for p in model.parameters())
