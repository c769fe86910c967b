"""Pixels that rounding took out of [0, 1], and a C&W that does not leave too early."""

import math

import faulty_models as small
import pytest
import torch
from torch import nn

from nlp_adv.attacks import APGD, FGSM, PGD, CarliniWagner, DeepFool, Noise
from nlp_adv.errors import UserError
from nlp_adv.perturbation import L2Ball, LInfBall

ATTACKS = [
    FGSM(0.01),
    PGD(LInfBall(0.01), 0.005, 2),
    APGD(L2Ball(0.1), 2),
    DeepFool(steps=2),
    CarliniWagner(steps=2, search_steps=1),
    Noise(LInfBall(0.01), draws=2),
]


@pytest.mark.fault("I1")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("off", [-2.98e-8, -9e-7, 1 + 1.2e-7, 1 + 9e-7])
def test_rounding_of_pixels_is_brought_back(off, dtype):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).to(dtype)
    x, y = small.images(3)
    x = x.to(dtype)
    x[0, 0, 0, 0] = off
    for attack in ATTACKS:
        result = attack(model, x, y)
        assert result.x[0, 0, 0, 0] == round(off)
        assert result.adv.amin() >= 0
        assert result.adv.amax() <= 1
    assert x[0, 0, 0, 0] == torch.tensor(off, dtype=dtype)  # the caller's own is left alone


@pytest.mark.fault("I1")
@pytest.mark.parametrize("std", [(0.247, 0.2435, 0.2616), (0.229, 0.224, 0.225), (0.5, 0.5, 0.5)])
def test_pixels_that_come_back_from_a_normalisation(std):
    mean = torch.tensor([0.4914, 0.4822, 0.4465]).view(3, 1, 1)
    std = torch.tensor(std).view(3, 1, 1)
    levels = torch.arange(256).div(255).repeat(3, 1, 1).view(1, 3, 16, 16)
    back = (levels - mean) / std * std + mean
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 3))
    assert FGSM(8 / 255)(model, back, 1).x.min() >= 0


@pytest.mark.fault("I1")
@pytest.mark.parametrize("off", [-0.01, -1e-5, 1.01, 1 + 1e-5, math.nan])
def test_what_is_no_rounding_is_refused(off):
    x, y = small.images(2)
    x[0, 0, 0, 0] = off
    with pytest.raises(UserError, match=r"not in \[0, 1\]"):
        FGSM(0.01)(small.trained(), x, y)


@pytest.mark.fault("I3")
def test_leaving_adam_early_lengthens_no_delta():
    """The images that leave have found nothing with their c, and would have found nothing."""
    x, y = small.images(12)
    settings = {"steps": 80, "search_steps": 3, "initial_constant": 1.0}
    all_steps = CarliniWagner(**settings, abort_early=False)(small.trained(), x, y)
    early = CarliniWagner(**settings)(small.trained(), x, y)
    assert torch.equal(early.success, all_steps.success)
    assert early.norm(2).mean() <= all_steps.norm(2).mean() * 1.001
    assert early.gradient_passes.sum() <= all_steps.gradient_passes.sum()
