"""What an attack left at growing radii."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nlp_adv.perturbation import Ball
from nlp_adv.robustness.curve import AccuracyCurve, CurvePoint
from nlp_adv.robustness.images.numbers import stands
from nlp_adv.robustness.images.records import ImageRecord
from nlp_adv.robustness.statistics import Share


@dataclass(frozen=True)
class EpsilonSweep:
    """What an attack left of N images at R radii.

    Attributes:
        attack: its name.
        epsilons: the R radii, from the smallest up.
        right: (N,), right without attack.
        stood: (N, R), right under the attack at that radius.
        gradient_passes: (N,), of all radii together.
    """

    attack: str
    epsilons: tuple[float, ...]
    right: Tensor
    stood: Tensor
    gradient_passes: Tensor

    def share(self, epsilon: float) -> Share:
        """Accuracy at a radius that was tried, or 0."""
        if epsilon == 0:
            return Share(int(self.right.sum()), len(self.right))
        return Share(int(self.stood[:, self.epsilons.index(epsilon)].sum()), len(self.right))

    @property
    def curve(self) -> AccuracyCurve:
        """Accuracy over ε, from ε = 0, with Wilson's intervals; its area sums it up."""
        radii = sorted({0.0, *self.epsilons})
        return AccuracyCurve(tuple(CurvePoint(radius, self.share(radius)) for radius in radii))

    def described(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            name: value.tolist() if isinstance(value, Tensor) else value
            for name, value in vars(self).items()
        }

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> EpsilonSweep:
        """The inverse of `described`."""
        tensors = {k: torch.tensor(content[k]) for k in ("right", "stood", "gradient_passes")}
        return cls(content["attack"], tuple(content["epsilons"]), **tensors)


def sweep_by_length(
    records: Sequence[ImageRecord], ball: Ball, epsilons: Sequence[float]
) -> EpsilonSweep:
    """What an attack that looks for the smallest δ left, read off its records.

    Args:
        records: of one attack.
        ball: in whose norm δ is measured.
        epsilons: radii, in any order.
    """
    radii = tuple(sorted({float(epsilon) for epsilon in epsilons}))
    balls = [replace(ball, epsilon=radius) for radius in radii]  # type: ignore[type-var]
    return EpsilonSweep(
        records[0].attack,
        radii,
        torch.tensor([record.outcome != "skipped" for record in records]),
        torch.tensor([[stands(record, one) for one in balls] for record in records]),
        torch.tensor([record.gradient_passes for record in records]),
    )
