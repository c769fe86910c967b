"""Accuracy as a function of ε, and two numbers that sum it up."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from nlp_adv.attacks.region import with_epsilon
from nlp_adv.perturbation import Ball
from nlp_adv.robustness.record import Record
from nlp_adv.robustness.statistics import Share, is_robust

if TYPE_CHECKING:
    from nlp_adv.attacks import Measured


NORMS = {"linf": "L∞", "l2": "L2", "l1": "L1", "l0": "L0"}
"""Norms as people write them."""


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


@dataclass(frozen=True, kw_only=True)
class CurveRequest:
    """A curve that is wanted of an attack's records.

    Args:
        attack: its name in the records.
        title, x_label, scale: see `Curve`.
        ball, epsilons: where the attack has no radius and seeks the smallest δ: an example is
            robust at each ε where its δ is longer, in the norm of that ball.
    """

    attack: str
    title: str
    x_label: str
    scale: float = 1.0
    ball: Ball | None = None
    epsilons: Sequence[float] = ()

    def of(self, records: Iterable[Record]) -> Curve:
        """Accuracy over ε."""
        mine = [record for record in records if record.attack == self.attack]
        by_radius: dict[float, list[bool]] = {}
        if self.ball is not None:
            for epsilon in self.epsilons:
                within = with_epsilon(self.ball, epsilon)
                by_radius[epsilon] = [is_robust(record, within) for record in mine]
        else:
            for record in mine:
                assert record.epsilon is not None
                by_radius.setdefault(record.epsilon, []).append(record.outcome == "robust")
        right = {record.id: record.attacked for record in mine}
        points = {0.0: Share(sum(right.values()), len(right))}
        points |= {e: Share(sum(some), len(some)) for e, some in sorted(by_radius.items())}
        return Curve(title=self.title, x_label=self.x_label, points=points, scale=self.scale)
