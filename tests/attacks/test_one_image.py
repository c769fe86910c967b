"""One image that is not in a batch: said in a sentence, and taken where it is in one."""

import pytest
import torch
from torch import nn

from nlp_adv.attacks import (
    APGD,
    FGM,
    FGSM,
    PGD,
    CarliniWagner,
    DeepFool,
    Noise,
    compare,
)
from nlp_adv.data.image_demo import small_resnet
from nlp_adv.errors import UserError
from nlp_adv.perturbation import LInfBall
from nlp_adv.robustness import epsilon_sweep, evaluate_images, image_evaluator
from nlp_adv.sites.normalisation import Pixels
from nlp_adv.sites.objective import image_objective

ATTACKS = [
    FGSM(0.1),
    FGM(LInfBall(0.1)),
    PGD(LInfBall(0.1), step_size=0.1, steps=1),
    APGD(LInfBall(0.1), 2),
    DeepFool(),
    CarliniWagner(2, 0.1, 1),
    Noise(LInfBall(0.1)),
]


def flat(channels: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * 64, 4))


def pooled(channels: int) -> nn.Module:
    pool = nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(nn.Conv2d(channels, 4, 3), pool, nn.Flatten(), nn.Linear(4, 4))


def resnet(channels: int) -> nn.Module:
    return Pixels(small_resnet(4, channels, 0).eval(), 0.5, 0.5)


@pytest.fixture(
    params=[(flat, 3), (pooled, 3), (pooled, 1), (resnet, 3), (resnet, 1)],
    ids=lambda made: f"{made[0].__name__}-{made[1]}",
)
def subject(request) -> tuple[nn.Module, torch.Tensor]:
    """A model and one image for it."""
    make, channels = request.param
    torch.manual_seed(0)
    return make(channels), torch.rand(channels, 8, 8)


def the_way_out(shape: tuple[int, ...]):
    return pytest.raises(UserError, match=rf"x\[None\].*unsqueeze\(0\).*\(1, {shape[0]}, 8, 8\)")


@pytest.mark.fault("I2")
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: type(attack).__name__)
def test_an_attack_says_what_to_do(attack, subject):
    model, x = subject
    for label in (torch.tensor(1), torch.tensor([1]), 1, None):
        with the_way_out(x.shape):
            attack(model, x, label)
    assert len(attack(model, x[None], 1).adv) == 1


@pytest.mark.fault("I2")
def test_so_do_comparisons_curves_and_evaluations(subject):
    model, x = subject
    with the_way_out(x.shape):
        compare([FGSM(0.1)], model, x, 1)
    with the_way_out(x.shape):
        list(epsilon_sweep(FGSM(0.1), model, [(x, torch.tensor([1]))], [0.1]))
    for label in (torch.tensor(1), 1):
        with pytest.raises(UserError, match="unsqueeze"):
            evaluate_images(model, [(x, label)], {"fgsm": FGSM(0.1)})
        with pytest.raises(UserError, match="unsqueeze"):
            image_evaluator([(x, label)], FGSM(0.1), lambda one: one)(model)


@pytest.mark.fault("I2")
def test_so_does_the_objective_of_training():
    batch = {"pixel_values": torch.rand(3, 8, 8), "labels": torch.tensor(1)}
    with pytest.raises(UserError, match="unsqueeze"):
        image_objective(small_resnet(4, 3, 0), batch, mean=torch.zeros(1), std=torch.ones(1))


@pytest.mark.fault("I2")
def test_another_error_of_the_model_stays_what_it_is(subject):
    """Images of one channel too many are no single image."""
    model, x = subject
    with pytest.raises((ValueError, RuntimeError)) as caught:
        FGSM(0.1)(model, torch.rand(2, len(x) + 1, 8, 8), torch.tensor([0, 1]))
    assert "unsqueeze" not in str(caught.value)
