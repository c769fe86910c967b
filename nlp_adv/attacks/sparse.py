"""L1 steps for examples of many coordinates, which are too many to move one by one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nlp_adv.attacks.region import DeltaRegion, Region
from nlp_adv.perturbation import L1Ball


@dataclass(frozen=True)
class SparseL1Ball(L1Ball):
    """{δ : Σ|δᵢ| ≤ ε}, with steps to the largest coordinates of the gradient, all of one length.

    The steepest step in L1 moves one coordinate, and an attack would take as many steps as pixels.
    This one moves a share of them (sparse ℓ1 descent: Tramèr and Boneh, "Adversarial Training and
    Robustness for Multiple Perturbations", NeurIPS 2019, https://arxiv.org/abs/1904.13000).

    Args:
        epsilon: radius ε ≥ 0.
        per: "example".
        share: of the coordinates that move, in (0, 1].
        free: (b,), how many coordinates an example has, where padding is none; all without.

    Deviations: a tenth of the coordinates move, where the paper moves fewer; δ returns to the ball
    by projection.
    """

    share: float = 0.1
    free: Tensor | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be in (0, 1], not {self.share}.")

    def steepest(self, grad: Tensor) -> Tensor:
        """sign(g)/k on the k largest |gᵢ|, 0 on the others: of norm 1.

        0 where g is 0 or not finite; where fewer than k coordinates have a gradient, those move
        further.
        """
        rows = grad.flatten(1)
        rows = torch.where(torch.isfinite(rows).all(1, keepdim=True), rows, 0.0)
        most = rows.shape[1] if self.free is None else int(self.free.max())
        largest = rows.abs().topk(max(1, round(self.share * most)), dim=1).indices
        signs = rows.gather(1, largest).sign()
        if self.free is not None:
            own = (self.share * self.free).round().clamp_min(1)
            signs = signs * (torch.arange(signs.shape[1], device=own.device) < own[:, None])
        step = torch.zeros_like(rows).scatter(1, largest, signs)
        moved = step.abs().sum(1, keepdim=True).clamp_min(1)
        return (step / moved).view_as(grad)


def sparse_steps(region: Region) -> Region:
    """The same region, in an L1 ball with steps to many coordinates at once."""
    ball = region.ball
    if type(ball) is not L1Ball or ball.per != "example":
        return region
    free = None
    if isinstance(region, DeltaRegion):
        free = region.examples.mask.flatten(1).sum(1)
    return replace(region, ball=SparseL1Ball(ball.epsilon, free=free))
