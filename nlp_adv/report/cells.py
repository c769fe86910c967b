"""Numbers as a reader sees them, and the cells and tables that hold them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from nlp_adv.report.numbers import Score, Spread
from nlp_adv.robustness.seeds import Interval

MISSING = "–"
Tone = Literal["", "bad", "open", "good"]


@dataclass(frozen=True)
class Cell:
    """One number or text.

    Args:
        text: to print.
        notes: smaller, one a line: interval, difference.
        tone: "bad" cannot be overlooked.
    """

    text: str
    notes: tuple[str, ...] = ()
    tone: Tone = ""


@dataclass(frozen=True)
class Table:
    """Columns and rows; the first column names the row."""

    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    @classmethod
    def of(cls, head: Iterable[str], *rows: Iterable[Cell | str]) -> Table:
        """Rows whose cells may be plain texts."""
        cells = (tuple(one if isinstance(one, Cell) else Cell(one) for one in row) for row in rows)
        return cls(tuple(head), tuple(cells))


def percent(value: float) -> str:
    """A share in percent, without the sign."""
    return MISSING if math.isnan(value) else f"{100 * value:.1f}"


def number(value: float) -> str:
    """A count or a mean, short."""
    if not math.isfinite(value):
        return MISSING
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 1 else f"{value:.2g}"


def norm(value: float) -> str:
    """Four digits."""
    return MISSING if math.isnan(value) else f"{value:.4g}"


def signed(value: float) -> str:
    """One digit, with a sign as wide as a plus."""
    return f"{value:+.1f}".replace("-", "−")


def spread(values: Spread, show: Callable[[float], str]) -> str:
    """mean ± sd, or the one value."""
    return show(values.mean) + ("" if math.isnan(values.sd) else f" ± {show(values.sd)}")


def interval(low: float, high: float) -> str:
    """[low, high] in percent."""
    return f"[{percent(low)}, {percent(high)}]"


def p_value(p: float) -> str:
    """Three digits."""
    return "p < 0.001" if p < 0.0005 else f"p = {p:.3f}"


def points(found: Interval) -> str:
    """A difference and its interval in points, with their signs."""
    value, low, high = (signed(100 * x) for x in (found.difference, found.low, found.high))
    return f"{value} [{low}, {high}]"


def difference(score: Score) -> str:
    """The same behind ▲ or ▼ where the difference is told from 0, or Δ; it must have one."""
    assert score.difference is not None
    mark = "Δ" if not score.told else "▲" if score.difference.difference > 0 else "▼"
    return f"{mark} {points(score.difference)}"


def facts(values: Mapping[str, Any]) -> Table:
    """Name and value, a row each."""
    return Table.of(("", ""), *((str(key), _plain(one)) for key, one in values.items()))


def _plain(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_plain(one)}" for key, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return str(value)
