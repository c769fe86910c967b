"""Whether a model says the same twice; every measure of robustness takes it for granted."""

from __future__ import annotations

import torch
from torch import Tensor

from nlp_adv.robustness.check_result import Check

NOISE = 1e-3  # of the logits' spread, by which two passes may differ: devices add in any order


def repeats(first: Tensor, second: Tensor, resolution: float = 0.0) -> bool:
    """Whether the logits of two passes over the same examples, (N, C), are the same.

    Args:
        first, second: the logits.
        resolution: of the model's arithmetic where that is coarser than `NOISE`.
    """
    return _apart(first, second) <= max(NOISE, resolution) * _spread(first)


def check_repeatable(first: Tensor, second: Tensor) -> Check:
    """Two passes over the same examples say the same.

    Args:
        first, second: logits (N, C) of the two.
    """
    changed = int((first.argmax(-1) != second.argmax(-1)).sum())
    return Check(
        name="repeatable",
        passed=repeats(first, second),
        finding=f"Two passes over the same {len(first)} examples differ by "
        f"{_apart(first, second):.2g}, and {changed} of the answers change; the logits' standard "
        f"deviation is {_spread(first):.2g}.",
        meaning="The model answers at random: one gradient is not its gradient, one answer not "
        "its answer, and an attack that looks often enough sees a wrong one. Average over its "
        "randomness before reading a number.",
    )


def _apart(first: Tensor, second: Tensor) -> float:
    """The largest difference; what is inf or nan in both is the same."""
    numbers = torch.isfinite(first) & torch.isfinite(second)
    if not torch.equal(torch.isfinite(first), torch.isfinite(second)):
        return float("inf")
    apart = (first.double() - second.double())[numbers].abs()  # float32 may overflow
    return float(apart.max()) if len(apart) else 0.0


def _spread(logits: Tensor) -> float:
    numbers = logits[torch.isfinite(logits)].double()
    return float(numbers.std()) if len(numbers) > 1 else 0.0
