"""Rules that hold for every accuracy under attack on images: ties, chance, gradients, nan."""

import math

import faulty_models as small
import pytest
import torch
from faulty_models import Changed
from torch import nn

from nlp_adv.attacks import APGD, FGSM, PGD, CarliniWagner, DeepFool
from nlp_adv.errors import UserError
from nlp_adv.perturbation import L1Ball, L2Ball, LInfBall
from nlp_adv.robustness.images import PixelNoise, epsilon_sweep, evaluate_images
from nlp_adv.robustness.images.checks import image_checks

NAN, INF = math.nan, math.inf
ATTACKS = [
    FGSM(0.01),
    PGD(LInfBall(0.01), 0.005, 2),
    APGD(L2Ball(0.1), 2),
    DeepFool(steps=2),
    CarliniWagner(steps=2, search_steps=1),
    PixelNoise(LInfBall(0.01), draws=2),
]
RULE = [
    ([2.0, 1.0, 0.0], 0, True),
    ([0.0, 0.0, 0.0], 0, False),
    ([0.0, 0.0, 0.0], 2, False),
    ([1.0, 1.0, 0.0], 1, False),
    ([1.0, 0.0, 0.0], 0, True),
    ([INF, 0.0, 0.0], 0, False),
    ([1.0, 0.0, -INF], 0, False),
    ([1.0, NAN, 0.0], 0, False),
]


def says(row: list[float]):
    return Changed(after=lambda logits: logits.new_tensor(row) + 0 * logits)


@pytest.mark.fault("E10")
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
@pytest.mark.parametrize(("row", "label", "right"), RULE)
def test_one_rule_without_attack_and_under_it(attack, row, label, right):
    x, _ = small.images(3)
    y = torch.full((3,), label)
    model = says(row)
    result = attack(model, x, y)
    assert (~result.success).tolist() == [right] * 3 or (isinstance(attack, DeepFool) and right)
    assert result.attackable.tolist() == [right] * 3
    if torch.tensor(row).isfinite().all():
        assert evaluate_images(model, [(x, y)], [attack]).clean.count == 3 * right
        swept = epsilon_sweep(attack, model, [(x, y)], (0.0, 0.01))
        assert swept.right.tolist() == [right] * 3
        assert not swept.stood[~swept.right].any()


@pytest.mark.fault("E10")
@pytest.mark.parametrize("attack", [FGSM(0.01), PGD(LInfBall(0.01), 0.005, 2)], ids=repr)
def test_a_tie_reaches_no_target(attack):
    x, _ = small.images(3)
    for target in range(3):
        assert not attack(says([0.0, 0.0, 0.0]), x, target=target).success.any()
        assert not attack(says([1.0, 1.0, 1.0]), x, target=target).success.any()


@pytest.mark.fault("S6")
@pytest.mark.parametrize("cut", ["detached", "no_grad"])
def test_a_model_without_gradient_fails_its_check(cut):
    model = Changed(after=lambda logits: logits.detach())
    if cut == "no_grad":
        model = torch.no_grad()(small.trained())
    x, y = small.images(20)
    attack = PGD(LInfBall(0.05), 0.01, 3)
    found = {one.name: one.passed for one in image_checks(model, [(x, y)], attack)}
    assert found["zero gradients"] is False
    assert found["repeatable"] is True
    with pytest.raises(UserError, match="do not depend on the pixels"):
        evaluate_images(model, [(x, y)], [attack])


@pytest.mark.fault("S5")
def test_a_model_that_answers_at_random_fails_its_check():
    x, y = small.images(20)
    model = Changed(after=lambda logits: logits * torch.rand_like(logits))
    found = {
        one.name: one.passed for one in image_checks(model, [(x, y)], PGD(LInfBall(0.05), 0.01, 3))
    }
    assert found["repeatable"] is False


@pytest.mark.fault("D5")
@pytest.mark.parametrize("value", [NAN, INF])
def test_a_model_that_diverged_is_refused(value):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double()
    model[1].weight.data[0, 0] = value
    x, y = small.images(4)
    for attack in ATTACKS:
        with pytest.raises(UserError, match=r"1\.weight holds inf or nan"):
            attack(model, x, y)
    with pytest.raises(UserError, match="diverged"):
        evaluate_images(model, [(x, y)], [FGSM(0.01)])
    with pytest.raises(UserError, match="diverged"):
        epsilon_sweep(FGSM(0.01), model, [(x, y)], (0.01,))
    with pytest.raises(UserError, match="diverged"):
        image_checks(model, [(x, y)], PGD(LInfBall(0.05), 0.01, 2))


@pytest.mark.fault("D5")
def test_answers_that_are_no_numbers_count_as_wrong_and_are_counted():
    x, y = small.images(12)
    half = Changed(after=lambda logits: logits.where(logits[:, :1] > 0, NAN))
    broken = int((small.trained()(x)[:, 0] <= 0).sum())
    found = evaluate_images(half, [(x, y)], [FGSM(1e-6)])
    assert 0 < broken < 12
    assert found.unanswered == broken
    assert found.clean.count <= 12 - broken
    with pytest.raises(UserError, match="every image with inf or nan"):
        evaluate_images(Changed(after=lambda logits: logits * NAN), [(x, y)], [FGSM(1e-6)])


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
@pytest.mark.parametrize("off", [-0.01, -1e-5, 1.01, 1 + 1e-5, NAN])
def test_what_is_no_rounding_is_refused(off):
    x, y = small.images(2)
    x[0, 0, 0, 0] = off
    with pytest.raises(UserError, match=r"not in \[0, 1\]"):
        FGSM(0.01)(small.trained(), x, y)


@pytest.mark.fault("I3")
def test_leaving_adam_early_lengthens_no_delta():
    """The images that leave have found nothing with their c, and would have found nothing."""
    x, y = small.images(30)
    settings = {"steps": 100, "search_steps": 5, "initial_constant": 1.0}
    all_steps = CarliniWagner(**settings, abort_early=False)(small.trained(), x, y)
    early = CarliniWagner(**settings)(small.trained(), x, y)
    assert torch.equal(early.success, all_steps.success)
    assert early.norm(2).mean() <= all_steps.norm(2).mean() * 1.001
    assert early.gradient_passes.sum() <= all_steps.gradient_passes.sum()


def test_noise_is_on_the_sphere_and_not_inside():
    """Where no pixel meets its end; a point drawn in the ball is inside with probability 1."""
    x = torch.full((4, 1, 8, 8), 0.5, dtype=torch.float64)
    x += torch.arange(4).view(4, 1, 1, 1) / 100  # the draws belong to the image
    y = small.trained()(x).argmax(1)
    for ball in (LInfBall(0.001), L2Ball(0.001), L1Ball(0.001)):
        found = PixelNoise(ball, draws=3)(small.trained(), x, y)
        lengths = ball.norm(found.delta).flatten()
        assert torch.allclose(lengths, torch.full_like(lengths, 0.001), rtol=1e-9, atol=0)
