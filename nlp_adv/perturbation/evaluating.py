"""What every attack on a trained model does: look at it in eval mode, and score the logits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

NO_CLASS = -1  # the answer of logits that name no class; it equals no label


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode for the time of a block; every module's own flag comes back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def answers(logits: Tensor) -> Tensor:
    """The class of the largest logit, (…, C) → (…,); `NO_CLASS` of a tie, an inf or a nan.

    The one rule by which an answer is right, without attack and under it, in all of the package.
    Where argmax decides, equal logits are right or wrong by the number of the class, and a nan is
    taken for the largest; a model that says nothing would have an accuracy.
    """
    largest = logits.amax(-1, keepdim=True)
    alone = (logits == largest).sum(-1) == 1
    return torch.where(alone & torch.isfinite(logits).all(-1), logits.argmax(-1), NO_CLASS)


def divergence_found(model: nn.Module) -> str | None:
    """A sentence that says why a model is refused: its weights are not finite. None where they are.

    Buffers may hold infinities, as masks of attention do; a nan may stand nowhere.

    Cost: one look at every weight.
    """
    broken = [name for name, one in model.named_parameters() if not torch.isfinite(one).all()]
    broken += [name for name, one in model.named_buffers() if torch.isnan(one).any()]
    if not broken:
        return None
    more = f" and {len(broken) - 1} more tensors hold" if len(broken) > 1 else " holds"
    return (
        f"The model cannot be evaluated: {broken[0]}{more} inf or nan, so its training has "
        f"diverged; take an earlier checkpoint, or train with a smaller learning rate."
    )


def logit_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """max_{j≠y} z_j − z_y, (N,): above 0 where the answer is wrong.

    Logits and not probabilities: softmax in float32 is exactly 1 from a difference of about 17,
    and no candidate could improve on that.

    Args:
        logits: (N, C).
        labels: (N,), y.
    """
    right = logits.gather(1, labels[:, None])
    others = logits.scatter(1, labels[:, None], -torch.inf).amax(1, keepdim=True)
    return (others - right).squeeze(1)
