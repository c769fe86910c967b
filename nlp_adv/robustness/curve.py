"""Accuracy as a function of ε, and two numbers that sum it up."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from nlp_adv.robustness.embedding_result import EmbeddingRobustness
from nlp_adv.robustness.statistics import Share


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
    result: EmbeddingRobustness,
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
    for epsilon in sorted({0.0, *result.radii}):
        stood = Share(int(result.standing(epsilon).sum()), result.examples)
        points.append(CurvePoint(epsilon * factor, stood, confidence))
    return AccuracyCurve(tuple(points))
