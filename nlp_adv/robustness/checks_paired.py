"""One accuracy that must not lie above another, measured on the same examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.stats import binomtest
from torch import Tensor

LEVEL = 0.05  # of the one-sided tests: a smaller p is more than chance
SLACK = 0.01  # attacks that start or step otherwise break other examples, about one in a hundred

Right = Tensor | Sequence[bool]


@dataclass(frozen=True)
class Pair:
    """Two accuracies of one model on the same N examples.

    Args:
        first, second: (N,) whether each example is right.
    """

    first: Right
    second: Right

    def __post_init__(self) -> None:
        if len(self.first) != len(self.second):
            raise ValueError("The two results are not of the same examples.")

    @property
    def accuracies(self) -> tuple[float, float]:
        """The two shares; 0 of nothing."""
        return _share(self.first), _share(self.second)

    @property
    def gap(self) -> float:
        """The first accuracy minus the second."""
        first, second = self.accuracies
        return first - second

    @property
    def p_value(self) -> float:
        """One-sided exact p of: the first accuracy is not the larger one (McNemar, 1947).

        k ~ Binomial(n, ½), k of the n examples that tell them apart being right in the first only.
        """
        first, second = _bools(self.first), _bools(self.second)
        only_first, apart = int((first & ~second).sum()), int((first ^ second).sum())
        if not apart:
            return 1.0
        return float(binomtest(only_first, apart, alternative="greater").pvalue)

    def not_above(self, tolerance: float = SLACK) -> bool | None:
        """Whether the first accuracy is at most the second plus a tolerance.

        None where it lies above that, and so few examples may do so by chance.

        Args:
            tolerance: in accuracy; a single example is always tolerated.
        """
        if self.gap <= max(tolerance, 1 / max(len(self.first), 1)) + 1e-9:
            return True
        return False if self.p_value < LEVEL else None

    def level(self, tolerance: float) -> bool | None:
        """Whether they differ by at most a tolerance, in either direction."""
        above, below = self.not_above(tolerance), Pair(self.second, self.first).not_above(tolerance)
        return above if below is True else below


def percent(share: float) -> str:
    """For people: 12.3 %."""
    return f"{100 * share:.1f} %"


def points(difference: float) -> str:
    """For people: 1.5 points, of two accuracies."""
    return f"{100 * difference:.1f} points"


def _bools(right: Right) -> Tensor:
    return torch.as_tensor(right, dtype=torch.bool)


def _share(right: Right) -> float:
    return float(_bools(right).double().mean()) if len(right) else 0.0
