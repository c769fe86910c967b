"""Line charts as SVG, written out by hand: no plotting library, no fonts, no scripts.

Colours stand in attributes, so that a file shows them anywhere; classes (`series-1`, `grid`, …)
let a page change them for a dark screen. Every line has its own dashes and marks: nothing hangs on
colour alone. The colours follow Okabe and Ito (2008), whose set colour-blind readers tell apart.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from html import escape
from itertools import pairwise

from nlp_adv.report.axes import axis
from nlp_adv.report.chart import Chart, Line

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b0578d", "#a66f00", "#3a8fbf", "#333333")
# One more than colours, so that the eighth line is not the first again.
_DASHES = ("none", "7 4", "2 3", "9 3 2 3", "12 4", "4 2", "1 4", "12 3 2 3 2 3")
_WIDTH, _PLOT_HEIGHT = 400, 220
_LEFT, _RIGHT, _TOP = 52, 16, 34
_LONGEST = 52  # characters that fit on a line
# Characters that XML does not allow, not even escaped.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def svg(chart: Chart) -> str:
    """One chart as an `<svg>` element, as wide as its place allows."""
    width, height = _WIDTH, _height(chart)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{_text(chart.title)}" font-family="sans-serif" font-size="12">'
        f"{_drawn(chart)}</svg>"
    )


def sheet(charts: Sequence[Chart]) -> str:
    """All charts below one another on white, as a file of its own."""
    tops = [sum(map(_height, charts[:i])) for i in range(len(charts) + 1)]
    panels = "".join(
        f'<g transform="translate(0 {top})">{_drawn(chart)}</g>'
        for chart, top in zip(charts, tops[:-1], strict=True)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{tops[-1]}" '
        f'viewBox="0 0 {_WIDTH} {tops[-1]}" font-family="sans-serif" font-size="12">'
        f'<rect width="100%" height="100%" fill="#ffffff"/>{panels}</svg>\n'
    )


def _drawn(chart: Chart) -> str:
    values = sorted({point.x for line in chart.lines for point in line.points})
    place, ticks = axis(values)

    def x_of(x: float) -> float:
        return _LEFT + place(x) * (_WIDTH - _LEFT - _RIGHT)

    parts = [_label(chart.title, _LEFT, 18, "start", "bold"), _y_axis()]
    bottom = _y_of(0)
    for tick in ticks:
        x = x_of(tick)
        parts.append(_rule(x, bottom, x, bottom + 5))
        parts.append(_label(f"{tick:g}", x, bottom + 18, "middle"))
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(_label(chart.x_label, middle, bottom + 36, "middle"))
    # Bands first: no band may cover another method's line.
    parts += [_band(line, i, x_of, chart) for i, line in enumerate(chart.lines)]
    parts += [_line(line, i, x_of, chart) for i, line in enumerate(chart.lines)]
    parts += [_legend(line.name, i, not chart.steps) for i, line in enumerate(chart.lines)]
    return "".join(parts)


def _height(chart: Chart) -> int:
    return _TOP + _PLOT_HEIGHT + 50 + 18 * len(chart.lines)


def _y_of(percent: float) -> float:
    return _TOP + _PLOT_HEIGHT * (1 - percent / 100)


def _y_axis() -> str:
    parts = []
    for percent in range(0, 101, 20):
        y = _y_of(percent)
        parts.append(_rule(_LEFT, y, _WIDTH - _RIGHT, y, "axis" if percent == 0 else "grid"))
        parts.append(_label(f"{percent} %", _LEFT - 6, y + 4, "end"))
    return "".join(parts)


def _band(line: Line, i: int, x_of: Callable[[float], float], chart: Chart) -> str:
    known = [p for p in line.points if not math.isnan(p.low) and not math.isnan(p.high)]
    if len(known) < 2:
        return ""
    upper = _corners([(x_of(p.x), _y_of(p.high)) for p in known], chart.steps)
    lower = _corners([(x_of(p.x), _y_of(p.low)) for p in known], chart.steps)
    opacity = 0.4 / max(3, len(chart.lines))  # many bands together stay light
    return _coloured(
        i,
        f'<polygon points="{_points([*upper, *reversed(lower)])}" fill="currentColor" '
        f'fill-opacity="{opacity:.2f}"/>',
    )


def _line(line: Line, i: int, x_of: Callable[[float], float], chart: Chart) -> str:
    known = [point for point in line.points if not math.isnan(point.value)]
    drawn = _stroke(i, _corners([(x_of(p.x), _y_of(p.value)) for p in known], chart.steps))
    for point in known:
        told = f"{line.name}, {chart.x_label} {point.x:g}: {point.value:.1f} %"
        if not math.isnan(point.low):
            told += f" [{point.low:.1f}, {point.high:.1f}]"
        mark = _mark(i, x_of(point.x), _y_of(point.value), hidden=chart.steps)
        drawn += f"<g><title>{_text(told)}</title>{mark}</g>"
    return _coloured(i, drawn)


def _stroke(i: int, corners: Sequence[tuple[float, float]]) -> str:
    return (
        f'<polyline points="{_points(corners)}" fill="none" stroke="currentColor" '
        f'stroke-width="2" stroke-dasharray="{_DASHES[i % len(_DASHES)]}"/>'
    )


def _mark(i: int, x: float, y: float, hidden: bool = False) -> str:
    """A disc, square, triangle or diamond; a hidden one only bears the words for a pointer."""
    shapes = (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5"',
        f'<rect x="{x - 3.2:.1f}" y="{y - 3.2:.1f}" width="6.4" height="6.4"',
        f'<path d="M{x:.1f} {y - 4.5:.1f}l4.2 7.5h-8.4z"',
        f'<path d="M{x:.1f} {y - 4.7:.1f}l4.7 4.7-4.7 4.7-4.7-4.7z"',
    )
    return f'{shapes[i % len(shapes)]} fill="currentColor" fill-opacity="{0 if hidden else 1}"/>'


def _legend(name: str, i: int, marks: bool) -> str:
    y = _TOP + _PLOT_HEIGHT + 54 + 18 * i
    sample = _stroke(i, [(_LEFT, y), (_LEFT + 30, y)])
    sample += _mark(i, _LEFT + 15, y) if marks else ""
    return _coloured(i, sample) + _label(name, _LEFT + 38, y + 4, "start")


def _coloured(i: int, drawn: str) -> str:
    i %= len(COLOURS)
    return f'<g class="series-{i}" color="{COLOURS[i]}">{drawn}</g>'


def _corners(points: Sequence[tuple[float, float]], steps: bool) -> list[tuple[float, float]]:
    """Where a line turns; a stepped one holds its value until the next x."""
    if not steps:
        return list(points)
    corners = list(points[:1])
    for (_, before), (x, y) in pairwise(points):
        corners += [(x, before), (x, y)]
    return corners


def _points(corners: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)


def _label(text: str, x: float, y: float, anchor: str, weight: str = "normal") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" '
        f'fill="#333333">{_text(_short(text))}</text>'
    )


def _rule(x: float, y: float, x_end: float, y_end: float, name: str = "axis") -> str:
    colour = "#dddddd" if name == "grid" else "#555555"
    return (
        f'<line class="{name}" x1="{x:.1f}" y1="{y:.1f}" x2="{x_end:.1f}" y2="{y_end:.1f}" '
        f'stroke="{colour}"/>'
    )


def _text(text: str) -> str:
    return escape(_FORBIDDEN.sub("\ufffd", text))


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
