"""What an attack climbs: one number an image, larger where the answer is worse.

y is the right class, or with a target the class to reach; each loss takes (logits, labels) and
`towards` and returns (B,). Losses are summed over a batch, never averaged, so that no image's step
depends on how many others there are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from nlp_adv.errors import UserError
from nlp_adv.perturbation.evaluating import logit_margin

Loss = Literal["cross_entropy", "margin", "dlr"]
RowLoss = Callable[[Tensor, Tensor, bool], Tensor]


def cross_entropy(logits: Tensor, labels: Tensor, towards: bool = False) -> Tensor:
    """−log p_y, or log p_t towards a target.

    Its gradient is 0 where the softmax is saturated; `margin` has one there.
    """
    loss = functional.cross_entropy(logits, labels, reduction="none")
    return -loss if towards else loss


def margin(logits: Tensor, labels: Tensor, towards: bool = False) -> Tensor:
    """max_{j≠y} z_j − z_y, or z_t − max_{j≠t} z_j: above 0 where the attack has succeeded."""
    loss = logit_margin(logits, labels)
    return -loss if towards else loss


def dlr(logits: Tensor, labels: Tensor, towards: bool = False) -> Tensor:
    """The difference of logits ratio: the margin, in units of the logits' own spread.

    Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks", ICML 2020, https://arxiv.org/abs/2003.01690, eq. (6) and (7), π being
    the order of the logits from the largest down:

        −(z_y − max_{i≠y} z_i) / (z_π1 − z_π3),   −(z_y − z_t) / (z_π1 − ½(z_π3 + z_π4))

    Deviations: towards a target t, the first class is the largest other than t, not the right one,
    which the attack is not told.

    Raises:
        UserError: fewer than 3 classes, 4 with a target.
    """
    needed = 4 if towards else 3
    if logits.shape[1] < needed:
        raise UserError(
            f"The dlr loss compares {needed} classes and the model has {logits.shape[1]}; use "
            f'loss="margin".'
        )
    return margin(logits, labels, towards) / _spread(logits, needed)


def led(logits: Tensor, labels: Tensor, goals: Tensor) -> Tensor:
    """From the right classes to one wrong class each, in units of the logits' own spread.

        (z_t − z_y) / (z_π1 − ½(z_π3 + z_π4)),   of fewer than 4 classes  z_t − z_y

    It is Croce and Hein's eq. (7), of an attack that is told the right class y and the wrong class
    t that it is to try.

    Args:
        logits: (B, C).
        labels: y, (B,).
        goals: t, (B,).
    """
    gap = logits.gather(1, goals[:, None]) - logits.gather(1, labels[:, None])
    return gap.squeeze(1) / (_spread(logits, 4) if logits.shape[1] >= 4 else 1)


def likeliest_others(logits: Tensor, labels: Tensor) -> Tensor:
    """The classes but y, the likeliest first, (B, C − 1); equal ones in their order."""
    rest = logits.scatter(1, labels[:, None], -torch.inf)
    order = rest.argsort(dim=1, descending=True, stable=True)
    return order[order != labels[:, None]].view(len(order), -1)


def _spread(logits: Tensor, classes: int) -> Tensor:
    """z_π1 less z_π3, or of 4 classes less ½(z_π3 + z_π4)."""
    ordered = logits.sort(dim=1, descending=True).values
    spread = ordered[:, 0] - ordered[:, 2:classes].mean(1)
    return spread.clamp_min(torch.finfo(logits.dtype).tiny)


LOSSES: dict[str, RowLoss] = {"cross_entropy": cross_entropy, "margin": margin, "dlr": dlr}


def check_loss(loss: str) -> None:
    """Refuse a name that is none."""
    if loss not in get_args(Loss):
        raise ValueError(f"loss must be one of {', '.join(get_args(Loss))}, not {loss!r}.")
