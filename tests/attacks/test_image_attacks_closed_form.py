"""On a linear classifier the outcome is known: the worst δ lowers the margin by ε‖w‖_dual.

Every pixel is far enough from 0 and 1 for the box not to matter, but where it is said.
"""

import math
from dataclasses import replace

import pytest
import torch
from small_images import Linear, linear

from nlp_adv.attacks import (
    APGD,
    FGM,
    FGSM,
    PGD,
    CarliniWagner,
    DeepFool,
    OptimizerAttack,
)
from nlp_adv.attacks.losses import margin
from nlp_adv.perturbation import L1Ball, L2Ball, LInfBall

DUAL = {LInfBall: 1, L2Ball: 2, L1Ball: math.inf}
SGD = torch.optim.SGD


def two_classes(shape):
    model, x, y = linear(shape, classes=2)
    with torch.no_grad():
        return model, x, y, model.weight[0] - model.weight[1]


ATTACKS = {
    "fgsm": FGSM(0.05),
    "fgm-linf": FGM(LInfBall(0.05)),
    "fgm-l2": FGM(L2Ball(0.2)),
    "fgm-l1": FGM(L1Ball(0.3)),
    "pgd-linf": PGD(LInfBall(0.05), 0.01, 12),
    "pgd-l2": PGD(L2Ball(0.2), 0.1, 30),
    "pgd-l1": PGD(L1Ball(0.3), 0.1, 30),
    "mi-fgsm": PGD(LInfBall(0.05), 0.01, 5, random_start=False, momentum=1.0),
    "apgd-linf": APGD(LInfBall(0.05), 10, random_start=True),
    "apgd-l2": APGD(L2Ball(0.2), 30, "margin", random_start=True),
    "sgd-l2": OptimizerAttack(SGD, 1.0, 60, ball=L2Ball(0.2), normalize=True),
    "adam-linf": OptimizerAttack(torch.optim.Adam, 0.02, 20, ball=LInfBall(0.05)),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_the_margin_falls_by_epsilon_times_the_dual_norm(name):
    """Of nine pixels, so that the sparse L1 step is the steepest one, of a single pixel."""
    model, x, y, w = two_classes((1, 3, 3))
    attack = ATTACKS[name]
    ball = LInfBall(attack.epsilon) if isinstance(attack, FGSM) else attack.ball
    result = attack(model, x, y)
    fall = margin(model(result.adv), y) - margin(model(x), y)
    best = ball.epsilon * torch.linalg.vector_norm(w, DUAL[type(ball)])
    torch.testing.assert_close(fall, best.expand(5), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "attack", [FGM(L1Ball(0.3)), PGD(L1Ball(0.3), 0.3, 1, random_start=False)], ids=repr
)
def test_a_pixel_at_its_end_is_passed_over_in_l1(attack):
    """The first pixel has the largest |w|, and is 0 already."""
    model = Linear(torch.tensor([[3.0, -2.0, 1.0], [-3.0, 2.0, -1.0]], dtype=torch.float64))
    x = torch.tensor([[0.0, 0.5, 0.5], [0.4, 0.5, 0.5]], dtype=torch.float64)
    want = torch.tensor([[0.0, 0.8, 0.5], [0.1, 0.5, 0.5]], dtype=torch.float64)
    got = attack(model, x, torch.tensor([0, 0])).adv
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


NORMS = {"l2": (2, 2), "linf": (math.inf, 1)}


@pytest.mark.parametrize("norm", NORMS)
def test_deepfool_ends_where_the_boundary_is(norm):
    """At |margin|/‖w‖_q for the nearest class, and past it by the overshoot and 1e-4."""
    model, x, y = linear((2, 4, 4), classes=5)
    result = DeepFool(norm)(model, x, y)
    order, dual = NORMS[norm]
    logits, weight, distances = model(x).detach(), model.weight.detach(), []
    for row, label in enumerate(y.tolist()):
        ways = []
        for k in set(range(5)) - {label}:
            length = torch.linalg.vector_norm(weight[k] - weight[label], dual)
            ways.append(float((logits[row, label] - logits[row, k]) / length))
        distances.append(min(ways))
    want = 1.02 * (torch.tensor(distances, dtype=torch.float64) + 1e-4)
    torch.testing.assert_close(result.norm(order), want, rtol=1e-9, atol=0)
    assert result.success.all()
    assert (result.gradient_passes == 4).all()  # one step, a gradient for each other class


# Adam's first step moves every pixel by half its step size; nearer images end where it put them.
CW = CarliniWagner(
    steps=120, search_steps=9, step_size=0.004, initial_constant=0.1, abort_early=False
)


@pytest.mark.slow
def test_carlini_and_wagner_ends_where_the_boundary_is():
    model, x, y, w = two_classes((1, 6, 6))
    distance = -margin(model(x), y).detach() / w.norm()
    x, y, distance = (tensor[distance > 0.03] for tensor in (x, y, distance))
    assert len(x) == 3
    result = CW(model, x, y)
    assert result.success.all()
    assert (result.norm(2) >= distance * (1 - 1e-9)).all()
    assert (result.norm(2) <= distance * 1.01).all()


@pytest.mark.slow
def test_a_confidence_is_kept():
    model, x, y, w = two_classes((1, 6, 6))
    result = replace(CW, confidence=0.1)(model, x, y)
    distance = (0.1 - margin(model(x), y)) / w.norm()
    assert (margin(model(result.adv), y) >= 0.1).all()
    assert (result.norm(2) <= distance * 1.01 + 1e-4).all()
