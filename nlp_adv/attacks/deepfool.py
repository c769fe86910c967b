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
from nlp_adv.attacks.losses import likeliest_others, margin
from nlp_adv.attacks.region import Region, finite_rows, region_of
from nlp_adv.attacks.result import AttackResult
from nlp_adv.attacks.rows import Rows, Standing
from nlp_adv.attacks.trace import Trace
from nlp_adv.errors import UserError
from nlp_adv.perturbation import Ball, L1Ball, L2Ball, LInfBall

_NORMS: dict[str, tuple[Ball, Ball]] = {  # the unit ball of r, and that of its dual norm
    "l2": (L2Ball(1.0), L2Ball(1.0)),
    "linf": (LInfBall(1.0), L1Ball(1.0)),
}
_PAST = 1e-4  # beyond the boundary, in units of the region's scale: where |f| is 0, the step is


@dataclass(frozen=True)
class DeepFool(Attack):
    """A small δ that fools, without a radius: how far the examples are from a boundary.

        distances = DeepFool()(model, x, y).norm(2)

    An example leaves the batch as soon as it is fooled; one that the model has wrong stays as it
    is. The loss written down is the margin.

    Args:
        norm: in which the boundary is near, "l2" or "linf".
        steps: at most so many.
        overshoot: η, the share by which all of Σr is lengthened, to end past the boundary.
        classes: how many classes are looked at, those with the largest logits for x; all where the
            model has fewer.

    Deviations: each r is 1e-4 longer (on embeddings, times their root mean square), so that an
    example on a boundary leaves it. η lengthens the sum
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

    def run(self, rows: Rows) -> AttackResult:
        """The attack on examples, in a quiet model.

        Raises:
            UserError: with a target, which DeepFool has none of.
        """
        if rows.towards:
            raise UserError(
                "DeepFool goes to the nearest class, whichever it is; with a target use "
                "CarliniWagner, or PGD."
            )
        trace, standing = Trace(rows, margin), Standing(rows)
        region, at = region_of(rows, L2Ball(torch.inf)), rows.clean
        others = likeliest_others(trace.clean_logits(), rows.y)[:, : self.classes - 1]
        total = torch.zeros_like(at)  # Σ r
        for _ in range(self.steps):
            places, (leaf, logits) = standing.index, standing.rows.watched(at)
            stays = standing.leave(at, standing.rows.fooled(logits))
            if stays is not None:
                trace.looked(places)
                region, others = region.rows(stays), others[stays]
                at, total = at[stays], total[stays]
                if not len(standing):
                    break
                # One forward pass of those that stay costs less than the gradients of the others.
                leaf, logits = standing.rows.watched(at)
            step, grad = self._to_boundary(standing.rows, region, leaf, logits, others)
            losses = margin(logits.detach(), standing.rows.y)
            trace.add(at, losses, grad, standing.index, gradients=others.shape[1])
            total = total + step
            at = region.moved((1 + self.overshoot) * total)
        return trace.result(self.name, standing.end(at))

    def _to_boundary(
        self, rows: Rows, region: Region, leaf: Tensor, logits: Tensor, others: Tensor
    ) -> tuple[Tensor, Tensor]:
        """r, and the w_l that it goes along; 0 where no class has one."""
        ball, dual = _NORMS[self.norm]
        f = logits.gather(1, others) - logits.gather(1, rows.y[:, None])
        nearest = torch.full_like(leaf.flatten(1)[:, 0], torch.inf)
        nearest = nearest.view(-1, *[1] * (leaf.ndim - 1))
        along, last = torch.zeros_like(leaf), others.shape[1] - 1
        for k in range(last + 1):
            # Backward passes one by one: batched by vmap they cost as much, and some models refuse.
            w = rows.slope(f[:, k], leaf, again=k < last)
            length = dual.norm(w)
            distance = f[:, k].detach().abs().to(leaf.dtype).view_as(nearest) / length
            nearer = finite_rows(w) & (length > 0) & (distance < nearest)
            nearest = torch.where(nearer, distance, nearest)
            along = torch.where(nearer, w, along)
        reach = torch.where(torch.isfinite(nearest), nearest + _PAST * region.scale, 0.0)
        return reach * ball.steepest(along), along
