"""DeepFool: to the nearest boundary, as if the model were linear, again and again.

Moosavi-Dezfooli, Fawzi and Frossard, "DeepFool: a simple and accurate method to fool deep neural
networks", CVPR 2016, https://arxiv.org/abs/1511.04599, Algorithm 2; y is the right class, z the
logits, q = 2 for L2 and 1 for L∞:

    f_k = z_k − z_y,   w_k = ∇f_k,   l = argmin_{k≠y} |f_k| / ‖w_k‖_q
    r = |f_l| / ‖w_l‖₂ · w_l / ‖w_l‖₂   for L2,      |f_l| / ‖w_l‖₁ · sign(w_l)   for L∞
    x^{i+1} = x⁰ + (1 + η)·Σ r
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nlp_adv.attacks.attack import Attack
from nlp_adv.attacks.batch import ImageBatch
from nlp_adv.attacks.losses import margin
from nlp_adv.attacks.radii import finite_rows
from nlp_adv.attacks.result import AttackResult
from nlp_adv.attacks.trace import Trace
from nlp_adv.errors import UserError
from nlp_adv.perturbation import Ball, L1Ball, L2Ball, LInfBall

_NORMS: dict[str, tuple[Ball, Ball]] = {  # the unit ball of r, and that of its dual norm
    "l2": (L2Ball(1.0), L2Ball(1.0)),
    "linf": (LInfBall(1.0), L1Ball(1.0)),
}
_PAST = 1e-4  # beyond the boundary, in pixels: where |f| is 0, so would the step be


@dataclass(frozen=True)
class DeepFool(Attack):
    """A small δ that fools, without a radius: how far the images are from a boundary.

        distances = DeepFool()(model, x, y).norm(2)

    An image leaves the batch as soon as it is fooled; one that the model has wrong stays as it is.
    The loss written down is the margin.

    Args:
        norm: in which the boundary is near, "l2" or "linf".
        steps: at most so many.
        overshoot: η, the share by which all of Σr is lengthened, to end past the boundary.
        classes: how many classes are looked at, those with the largest logits for x; all where the
            model has fewer.

    Deviations: each r is 1e-4 longer, so that an image on a boundary leaves it. η lengthens the sum
    at every step, where Algorithm 2 does it once, at the end; steps end when the lengthened sum
    fools. Pixels are clamped to their range, Σr is not. A class whose w is 0 or not finite is
    passed over.

    Cost: a step is one forward and `classes` − 1 backward passes; three forward passes beside, of
    x and to say what came of it.
    """

    norm: Literal["l2", "linf"] = "l2"
    steps: int = 50
    overshoot: float = 0.02
    classes: int = 10

    def __post_init__(self) -> None:
        if self.norm not in _NORMS:
            raise ValueError(f'norm must be "l2" or "linf", not {self.norm!r}.')
        if self.steps < 0 or self.classes < 2 or not 0 <= self.overshoot < float("inf"):
            raise ValueError("steps and overshoot must be ≥ 0, and classes ≥ 2.")

    @property
    def name(self) -> str:
        """deepfool-l2 or deepfool-linf."""
        return f"deepfool-{self.norm}"

    def run(self, batch: ImageBatch) -> AttackResult:
        """The attack on a batch, in a quiet model.

        Raises:
            UserError: with a target, which DeepFool has none of.
        """
        if batch.towards:
            raise UserError(
                "DeepFool goes to the nearest class, whichever it is; with a target use "
                "CarliniWagner, or PGD."
            )
        with torch.no_grad():
            clean_logits = batch.logits(batch.x)
        trace, adv = Trace(batch, margin, clean_logits), batch.x.clone()
        others = self._others(clean_logits, batch.y)
        rows = torch.arange(len(batch), device=adv.device)
        live, at, total = batch, adv.clone(), torch.zeros_like(adv)  # total is Σ r
        for _ in range(self.steps):
            leaf, logits = live.watched(at)
            stands = ~live.fooled(logits)
            if not stands.all():
                adv[rows] = at
                live, rows, others = live.rows(stands), rows[stands], others[stands]
                at, total = at[stands], total[stands]
                if not len(rows):
                    break
                # One forward pass of those that stand costs less than the gradients of the others.
                leaf, logits = live.watched(at)
            step, grad = self._to_boundary(live, leaf, logits, others)
            losses = margin(logits.detach(), live.y)
            trace.add(at, losses, grad, rows, gradients=others.shape[1])
            total = total + step
            at = live.moved((1 + self.overshoot) * total)
        adv[rows] = at
        return trace.result(self.name, adv)

    def _others(self, logits: Tensor, y: Tensor) -> Tensor:
        """The likeliest classes but y, (B, k)."""
        rest = logits.scatter(1, y[:, None], -torch.inf)
        return rest.topk(min(self.classes, logits.shape[1]) - 1, dim=1).indices

    def _to_boundary(
        self, live: ImageBatch, leaf: Tensor, logits: Tensor, others: Tensor
    ) -> tuple[Tensor, Tensor]:
        """r, and the w_l that it goes along; 0 where no class has one."""
        ball, dual = _NORMS[self.norm]
        f = logits.gather(1, others) - logits.gather(1, live.y[:, None])
        nearest = torch.full_like(leaf.flatten(1)[:, 0], torch.inf)
        nearest = nearest.view(-1, *[1] * (leaf.ndim - 1))
        along, last = torch.zeros_like(leaf), others.shape[1] - 1
        for k in range(last + 1):
            # Backward passes one by one: batched by vmap they cost as much, and some models refuse.
            (grad,) = torch.autograd.grad(f[:, k].sum(), leaf, retain_graph=k < last)
            w = live.free(grad)
            length = dual.norm(w)
            distance = f[:, k].detach().abs().to(leaf.dtype).view_as(nearest) / length
            nearer = finite_rows(w) & (length > 0) & (distance < nearest)
            nearest = torch.where(nearer, distance, nearest)
            along = torch.where(nearer, w, along)
        reach = torch.where(torch.isfinite(nearest), nearest + _PAST, 0.0)
        return reach * ball.steepest(along), along
