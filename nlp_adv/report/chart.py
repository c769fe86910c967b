"""What a chart shows, before it is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """A value with the ends of its interval, all in percent; nan ends draw no band."""

    x: float
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Line:
    """One method's points, by growing x."""

    name: str
    points: Sequence[Point]


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Accuracy in percent over something.

    Args:
        title, x_label: written above and below.
        lines: in the order of the legend; the n-th has the n-th colour everywhere.
        steps: whether a value holds until the next x, or is joined to it by a straight line.
    """

    title: str
    x_label: str
    lines: Sequence[Line]
    steps: bool = False
