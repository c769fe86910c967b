"""The charts of a report, and their numbers: accuracy over ε and over queries, robust radii."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from nlp_adv.report.cells import MISSING, Cell, Table, percent
from nlp_adv.report.content import ModelResult, Report
from nlp_adv.robustness.curve import NORMS, Curve
from nlp_adv.robustness.record import Norm, Point, Record, Substitution
from nlp_adv.robustness.statistics import Share, norm_of, queries_of, robustness_curve

_BUDGETS = 40  # points of a query curve, at most
_LEVELS = 255  # the scale of an axis of grey levels


@dataclass(frozen=True)
class Mark:
    """A value with the ends of its interval, all in percent; nan ends draw no band."""

    x: float
    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Line:
    """One method's or attack's values, by growing x."""

    name: str
    points: Sequence[Mark]


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A share in percent over something.

    Args:
        title, x_label: written above and below.
        lines: in the order of the legend; the n-th has the n-th colour everywhere.
        steps: whether a value holds until the next x, or is joined to it by a straight line.
        levels: x are grey levels of 255.
        y_label: what the share is of.
    """

    title: str
    x_label: str
    lines: Sequence[Line]
    steps: bool = False
    levels: bool = False
    y_label: str = "accuracy, %"


def epsilon_charts(report: Report) -> list[Chart]:
    """Accuracy over ε: of several methods one chart an attack, of one method all in one."""
    methods = report.methods()
    alone = len(methods) == 1
    charts: dict[tuple[str, str], dict[str, list[Curve]]] = {}
    for name, models in methods.items():
        for curve in (curve for model in models for curve in model.curves):
            title, line = ("", curve.title) if alone else (curve.title, name)
            lines = charts.setdefault((title, curve.x_label), {})
            lines.setdefault(line, []).append(curve)
    found = []
    for (title, x_label), lines in charts.items():
        if alone and len(lines) == 1:
            ((title, curves),) = lines.items()
            lines = {next(iter(methods)): curves}
        scale = next(iter(lines.values()))[0].scale
        drawn = [_line(name, curves) for name, curves in lines.items()]
        title = title or "Accuracy under attack"
        found.append(Chart(title=title, x_label=x_label, lines=drawn, levels=scale == _LEVELS))
    return found


def _line(name: str, curves: Sequence[Curve]) -> Line:
    scale = curves[0].scale
    seeds = [{round(scale * e, 9): one for e, one in curve.points.items()} for curve in curves]
    return shares_line(name, seeds)


def query_charts(report: Report, attacks: Sequence[str]) -> list[Chart]:
    """One for each attack that changes texts: the accuracy if it may ask so many queries.

    Read off one run: a text is fooled at the number of queries that its success took.
    """
    charts = []
    for attack in attacks:
        under = {
            name: [model.under(attack) for model in models]
            for name, models in report.methods().items()
        }
        records = [record for seeds in under.values() for seed in seeds for record in seed]
        if not moves_text(records):
            continue
        budgets = _budgets(records)
        lines = [
            shares_line(name, [dict(robustness_curve(seed, budgets)) for seed in seeds if seed])
            for name, seeds in under.items()
            if any(seeds)
        ]
        charts.append(Chart(title=attack, x_label="queries a text", lines=lines, steps=True))
    return charts


def moves_text(records: Sequence[Record]) -> bool:
    """Whether any of the texts differs from its original; they may be left out of the records."""
    found = [one.found for one in records if isinstance(one.found, Substitution)]
    return any(one.words_changed or one.adversarial != one.original for one in found)


def _budgets(records: Sequence[Record]) -> list[int]:
    """Numbers of queries at which texts were fooled, evenly thinned, and the ends of the axis."""
    asked = sorted({queries_of(record) for record in records if record.outcome == "fooled"})
    every = max(1, math.ceil(len(asked) / _BUDGETS))
    last = max(queries_of(record) for record in records)
    # From a round number below the first success: before it nothing happens.
    first = asked[0] if asked else 1
    power = 10 ** (len(str(first)) - 1)
    start = max(power * digit for digit in (1, 2, 5) if power * digit <= first)
    return sorted({start, *asked[::every], *asked[-1:], last})


def shares_line(name: str, seeds: Sequence[Mapping[float, Share]]) -> Line:
    """Mean over seeds; the band is Wilson's interval of one seed, the range of several."""
    points = []
    for x in sorted({x for seed in seeds for x in seed}):
        shares = [seed[x] for seed in seeds if x in seed]
        values = [share.value for share in shares]
        ends = shares[0].interval() if len(shares) == 1 else (min(values), max(values))
        points.append(Mark(x, *(100 * value for value in (fmean(values), *ends))))
    return Line(name, points)


@dataclass(frozen=True)
class Radii:
    """The robust radii that an attack which seeks the smallest δ found.

    Args:
        attack, method: whose.
        norm: in which they are measured, in the unit of the attack's δ.
        values: of all attacked examples of all seeds, ascending; inf where nothing was found.
    """

    attack: str
    method: str
    norm: Norm
    values: tuple[float, ...]

    @property
    def quartiles(self) -> tuple[float, ...]:
        """Radii at which a quarter, half and three quarters of the examples are fooled."""
        places = (math.ceil(share * len(self.values)) - 1 for share in (0.25, 0.5, 0.75))
        return tuple(self.values[place] for place in places)


def robust_radii(report: Report, attacks: Sequence[str]) -> list[Radii]:
    """Of each method under each attack that has no radius of its own and measured its δ.

    Where there are several of one norm, also the smallest that any of them found: it bounds the
    distance to a wrong answer best.
    """
    found = []
    for name, models in report.methods().items():
        together: dict[Norm, list[dict[tuple[int, int], float]]] = {}
        for attack in attacks:
            norm = _norm(attack, models[0])
            values = {
                (number, one.id): one.norm(norm) if one.outcome == "fooled" else math.inf
                for number, model in enumerate(models)
                for one in model.under(attack)
                if one.epsilon is None and one.attacked and isinstance(one.found, Point)
            }
            if values and not any(math.isnan(value) for value in values.values()):
                found.append(Radii(attack, name, norm, tuple(sorted(values.values()))))
                together.setdefault(norm, []).append(values)
        for norm, several in together.items():
            if len(several) > 1 and all(one.keys() == several[0].keys() for one in several):
                least = sorted(min(one[key] for one in several) for key in several[0])
                found.append(Radii("the smallest of these", name, norm, tuple(least)))
    return found


def _norm(attack: str, model: ModelResult) -> Norm:
    """Of the ball that is reported on; without one, as the attack's name says."""
    if model.within is not None:
        return norm_of(model.within)
    return "linf" if "linf" in attack else "l1" if "l1" in attack else "l2"


def radius_charts(radii: Sequence[Radii]) -> list[Chart]:
    """The share of examples that a δ no longer than x fools, one chart a norm."""
    charts = []
    for norm in dict.fromkeys(one.norm for one in radii):
        same = [one for one in radii if one.norm == norm]
        several = len({one.method for one in same}) > 1
        lines = []
        for one in same:
            known = sorted({0.0, *(value for value in one.values if value < math.inf)})
            shown = dict.fromkeys([*known[:: max(1, len(known) // 200)], known[-1]])
            share = 100 / len(one.values)
            points = [Mark(x, share * bisect_right(one.values, x)) for x in shown]
            lines.append(Line(f"{one.attack}: {one.method}" if several else one.attack, points))
        title, x_label = "Robust radii", f"smallest ‖δ‖, {NORMS[norm]}"
        chart = Chart(title=title, x_label=x_label, lines=lines, steps=True, y_label="fooled, %")
        charts.append(chart)
    return charts


def radius_table(radii: Sequence[Radii]) -> Table:
    """Quartiles of the robust radii, a row an attack and method."""
    rows = []
    for one in radii:
        shown = [f"{value:.4g}" if value < math.inf else "not found" for value in one.quartiles]
        share = sum(value < math.inf for value in one.values) / len(one.values)
        named = f"{one.attack}: {one.method}", NORMS[one.norm]
        rows.append((*named, *shown, percent(share), str(len(one.values))))
    head = ("attack: method", "norm", "lower quartile", "median", "upper quartile", "found, %")
    return Table.of((*head, "examples"), *rows)


def chart_table(chart: Chart) -> Table:
    """The chart's numbers, a row a line; of few radii also the area under the line."""
    xs = sorted({point.x for line in chart.lines for point in line.points})
    rows = []
    for line in chart.lines:
        at = {point.x: point for point in line.points}
        cells = [_told(at[x]) if x in at else MISSING for x in xs]
        rows.append((line.name, *cells, *([] if chart.steps else [_area(line)])))
    shown = [f"{x:g}/255" if chart.levels and x and x == int(x) else f"{x:g}" for x in xs]
    return Table.of((chart.x_label, *shown, *([] if chart.steps else ["area"])), *rows)


def _told(point: Mark) -> Cell:
    ends = () if math.isnan(point.low) else (f"[{point.low:.1f}, {point.high:.1f}]",)
    return Cell(f"{point.value:.1f}", ends)


def _area(line: Line) -> str:
    """1/x_max · ∫ accuracy dx by trapezoids, in percent."""
    last = line.points[-1].x
    if last == 0:
        return f"{line.points[-1].value:.1f}"
    parts = ((b.x - a.x) * (a.value + b.value) / 2 for a, b in pairwise(line.points))
    return f"{sum(parts) / last:.1f}"
