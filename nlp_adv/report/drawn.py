"""Charts drawn by matplotlib: as files of their own, and inline for a page of two colour schemes.

Every line has its own dashes and marks: nothing hangs on colour alone. Text stays text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from nlp_adv.drawing import COLOURS, band_style, line_style, mark, new_figure, svg_bytes, tidy
from nlp_adv.report.charts import Chart, Line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH, _TOP, _PLOT = 5.6, 0.35, 2.4  # inches: a chart, what stands above its axes, and these
_BELOW, _LINE = 0.65, 0.21  # inches: what stands below the axes, and a line of the legend
_LOG_FROM = 50  # largest ÷ smallest, from which an axis is logarithmic
_MARKED = 12  # points of a line, up to which each one has a mark
_LONGEST = 60  # characters of a title that fit
# Characters that XML does not allow, not even escaped.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_INK, _GRID = "#000000", "#dddddd"  # as matplotlib and `tidy` draw text, frames and grids


def sheet(charts: Sequence[Chart]) -> str:
    """All charts below one another on white, as an SVG file."""
    return svg_bytes(figure_of(charts), text=True).decode("utf-8")


def figure_of(charts: Sequence[Chart]) -> Figure:
    """Charts below one another; their axes are as high as each other, whatever the legends."""
    heights = [_TOP + _PLOT + _BELOW + _LINE * len(chart.lines) for chart in charts]
    whole, top = sum(heights), 0.0
    figure = new_figure(_WIDTH, whole, laid_out=False)
    for chart, height in zip(charts, heights, strict=True):
        _draw(figure.add_axes((0.11, 1 - (top + _TOP + _PLOT) / whole, 0.85, _PLOT / whole)), chart)
        top += height
    return figure


def inline(chart: Chart, number: int) -> str:
    """One chart as an `<svg>` element in the colours of the page around it.

    Args:
        chart: what is drawn.
        number: of the chart on its page, for names that no other chart has.
    """
    return inlined(figure_of([chart]), number, chart.title)


def inlined(figure: Figure, number: int, title: str) -> str:
    """A figure as an element of a page.

    Args:
        figure: what is drawn.
        number: of the element on its page.
        title: what it shows, for those who do not see it.
    """
    for patch in (figure.patch, *(axes.patch for axes in figure.axes)):
        patch.set_visible(False)
    text = svg_bytes(figure, text=True).decode("utf-8")
    text = text[text.index("<svg") :]
    # What matplotlib says of itself; a style in it would be the whole page's.
    text = re.sub(r" *<(metadata|defs)>\s*<(rdf|style).*?</\1>\n?", "", text, flags=re.S)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\1c{number}-", text)
    text = text.replace(_INK, "currentColor").replace(_GRID, f"var(--rule, {_GRID})")
    for place, colour in enumerate(COLOURS):
        text = text.replace(colour, f"var(--series-{place}, {colour})")
    end = text.index(">")  # no size of its own
    start = re.sub(r' (?:width|height)="[^"]*"', "", text[:end])
    said = f'<svg role="img" aria-label="{escape(_clean(title))}"'
    return start.replace("<svg", said, 1) + text[end:]


def _draw(axes: Axes, chart: Chart) -> None:
    values = sorted({point.x for line in chart.lines for point in line.points})
    positive = [value for value in values if value > 0]
    if positive and positive[-1] >= _LOG_FROM * positive[0]:
        axes.set_xscale("symlog", linthresh=positive[0], linscale=0.3)
        axes.xaxis.set_major_formatter("{x:g}")
    elif chart.levels and len(values) <= _MARKED:
        axes.set_xticks(values)
    for number, line in enumerate(chart.lines):  # bands first: none may cover another's line
        _band(axes, line, number, chart)
    for number, line in enumerate(chart.lines):
        known = [point for point in line.points if not math.isnan(point.value)]
        x, y = [point.x for point in known], [point.value for point in known]
        style = {"label": _clean(line.name), "clip_on": False, **line_style(number)}
        if chart.steps:
            axes.step(x, y, where="post", **style)
        else:
            axes.plot(x, y, marker=mark(number) if len(x) <= _MARKED else None, **style)
    axes.set_title(_clean(chart.title), fontsize=10.5, loc="left", parse_math=False)
    axes.set_xlabel(_clean(chart.x_label), parse_math=False)
    axes.set_ylabel(chart.y_label)
    axes.set_ylim(0, 100)
    tidy(axes)
    below = (-0.05, -0.2)
    legend = axes.legend(loc="upper left", bbox_to_anchor=below, frameon=False, fontsize=9.5)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a method may be called $x$


def _band(axes: Axes, line: Line, number: int, chart: Chart) -> None:
    known = [p for p in line.points if not math.isnan(p.low) and not math.isnan(p.high)]
    if len(known) < 2:
        for one in known:  # a point alone
            axes.vlines(one.x, one.low, one.high, color=line_style(number)["color"], lw=1)
        return
    x, ends = [p.x for p in known], ([p.low for p in known], [p.high for p in known])
    style = band_style(number, len(chart.lines))
    axes.fill_between(x, *ends, step="post" if chart.steps else None, **style)


def _clean(text: str) -> str:
    text = _FORBIDDEN.sub("\ufffd", text)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
