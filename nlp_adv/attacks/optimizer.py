"""The pixels as the parameter of an optimizer: what Adam does to weights, done to an image.

    x^{k+1} = Π( step(x^k, −∇x L(x^k, y)) ),   L the loss of each image, summed over the batch

Szegedy et al., "Intriguing properties of neural networks", ICLR 2014,
https://arxiv.org/abs/1312.6199, section 4.1, look for adversarial images with an optimizer (L-BFGS,
in the range of the pixels).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nlp_adv.attacks.attack import Attack
from nlp_adv.attacks.batch import ImageBatch
from nlp_adv.attacks.losses import LOSSES, Loss, check_loss
from nlp_adv.attacks.radii import ball_for, check_ball, finite_rows
from nlp_adv.attacks.region import Region
from nlp_adv.attacks.result import AttackResult
from nlp_adv.attacks.trace import Trace
from nlp_adv.perturbation import Ball, L2Ball

# Their step in one number depends on other numbers of the parameter, so on other images.
_WHOLE_TENSOR = ("LBFGS", "Adafactor", "Muon", "SparseAdam")


@dataclass(frozen=True)
class OptimizerAttack(Attack):
    """Any elementwise optimizer of torch on the pixels themselves.

        OptimizerAttack(torch.optim.Adam, lr=0.01, steps=100)(model, x, target=3)
        OptimizerAttack(torch.optim.SGD, lr=0.1, steps=100, options={"momentum": 0.9})(model, x, y)

    Losses are summed over the batch: an image's steps do not depend on how many others there are.
    An equal lr is no equal step: the first one moves a pixel by lr·|∇| under SGD, by lr under Adam
    and Adagrad, by 10·lr under RMSprop. `compare` puts it beside the outcome.

    Args:
        optimizer: such as torch.optim.Adam, SGD, RMSprop, Adagrad.
        lr: the optimizer's own, named as torch names it; in pixels, but for the above.
        steps: K.
        ball: δ is projected to it after each step; None is no bound.
        box: pixels stay in [0, 1]; without, `adv` may leave it.
        normalize: the optimizer is given the ball's steepest direction (without a ball g/‖g‖₂)
            instead of the gradient; SGD with it is PGD, with α = lr.
        loss: what is climbed.
        options: the optimizer's further arguments.

    Deviations: an image whose gradient is not finite stays where it is for that step; its share of
    the optimizer's state sees a gradient of 0.

    Cost: K gradients, and two forward passes to say what came of it.
    """

    optimizer: Callable[..., torch.optim.Optimizer]
    lr: float = 0.01
    steps: int = 100
    ball: Ball | None = None
    box: bool = True
    normalize: bool = False
    loss: Loss = "cross_entropy"
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.ball is not None:
            check_ball(self.ball)
        check_loss(self.loss)
        if self.steps < 0 or not 0 <= self.lr < float("inf"):
            raise ValueError("steps and lr must be ≥ 0 and finite.")
        if self._called in _WHOLE_TENSOR:
            raise ValueError(
                f"{self._called} does not step number by number, so that images would depend on "
                f"each other; use SGD, Adam, RMSprop, Adagrad or another elementwise optimizer."
            )
        if "lr" in self.options or self.options.get("maximize"):
            raise ValueError("lr is an argument of its own, and the attack turns the sign itself.")

    @property
    def name(self) -> str:
        """Such as adam, or adam-linf in a ball."""
        if self.ball is None:
            return self._called.lower()
        norm = type(self.ball).__name__.removesuffix("Ball").lower()
        return f"{self._called.lower()}-{norm}"

    def run(self, batch: ImageBatch) -> AttackResult:
        """The attack on a batch, in a quiet model."""
        ball = ball_for(self.ball or L2Ball(torch.inf), batch.x)
        region, trace = Region.of(batch, ball), Trace(batch, LOSSES[self.loss])
        at, pixels = batch.x, batch.x.clone().requires_grad_()
        optimizer = self.optimizer([pixels], lr=self.lr, **self.options)
        for _ in range(self.steps):
            grad, losses, logits = batch.gradient(at, LOSSES[self.loss])
            trace.add(at, losses, grad, logits=logits)
            usable = finite_rows(grad)
            grad = ball.steepest(grad) if self.normalize else torch.where(usable, grad, 0.0)
            pixels.grad = -grad
            optimizer.step()
            with torch.no_grad():
                at = torch.where(usable, self._back(batch, pixels, region), at)
                pixels.copy_(at)
        return trace.result(self.name, at)

    def _back(self, batch: ImageBatch, at: Tensor, region: Region) -> Tensor:
        """Π: into the ball and the range of the pixels, as far as they bound anything."""
        if self.ball is not None and self.box:
            return region.project(at)
        if self.ball is not None:
            at = batch.x + region.ball.project(at - batch.x)
        elif self.box:
            at = at.clamp(0, 1)
        return batch.held(at)

    @property
    def _called(self) -> str:
        return getattr(self.optimizer, "__name__", type(self.optimizer).__name__)
