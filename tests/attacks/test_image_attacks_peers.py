"""Against torchattacks and foolbox, where they are installed and where they are right.

Their L∞ images can lie a last bit outside the ball and ours do not, so float32 is compared within
one such bit. Random starts are never compared.
"""

import pytest
import torch
from small_images import digits
from torch import Tensor

from nlp_adv.attacks import FGM, FGSM, PGD, CarliniWagner, DeepFool
from nlp_adv.perturbation import L2Ball, LInfBall

BIT = {torch.float32: 6e-8, torch.float64: 2e-16}  # of a pixel below 1
SUMS = {torch.float32: 1e-6, torch.float64: 1e-12}  # norms, summed in another order

each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


@pytest.fixture
def peers():
    """torchattacks."""
    return pytest.importorskip("torchattacks")


def foolbox_images(name: str, data, epsilon: float | None, **options) -> Tensor:
    """What foolbox's attack of that name returns, clipped to the ball."""
    foolbox = pytest.importorskip("foolbox")
    model = foolbox.PyTorchModel(data.model, bounds=(0, 1))
    attack = getattr(foolbox.attacks, name)(**options)
    return attack(model, data.x, data.y, epsilons=epsilon)[1]


@each_dtype
def test_fgsm_is_that_of_torchattacks(peers, dtype):
    model, x, y = digits(64, dtype)
    want = peers.FGSM(model, eps=0.1)(x, y)
    torch.testing.assert_close(FGSM(0.1)(model, x, y).adv, want, rtol=0, atol=BIT[dtype])


@each_dtype
def test_fgsm_is_that_of_foolbox(dtype):
    data = digits(64, dtype)
    want = foolbox_images("LinfFastGradientAttack", data, 0.1)
    torch.testing.assert_close(FGSM(0.1)(*data).adv, want, rtol=0, atol=BIT[dtype])


@each_dtype
def test_fgm_is_that_of_foolbox(dtype):
    data = digits(64, dtype)
    want = foolbox_images("L2FastGradientAttack", data, 0.75)
    torch.testing.assert_close(FGM(L2Ball(0.75))(*data).adv, want, rtol=0, atol=SUMS[dtype])


@each_dtype
def test_pgd_in_linf_is_that_of_torchattacks(peers, dtype):
    model, x, y = digits(64, dtype)
    want = peers.PGD(model, eps=0.1, alpha=0.02, steps=40, random_start=False)(x, y)
    result = PGD(LInfBall(0.1), 0.02, 40, random_start=False)(model, x, y)
    torch.testing.assert_close(result.adv, want, rtol=0, atol=BIT[dtype])


@each_dtype
def test_pgd_in_linf_is_that_of_foolbox(dtype):
    data, options = digits(64, dtype), {"abs_stepsize": 0.02, "steps": 40, "random_start": False}
    want = foolbox_images("LinfPGD", data, 0.1, **options)
    result = PGD(LInfBall(0.1), 0.02, 40, random_start=False)(*data)
    torch.testing.assert_close(result.adv, want, rtol=0, atol=BIT[dtype])


@each_dtype
def test_mi_fgsm_is_that_of_torchattacks(peers, dtype):
    model, x, y = digits(64, dtype)
    want = peers.MIFGSM(model, eps=0.1, alpha=0.02, steps=10, decay=1.0)(x, y)
    result = PGD(LInfBall(0.1), 0.02, 10, random_start=False, momentum=1.0)(model, x, y)
    torch.testing.assert_close(result.adv, want, rtol=0, atol=BIT[dtype])


@each_dtype
def test_pgd_in_l2_is_that_of_foolbox(dtype):
    data, options = digits(64, dtype), {"abs_stepsize": 0.15, "steps": 10, "random_start": False}
    want = foolbox_images("L2PGD", data, 0.75, **options)
    result = PGD(L2Ball(0.75), 0.15, 10, random_start=False)(*data)
    torch.testing.assert_close(result.adv, want, rtol=0, atol=SUMS[dtype])


def test_pgd_in_l2_is_that_of_torchattacks_but_for_confident_images(peers):
    """There 1e-10 is added to ‖∇‖ of a loss that is averaged over the batch."""
    model, x, y = digits(64)
    want = peers.PGDL2(model, eps=0.75, alpha=0.15, steps=10, random_start=False)(x, y)
    got = PGD(L2Ball(0.75), 0.15, 10, random_start=False)(model, x, y).adv
    rows = (got - want).abs().flatten(1).amax(1)
    assert (rows < 1e-4).double().mean() > 0.9


@pytest.mark.parametrize("norm", ["l2", "linf"])
@each_dtype
def test_deepfool_is_that_of_foolbox(norm, dtype):
    """In float64 as near as the 1e-8 lets it be that is added to ‖w‖ there."""
    data = digits(64, dtype)
    name = {"l2": "L2DeepFoolAttack", "linf": "LinfDeepFoolAttack"}[norm]
    result = DeepFool(norm)(*data)
    assert result.success.all()
    atol = max(SUMS[dtype], 1e-8)
    torch.testing.assert_close(result.adv, foolbox_images(name, data, None), rtol=0, atol=atol)


def test_carlini_and_wagner_finds_what_foolbox_finds():
    data = digits(16, torch.float32)
    options = {"binary_search_steps": 5, "steps": 60, "stepsize": 0.1, "initial_const": 0.1}
    theirs = foolbox_images("L2CarliniWagnerAttack", data, None, **options)
    ours = CarliniWagner(steps=60, search_steps=5, step_size=0.1, initial_constant=0.1)(*data)
    assert ours.success.all()
    median = (theirs - data.x).flatten(1).norm(dim=1).median()
    assert ours.norm(2).median() <= 1.05 * median
