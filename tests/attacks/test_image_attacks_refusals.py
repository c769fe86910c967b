"""What an attack will not do, and the sentence it says instead."""

import pytest
import torch
from small_images import digits, linear
from torch import nn

from nlp_adv.attacks import (
    APGD,
    FGM,
    FGSM,
    PGD,
    CarliniWagner,
    DeepFool,
    OptimizerAttack,
    compare,
)
from nlp_adv.errors import UserError
from nlp_adv.perturbation import L1Ball, L2Ball, LInfBall

X = torch.full((3, 1, 8, 8), 0.5)
Y = torch.tensor([1, 2, 3])

INPUTS = {
    "uint8": ((255 * X).byte(), {"y": Y}, r"uint8 from 127 to 127.*pass x\.float\(\) / 255"),
    "0 to 255": (255 * X, {"y": Y}, r"from 127\.5 to 127\.5, not in \[0, 1\]: divide by 255"),
    "normalised": (X * 4 - 2.5, {"y": Y}, r"-0\.5 to -0\.5.*Pixels\(model, mean, std\)"),
    "nan": (X * torch.nan, {"y": Y}, "nan"),
    "no batch": (X[0, 0, 0], {"y": Y}, r"shape \(B, C, H, W\), not \(8,\)"),
    "no images": (X[:0], {"y": Y[:0]}, "There are no pixels"),
    "no tensor": (X.tolist(), {"y": Y}, "must be a tensor.*not list"),
    "labels above": (X, {"y": Y + 8}, "from 9 to 11, and the model has 10 classes"),
    "labels below": (X, {"y": Y - 2}, "from -1 to 1"),
    "labels of floats": (X, {"y": Y.float()}, "integers, not torch.float32"),
    "too many labels": (X, {"y": torch.zeros(4).long()}, r"shape \(4,\) for 3 examples"),
    "labels one-hot": (X, {"y": torch.eye(10)[Y].long()}, r"shape \(3, 10\)"),
    "target above": (X, {"target": 10}, "from 10 to 10, and the model has 10 classes"),
    "mask": (X, {"y": Y, "mask": torch.ones(3, 1, 7, 8)}, r"mask of shape \(3, 1, 7, 8\)"),
}


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize(
    "attack",
    [FGSM(0.1), PGD(L2Ball(1.0), 0.1, 2), CarliniWagner(steps=2), DeepFool(steps=1)],
    ids=lambda attack: attack.name,
)
def test_inputs_that_do_not_fit_are_refused_with_the_reason(attack, name):
    model = digits(1, torch.float32).model
    x, asked, message = INPUTS[name]
    with pytest.raises(UserError, match=message):
        attack(model, x, **asked)


MODELS = {
    "one logit": (lambda x: x.flatten(1)[:, :1], r"K ≥ 2, and the model returned \(., 1\)"),
    "a tuple": (lambda x: (x.flatten(1),), "returned tuple"),
    "a loss": (lambda x: x.mean(), r"returned \(\)"),
    "other rows": (lambda x: x.flatten(1)[:2], "2 answers to 3 examples"),
    "no gradients": (
        lambda x: x.detach().flatten(1) - torch.arange(64),
        "do not depend on the input",
    ),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "attack",
    [FGSM(0.1), APGD(L2Ball(1.0)), DeepFool(), CarliniWagner(), OptimizerAttack(torch.optim.SGD)],
    ids=lambda attack: attack.name,
)
def test_models_that_are_no_classifiers_are_refused(attack, name):
    model, message = MODELS[name]
    with pytest.raises(UserError, match=message):
        attack(model, X, torch.arange(3))


def test_deepfool_has_no_target():
    model, x, _ = linear((4,))
    with pytest.raises(UserError, match="nearest class, whichever it is; with a target use"):
        DeepFool()(model, x, target=1)


def test_radii_must_be_as_many_as_the_images():
    model, x, y = linear((4,))
    with pytest.raises(UserError, match="There are 2 radii for 5 examples"):
        FGSM(torch.tensor([0.1, 0.2]))(model, x, y)


def test_nothing_is_uniform_in_an_endless_ball():
    model, x, y = linear((4,))
    with pytest.raises(UserError, match="random start needs a finite radius"):
        PGD(L2Ball(torch.inf), 0.1, 2)(model, x, y)
    adv = PGD(L2Ball(torch.inf), 0.1, 2, random_start=False)(model, x, y).adv
    assert torch.isfinite(adv).all()


def test_dlr_needs_three_classes_and_four_with_a_target():
    two, three = linear((4,), classes=2), linear((4,), classes=3)
    with pytest.raises(UserError, match='3 classes and the model has 2; use loss="margin"'):
        APGD(L2Ball(0.1), 2, "dlr")(*two)
    assert torch.isfinite(APGD(L2Ball(0.1), 2, "dlr")(*three).adv).all()
    with pytest.raises(UserError, match="4 classes and the model has 3"):
        APGD(L2Ball(0.1), 2, "dlr")(three.model, three.x, target=1)


def test_nothing_is_compared_with_nothing():
    with pytest.raises(UserError, match="nothing to compare"):
        compare([], digits(1).model, X)


SGD = torch.optim.SGD
FIELDS = {
    "a radius below 0": (lambda: FGM(LInfBall(torch.tensor([0.1, -0.1]))), "≥ 0"),
    "a radius of nan": (lambda: FGM(L2Ball(torch.tensor(torch.nan))), "≥ 0"),
    "no loss": (lambda: FGSM(0.1, loss="mse"), "cross_entropy, margin, dlr, not 'mse'"),
    "pgd": (lambda: PGD(L2Ball(1.0), 0.1, -1), "steps and step_size"),
    "momentum": (lambda: PGD(L2Ball(1.0), 0.1, 1, momentum=-1.0), "momentum"),
    "apgd in l1": (lambda: APGD(L1Ball(1.0)), "in an L1 ball use PGD"),
    "apgd without end": (lambda: APGD(L2Ball(torch.inf)), "needs a finite ε"),
    "rho": (lambda: APGD(L2Ball(1.0), rho=1.5), "rho between 0 and 1"),
    "norm": (lambda: DeepFool("l1"), '"l2" or "linf", not \'l1\''),
    "classes": (lambda: DeepFool(classes=1), "classes ≥ 2"),
    "search": (lambda: CarliniWagner(search_steps=0), "search_steps must be ≥ 1"),
    "constant": (lambda: CarliniWagner(initial_constant=0.0), "initial_constant > 0"),
    "confidence": (lambda: CarliniWagner(confidence=-1.0), "confidence must be ≥ 0"),
    "lbfgs": (lambda: OptimizerAttack(torch.optim.LBFGS), "LBFGS does not step number by number"),
    "lr twice": (lambda: OptimizerAttack(SGD, options={"lr": 1.0}), "argument of its own"),
    "maximize": (lambda: OptimizerAttack(SGD, options={"maximize": True}), "turns the sign"),
    "lr": (lambda: OptimizerAttack(SGD, lr=-1.0), "lr must be ≥ 0"),
}


@pytest.mark.parametrize("name", FIELDS)
def test_settings_without_meaning_are_refused(name):
    build, message = FIELDS[name]
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (FGSM(8), r"in pixels of \[0, 1\].*write 8/255"),
        (FGM(L2Ball(1.0, per="token")), "one norm per example"),
        (FGM(L2Ball(1.0), unit="relative"), 'in pixels, unit="absolute"'),
    ],
    ids=["grey levels", "per token", "relative"],
)
def test_what_is_no_radius_on_pixels_is_refused_on_pixels(attack, message):
    """On embeddings it is one."""
    with pytest.raises(UserError, match=message):
        attack(digits(1, torch.float32).model, X, Y)


def test_a_model_elsewhere_is_refused():
    model = nn.Linear(64, 10, device="meta")
    with pytest.raises(UserError, match="images are on cpu and the model is on meta"):
        FGSM(0.1)(model, X.flatten(1), Y)
