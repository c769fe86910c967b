"""A small model of small images, in seconds and in float64, and models with built-in faults."""

from __future__ import annotations

from functools import cache

import torch
from made_records import point_record as record
from torch import Tensor, nn
from torch.nn import functional

from nlp_adv.robustness.record import Record

CLASSES, SIDE, LEVELS = 3, 8, 255
EPSILON = 0.05


def images(count: int = 60, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Pictures of 256 levels: class k has a brighter band of rows."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % CLASSES
    x = 0.5 + 0.12 * torch.randn(count, 1, SIDE, SIDE, generator=generator, dtype=torch.float64)
    for row, label in enumerate(y.tolist()):
        x[row, :, 2 * label : 2 * label + 3] += 0.14
    return (x.clamp(0, 1) * LEVELS).round() / LEVELS, y


@cache
def trained() -> nn.Module:
    """An ordinary model."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(8 * SIDE * SIDE, CLASSES),
        ).double()
        x, y = images(300, seed=0)
        optimizer = torch.optim.Adam(model.parameters(), 2e-3)
        for _ in range(40):
            optimizer.zero_grad()
            functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    model.zero_grad()
    return model.eval()


class Changed(nn.Module):
    """The ordinary model behind and before a function."""

    def __init__(self, before=None, after=None) -> None:
        super().__init__()
        self.model = trained()
        self.before = before or (lambda x: x)
        self.after = after or (lambda logits: logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.model(self.before(x)))


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return -grad


def on_grid(x: Tensor) -> Tensor:
    """Whether a pixel has one of 256 levels, as clean images have."""
    return (LEVELS * x - (LEVELS * x).round()).abs() < 1e-3


def saturated() -> nn.Module:
    return Changed(after=lambda logits: 1e4 * logits)


def probabilities() -> nn.Module:
    return Changed(after=lambda logits: logits.softmax(1))


def rounding() -> nn.Module:
    """Quantised inputs: no gradient anywhere."""
    return Changed(before=lambda x: (20 * x).round() / 20)


def noisy() -> nn.Module:
    return Changed(before=lambda x: x + 0.1 * torch.randn_like(x))


def huge() -> nn.Module:
    """Logits at the end of what numbers can hold."""
    return Changed(after=lambda logits: 1e307 * logits)


def backwards() -> nn.Module:
    """Its gradients point away from wrong answers."""
    return Changed(before=_Reversed.apply)


def flat_at_pictures() -> nn.Module:
    """No gradient at clean images, a true one beside them."""
    return Changed(before=lambda x: torch.where(on_grid(x), x.detach() + 0 * x, x))


def true_at_pictures() -> nn.Module:
    """A true gradient at clean images, a reversed one beside them."""
    return Changed(before=lambda x: torch.where(on_grid(x), x, _Reversed.apply(x)))


def off_grid() -> nn.Module:
    """What is no picture of 256 levels is taken for the next class."""

    class OffGrid(Changed):
        def forward(self, x: Tensor) -> Tensor:
            logits = self.model(x)
            away = (LEVELS * x - (LEVELS * x).round()).abs().flatten(1).sum(1, keepdim=True)
            return logits + 100 * away * logits.detach().roll(1, 1).softmax(1)

    return OffGrid()


def remembering() -> nn.Module:
    """It knows the pictures by heart, and asks its memory where an image is far from them all."""
    pictures, labels = images()

    class Remembering(Changed):
        def forward(self, x: Tensor) -> Tensor:
            logits = self.model(x)
            apart = (x[:, None] - pictures).abs().flatten(2).amax(2)
            known = 10.0 * functional.one_hot(labels[apart.argmin(1)], CLASSES) + 0 * logits
            return torch.where(apart.amin(1, keepdim=True) > 0.09, known, logits)

    return Remembering()


def fitted() -> nn.Module:
    """It takes a step of its own towards what it is surest of, before it answers."""

    class Fitted(Changed):
        def forward(self, x: Tensor) -> Tensor:
            with torch.enable_grad():
                leaf = x.detach().requires_grad_()
                (slope,) = torch.autograd.grad(self.model(leaf).amax(1).sum(), leaf)
            return self.model(x + 0.01 * slope.sign())

    return Fitted()


def left(standing: int, total: int = 100, **changes) -> list[Record]:
    """Records of so many images, the first of which stand."""
    return [
        record(number, outcome="robust" if number < standing else "fooled", **changes)
        for number in range(total)
    ]
