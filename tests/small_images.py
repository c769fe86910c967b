"""Digits of 8 × 8 pixels, a small network that reads them, and every attack in a short form."""

import copy
import functools
from typing import NamedTuple

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from nlp_adv.attacks import (
    APGD,
    FGM,
    FGSM,
    PGD,
    Attack,
    CarliniWagner,
    DeepFool,
    OptimizerAttack,
)
from nlp_adv.perturbation import L1Ball, L2Ball, LInfBall


class Digits(NamedTuple):
    """A network in eval mode, and images that it reads right."""

    model: nn.Module
    x: Tensor
    y: Tensor


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 10),
    )


@functools.cache
def _trained() -> tuple[nn.Module, Tensor, Tensor]:
    data = load_digits()
    x = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    y = torch.tensor(data.target)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        order = torch.randperm(len(x))
        x, y = x[order], y[order]
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
        for _ in range(6):
            for rows in torch.randperm(1200).split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
                optimizer.step()
    model.zero_grad()
    model.eval()
    with torch.no_grad():
        right = model(x[1200:]).argmax(1) == y[1200:]
    assert right.float().mean() > 0.95
    return model, x[1200:][right], y[1200:][right]


def digits(count: int, dtype: torch.dtype = torch.float64) -> Digits:
    """The network, a fresh copy, and so many images."""
    model, x, y = _trained()
    return Digits(copy.deepcopy(model).to(dtype), x[:count].to(dtype, copy=True), y[:count].clone())


class Linear(nn.Module):
    """z = W·x + b on pixels of any shape."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros_like(weight[:, 0]) if bias is None else bias)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T + self.bias


def linear(shape: tuple[int, ...], classes: int = 3, seed: int = 0) -> Digits:
    """A linear model and five images of that shape, away from 0 and 1, that it has right."""
    generator = torch.Generator().manual_seed(seed)
    x = 0.4 + 0.2 * torch.rand(5, *shape, generator=generator, dtype=torch.float64)
    weight = torch.randn(classes, x[0].numel(), generator=generator, dtype=torch.float64)
    # Scores of order 1 whatever the shape, and 0 in the middle of the range.
    model = Linear(weight / weight.norm(), -(weight / weight.norm()).sum(1) / 2)
    return Digits(model, x, model(x).argmax(1).detach())


ATTACKS: dict[str, Attack] = {
    "fgsm": FGSM(0.1),
    "fgm-l2": FGM(L2Ball(0.75)),
    "fgm-l1": FGM(L1Ball(1.0), loss="margin"),
    "pgd-linf": PGD(LInfBall(0.1), 0.03, 5),
    "pgd-l2": PGD(L2Ball(0.75), 0.2, 5),
    "pgd-l1": PGD(L1Ball(2.0), 0.5, 5),
    "mi-fgsm": PGD(LInfBall(0.1), 0.03, 5, random_start=False, momentum=1.0),
    "pgd, until fooled": PGD(L2Ball(0.75), 0.1, 8, until_fooled=True),
    "apgd-linf": APGD(LInfBall(0.1), 12),
    "apgd-l2": APGD(L2Ball(0.75), 12, "dlr", random_start=True),
    "deepfool-l2": DeepFool(steps=8),
    "deepfool-linf": DeepFool("linf", steps=8),
    "cw": CarliniWagner(steps=25, search_steps=3, initial_constant=1.0, step_size=0.2),
    "adam": OptimizerAttack(torch.optim.Adam, lr=0.03, steps=6),
    "sgd-l2": OptimizerAttack(
        torch.optim.SGD, 0.3, 6, ball=L2Ball(0.75), options={"momentum": 0.9}
    ),
    "rmsprop-linf": OptimizerAttack(
        torch.optim.RMSprop, 0.01, 6, ball=LInfBall(0.1), normalize=True
    ),
}
ORDER = {LInfBall: torch.inf, L2Ball: 2, L1Ball: 1}


def ball_of(attack: Attack) -> LInfBall | L2Ball | L1Ball | None:
    if isinstance(attack, FGSM):
        return LInfBall(attack.epsilon)
    return getattr(attack, "ball", None)


IN_A_BALL = [name for name, attack in ATTACKS.items() if ball_of(attack) is not None]
