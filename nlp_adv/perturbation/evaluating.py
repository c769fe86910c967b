"""What every attack on a trained model does: look at it in eval mode, and score the logits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


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
