"""Every attack against the loop its paper describes, one image at a time, in float64.

Rounding differs by the order of sums; 1e-9 is far below what a different step would change.
"""

from functools import partial

import naive_attacks as naive
import pytest
import torch
from small_images import digits
from torch import nn

from nlp_adv.attacks import (
    APGD,
    FGM,
    FGSM,
    PGD,
    CarliniWagner,
    DeepFool,
    OptimizerAttack,
)
from nlp_adv.perturbation import L1Ball, L2Ball, LInfBall

CE = nn.functional.cross_entropy
adam, sgd, rmsprop, adagrad = (
    getattr(torch.optim, name) for name in ("Adam", "SGD", "RMSprop", "Adagrad")
)
still = partial(PGD, random_start=False)
momentum = {"momentum": 0.9, "nesterov": True}

PAIRS = {
    "fgsm": (FGSM(0.1), partial(naive.fgsm, epsilon=0.1)),
    "fgm-l2": (FGM(L2Ball(0.75)), partial(naive.fgm, epsilon=0.75)),
    "pgd-linf": (still(LInfBall(0.1), 0.02, 20), partial(naive.pgd_linf, epsilon=0.1)),
    "pgd-l2": (still(L2Ball(0.75), 0.15, 20), partial(naive.pgd_l2, epsilon=0.75)),
    "pgd-l1": (still(L1Ball(2.0), 0.4, 20), partial(naive.pgd_l1, epsilon=2.0)),
    "mi-fgsm": (
        still(LInfBall(0.1), 0.02, 20, momentum=0.8),
        partial(naive.mi_fgsm, epsilon=0.1, mu=0.8),
    ),
    "apgd-linf": (
        APGD(LInfBall(0.1), 40),
        partial(naive.apgd, epsilon=0.1, steps=40, norm="linf", loss=CE),
    ),
    "apgd-linf, margin": (
        APGD(LInfBall(0.05), 33, "margin", rho=0.9),
        partial(naive.apgd, epsilon=0.05, steps=33, norm="linf", loss=naive.margin, rho=0.9),
    ),
    "apgd-linf, ρ = 0": (  # only what has not changed since the last checkpoint counts
        APGD(LInfBall(0.3), 60, "margin", rho=0.0),
        partial(naive.apgd, epsilon=0.3, steps=60, norm="linf", loss=naive.margin, rho=0.0),
    ),
    "apgd-l2, dlr": (
        APGD(L2Ball(0.5), 40, "dlr"),
        partial(naive.apgd, epsilon=0.5, steps=40, norm="l2", loss=naive.dlr),
    ),
    "deepfool-l2": (
        DeepFool(steps=10, classes=4),
        partial(naive.deepfool, norm="l2", steps=10, overshoot=0.02, classes=4),
    ),
    "deepfool-linf": (
        DeepFool("linf", overshoot=0.1),
        partial(naive.deepfool, norm="linf", steps=50, overshoot=0.1, classes=10),
    ),
    "adam": (
        OptimizerAttack(adam, 0.02, 15),
        partial(naive.optimizer_attack, optimizer=adam, lr=0.02, steps=15),
    ),
    "sgd-l2, nesterov": (
        OptimizerAttack(sgd, 0.5, 15, ball=L2Ball(0.4), options=momentum),
        partial(naive.optimizer_attack, optimizer=sgd, lr=0.5, steps=15, epsilon=0.4, **momentum),
    ),
    "rmsprop": (
        OptimizerAttack(rmsprop, 0.01, 15),
        partial(naive.optimizer_attack, optimizer=rmsprop, lr=0.01, steps=15),
    ),
    "adagrad": (
        OptimizerAttack(adagrad, 0.1, 15),
        partial(naive.optimizer_attack, optimizer=adagrad, lr=0.1, steps=15),
    ),
}


def one_by_one(attack, model, x, y):
    return torch.cat([attack(model, x[i : i + 1], y[i : i + 1]) for i in range(len(x))])


@pytest.mark.parametrize("name", PAIRS)
def test_an_attack_is_its_papers_loop(name):
    model, x, y = digits(8)
    attack, loop = PAIRS[name]
    if isinstance(attack, PGD):
        loop = partial(loop, step_size=attack.step_size, steps=attack.steps)
    want = one_by_one(loop, model, x, y)
    assert (want - x).abs().flatten(1).amax(1).min() > 1e-3  # the loop moved every image
    torch.testing.assert_close(attack(model, x, y).adv, want, rtol=0, atol=1e-9)


CW = {"steps": 40, "step_size": 0.1, "search_steps": 5, "initial_constant": 0.1}


@pytest.mark.parametrize(("target", "confidence"), [(False, 0.0), (True, 0.7)])
def test_carlini_and_wagner_is_its_papers_loop(target, confidence):
    model, x, y = digits(6)
    attack = CarliniWagner(**CW, confidence=confidence)
    label = (y + 3) % 10 if target else y
    loop = partial(naive.carlini_wagner, **CW, confidence=confidence, target=target)
    want = one_by_one(loop, model, x, label)
    result = attack(model, x, target=label) if target else attack(model, x, label)
    assert result.success.sum() >= 4
    torch.testing.assert_close(result.adv, want, rtol=0, atol=1e-9)


@pytest.mark.slow
def test_an_image_whose_first_steps_overshoot_is_not_given_up():
    """On larger images Adam's first steps lead above the loss of x, and back below it later."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 30 * 30, 10)]
        model = nn.Sequential(*layers).eval()
        x = 0.2 + 0.6 * torch.rand(1, 3, 32, 32)
    y = model(x).argmax(1)
    whole = CarliniWagner(search_steps=4, abort_early=False)(model, x, y)
    result = CarliniWagner(search_steps=4)(model, x, y)
    assert whole.success.all()
    assert (result.norm(2) <= 1.05 * whole.norm(2)).all()
    # Counting x, the image would be given up after a tenth of the steps for each c.
    assert (result.gradient_passes > 4 * 21).all()


@pytest.mark.slow
def test_images_leave_carlini_and_wagner_one_by_one():
    model, x, y = digits(16)
    result = CarliniWagner(**CW)(model, x, y)
    assert len(result.gradient_passes.unique()) > 3
    longest = CarliniWagner(**CW, abort_early=False)(model, x, y)
    assert (longest.gradient_passes == CW["steps"] * CW["search_steps"]).all()
    assert (longest.norm(2) <= result.norm(2) * 1.05).all()
