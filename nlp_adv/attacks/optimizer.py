"""The input as the parameter of an optimizer: what Adam does to weights, done to an example.

    x^{k+1} = Π( step(x^k, −∇x L(x^k, y)) ),   L the loss of each example, summed over the batch

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
from nlp_adv.attacks.losses import LOSSES, Loss, check_loss
from nlp_adv.attacks.region import Region, check_ball, finite_rows, norm_name, region_of
from nlp_adv.attacks.result import AttackResult
from nlp_adv.attacks.rows import Rows
from nlp_adv.attacks.trace import Trace
from nlp_adv.perturbation import Ball, L2Ball, Unit

# Their step in one number depends on other numbers of the parameter, so on other examples.
_WHOLE_TENSOR = ("LBFGS", "Adafactor", "Muon", "SparseAdam")


@dataclass(frozen=True)
class OptimizerAttack(Attack):
    """Any elementwise optimizer of torch on the input itself.

        OptimizerAttack(torch.optim.Adam, lr=0.01, steps=100)(model, x, target=3)
        OptimizerAttack(torch.optim.SGD, lr=0.1, steps=100, options={"momentum": 0.9})(model, x, y)

    Losses are summed over the batch: an example's steps do not depend on how many others there are.
    An equal lr is no equal step: the first one moves a pixel by lr·|∇| under SGD, by lr under Adam
    and Adagrad, by 10·lr under RMSprop. `compare` puts it beside the outcome.

    Args:
        optimizer: such as torch.optim.Adam, SGD, RMSprop, Adagrad.
        lr: the optimizer's own, named as torch names it; in pixels, but for the above; on
            embeddings and layers in units of the example's root mean square.
        steps: K.
        ball: δ is projected to it after each step; None is no bound.
        box: pixels stay in [0, 1]; without, `adv` may leave it. Nothing else has a box.
        normalize: the optimizer is given the ball's steepest direction (without a ball g/‖g‖₂)
            instead of the gradient; SGD with it is PGD, with α = lr.
        loss: what is climbed.
        options: the optimizer's further arguments.
        unit: of the ball's radius; see `PGD`.

    Deviations: an example whose gradient is not finite stays where it is for that step; its share
    of the optimizer's state sees a gradient of 0.

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
    unit: Unit = "absolute"

    def __post_init__(self) -> None:
        if self.ball is not None:
            check_ball(self.ball)
        check_loss(self.loss)
        if self.steps < 0 or not 0 <= self.lr < float("inf"):
            raise ValueError("steps and lr must be ≥ 0 and finite.")
        if self._called in _WHOLE_TENSOR:
            raise ValueError(
                f"{self._called} does not step number by number, so that examples would depend on "
                f"each other; use SGD, Adam, RMSprop, Adagrad or another elementwise optimizer."
            )
        if "lr" in self.options or self.options.get("maximize"):
            raise ValueError("lr is an argument of its own, and the attack turns the sign itself.")

    @property
    def name(self) -> str:
        """Such as adam, or adam-linf in a ball."""
        if self.ball is None:
            return self._called.lower()
        return f"{self._called.lower()}-{norm_name(self.ball)}"

    def run(self, rows: Rows) -> AttackResult:
        """The attack on examples, in a quiet model."""
        region = region_of(
            rows, self.ball or L2Ball(torch.inf), self.unit if self.ball else "absolute"
        )
        trace, scale, at = Trace(rows, LOSSES[self.loss]), region.scale, rows.clean
        parameter = (at / scale).clone().requires_grad_()
        optimizer = self.optimizer([parameter], lr=self.lr, **self.options)
        for _ in range(self.steps):
            grad, losses, logits = rows.gradient(at, LOSSES[self.loss])
            trace.add(at, losses, grad, logits=logits)
            usable = finite_rows(grad)
            grad = region.ball.steepest(grad) if self.normalize else torch.where(usable, grad, 0.0)
            parameter.grad = -grad * scale
            optimizer.step()
            with torch.no_grad():
                at = torch.where(usable, self._back(rows, parameter * scale, region), at)
                parameter.copy_(at / scale)
        return trace.result(self.name, at)

    def _back(self, rows: Rows, at: Tensor, region: Region) -> Tensor:
        """Π: into the ball and the range of the pixels, as far as they bound anything."""
        if self.ball is not None and self.box:
            return region.project(at)
        if self.ball is not None:
            at = region.in_ball(at)
        elif self.box:
            at = region.in_box(at)
        return rows.held(at)

    @property
    def _called(self) -> str:
        return getattr(self.optimizer, "__name__", type(self.optimizer).__name__)
