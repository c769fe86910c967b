"""The charts of a report: accuracy over ε, and over the queries an attack may ask."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from nlp_adv.report.cells import Cell, Table
from nlp_adv.report.chart import Chart, Line, Point
from nlp_adv.report.content import Report
from nlp_adv.report.standing import moves_text, records_under
from nlp_adv.robustness.record import Record
from nlp_adv.robustness.statistics import Share, queries_of, robustness_curve

_BUDGETS = 40  # points of a query curve, at most


def epsilon_charts(report: Report) -> list[Chart]:
    """One for each attack on embeddings, a line a method."""
    keys = dict.fromkeys((c.title, c.x_label) for m in report.models for c in m.curves)
    charts = []
    for title, x_label in keys:
        lines = []
        for name, models in report.methods().items():
            curves = [curve for model in models for curve in model.curves]
            same = [dict(c.points) for c in curves if (c.title, c.x_label) == (title, x_label)]
            if same:
                lines.append(_line(name, same))
        charts.append(Chart(title=title, x_label=x_label, lines=lines))
    return charts


def query_charts(report: Report, attacks: Sequence[str]) -> list[Chart]:
    """One for each attack that changes texts: the accuracy if it may ask so many queries.

    Read off one run: a text falls at the number of queries that its success took.
    """
    charts = []
    for attack in attacks:
        under = {
            name: [records_under(model.records, attack) for model in models]
            for name, models in report.methods().items()
        }
        records = [record for seeds in under.values() for seed in seeds for record in seed]
        if not moves_text(records):
            continue
        budgets = _budgets(records)
        lines = [
            _line(name, [_falling(seed, budgets) for seed in seeds if seed])
            for name, seeds in under.items()
            if any(seeds)
        ]
        charts.append(Chart(title=attack, x_label="queries a text", lines=lines, steps=True))
    return charts


def _budgets(records: Sequence[Record]) -> list[int]:
    """Numbers of queries at which texts fell, evenly thinned, and the ends of the axis."""
    asked = sorted({queries_of(record) for record in records if record.outcome == "fooled"})
    every = max(1, math.ceil(len(asked) / _BUDGETS))
    last = max(queries_of(record) for record in records)
    # From a round number below the first success: before it nothing happens.
    first = asked[0] if asked else 1
    power = 10 ** (len(str(first)) - 1)
    start = max(power * digit for digit in (1, 2, 5) if power * digit <= first)
    return sorted({start, *asked[::every], *asked[-1:], last})


def _falling(records: Sequence[Record], budgets: Sequence[int]) -> dict[float, Share]:
    return dict(robustness_curve(records, budgets))


def _line(name: str, seeds: Sequence[Mapping[float, Share]]) -> Line:
    """Mean over seeds; the band is Wilson's interval of one seed, the range of several."""
    points = []
    for x in sorted({x for seed in seeds for x in seed}):
        shares = [seed[x] for seed in seeds if x in seed]
        values = [share.value for share in shares]
        ends = shares[0].interval() if len(shares) == 1 else (min(values), max(values))
        points.append(Point(x, *(100 * value for value in (fmean(values), *ends))))
    return Line(name, points)


def chart_table(chart: Chart) -> Table:
    """The chart's numbers, a row an x."""
    xs = sorted({point.x for line in chart.lines for point in line.points})
    rows = []
    for x in xs:
        row = [Cell(f"{x:g}")]
        for line in chart.lines:
            at = next((point for point in line.points if point.x == x), None)
            row.append(Cell("–") if at is None else _told(at))
        rows.append(tuple(row))
    return Table((chart.x_label, *(line.name for line in chart.lines)), tuple(rows))


def _told(point: Point) -> Cell:
    return Cell(f"{point.value:.1f}", (f"[{point.low:.1f}, {point.high:.1f}]",))
