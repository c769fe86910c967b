"""Accuracy as a function of ε, and two numbers that sum it up."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from nlp_adv.perturbation import Ball
from nlp_adv.robustness.record import Record
from nlp_adv.robustness.statistics import Share, is_robust

if TYPE_CHECKING:
    from nlp_adv.attacks import Measured


@dataclass(frozen=True)
class CurvePoint:
    """Accuracy at one radius.

    Args:
        epsilon: the radius.
        share: of right answers that stood there.
        confidence: of the interval.
    """

    epsilon: float
    share: Share
    confidence: float = 0.95

    @property
    def accuracy(self) -> float:
        """The share as a number."""
        return self.share.value

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's, over the draw of the examples."""
        return self.share.interval(self.confidence)


@dataclass(frozen=True)
class AccuracyCurve:
    """The ε–accuracy curve of one attack on one model.

    Args:
        points: from ε = 0, the accuracy without attack, upwards.
    """

    points: tuple[CurvePoint, ...]

    @property
    def area(self) -> float:
        """1/ε_max · ∫₀^ε_max accuracy dε by trapezoids: 1 is right everywhere, 0 nowhere.

        It depends on the radii that were tried: compare it between equal ones. Where only ε = 0
        was tried it is the accuracy there.
        """
        largest = self.points[-1].epsilon
        if largest == 0:
            return self.points[-1].accuracy
        below = sum(
            (right.epsilon - left.epsilon) * (left.accuracy + right.accuracy) / 2
            for left, right in pairwise(self.points)
        )
        return below / largest

    @property
    def half_point(self) -> float:
        """The smallest ε at which half of the clean accuracy is gone, linear between the radii.

        inf where more than half stood at all of them, 0 where no answer was right to begin with.
        """
        half = self.points[0].accuracy / 2
        if half == 0:
            return 0.0
        for left, right in pairwise(self.points):
            if right.accuracy <= half:
                part = (left.accuracy - half) / (left.accuracy - right.accuracy)
                return left.epsilon + part * (right.epsilon - left.epsilon)
        return math.inf


def accuracy_curve(
    result: Measured,
    *,
    unit: Literal["absolute", "relative"] | None = None,
    confidence: float = 0.95,
) -> AccuracyCurve:
    """The curve of an attack over the radii it tried.

    Args:
        result: of the attack.
        unit: of ε: the attack's own by default; another one holds in the mean over the examples.
        confidence: of the intervals.
    """
    factor = {None: 1.0, "absolute": result.absolute(1.0), "relative": result.relative(1.0)}[unit]
    points = []
    for epsilon in sorted({0.0, *(radius or 0.0 for radius in result.radii)}):
        stood = Share(int(result.robust(epsilon).sum()), result.examples)
        points.append(CurvePoint(epsilon * factor, stood, confidence))
    return AccuracyCurve(tuple(points))


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Accuracy at growing radii of one attack, as it is shown and kept.

    Args:
        title: the attack with its norm, such as "PGD, L2 per example"; curves of equal title and
            `x_label` are drawn into one figure.
        x_label: what ε is measured in.
        points: ε → share of examples answered rightly at that radius.
        scale: what an axis shows for ε = 1: 255 for grey levels.
    """

    title: str
    x_label: str
    points: Mapping[float, Share]
    scale: float = 1.0

    @property
    def accuracy(self) -> AccuracyCurve:
        """The same from the smallest radius up, with intervals and an area."""
        return AccuracyCurve(
            tuple(CurvePoint(e, share) for e, share in sorted(self.points.items()))
        )


def curve_of(records: Iterable[Record], *, title: str, x_label: str) -> Curve:
    """Accuracy over ε of an attack that was run at several radii, from its records.

    Args:
        records: of one attack, each with its radius.
        title, x_label: see `Curve`.
    """
    by_radius: dict[float, list[Record]] = {}
    for record in records:
        if record.epsilon is not None:
            by_radius.setdefault(record.epsilon, []).append(record)
    first = by_radius[next(iter(by_radius))] if by_radius else []
    points = {0.0: Share(sum(record.attacked for record in first), len(first))}
    for epsilon, some in sorted(by_radius.items()):
        points[epsilon] = Share(sum(one.outcome == "robust" for one in some), len(some))
    return Curve(title=title, x_label=x_label, points=points)


@dataclass(frozen=True)
class EpsilonSweep:
    """What an attack left of N examples at R radii.

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
    records: Sequence[Record], ball: Ball, epsilons: Sequence[float]
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
        torch.tensor([record.attacked for record in records]),
        torch.tensor([[is_robust(record, one) for one in balls] for record in records]),
        torch.tensor([getattr(record.found, "gradient_passes", 0) for record in records]),
    )
