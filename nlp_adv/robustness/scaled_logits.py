"""The same model with its logits multiplied: no answer changes, only how sure it seems."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from scipy.optimize import brentq
from torch import Tensor, nn


@contextmanager
def scaled_logits(model: nn.Module, factor: float) -> Iterator[None]:
    """Multiply what the model returns as "logits" for the time of a block.

    Weights, loss and whatever else it returns stay as they are.

    Args:
        model: whose forward returns a mapping.
        factor: > 0.
    """

    def scale(module: nn.Module, args: Any, output: Any) -> Any:
        output["logits"] = output["logits"] * factor
        return output

    handle = model.register_forward_hook(scale)
    try:
        yield
    finally:
        handle.remove()


def softening_factor(logits: Tensor, confidence: float) -> float:
    """The factor f at which mean max softmax(f·logits) is `confidence`: f = 1/T of a temperature.

    Not the temperature of least cross entropy (Guo et al., 2017): where all answers are right
    that one is 0. 1 where no factor does it: the logits do not tell the classes apart.

    Args:
        logits: (N, C); rows that are not finite are left out.
        confidence: above 1/C, below 1.
    """
    rows = logits.double()[torch.isfinite(logits).all(-1)]

    def excess(log_factor: float) -> float:
        return float((rows * math.exp(log_factor)).softmax(-1).amax(-1).mean()) - confidence

    low, high = -40.0, 40.0
    if not len(rows) or excess(low) >= 0 or excess(high) <= 0:
        return 1.0
    return math.exp(brentq(excess, low, high, xtol=1e-6))
