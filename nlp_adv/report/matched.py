"""Every method beside the curve that plain training draws: robust over clean accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nlp_adv.report.cells import MISSING, Cell, Table, interval, p_value, points
from nlp_adv.report.charts import Chart, Line, Mark
from nlp_adv.report.content import ModelResult, Report
from nlp_adv.report.numbers import CLEAN, LEVEL, MARKED_FROM, Numbers, is_tested, right_answers
from nlp_adv.robustness.matched import Outcome, constant_answers, gain_at_equal_accuracy, hull
from nlp_adv.robustness.paired import holm
from nlp_adv.robustness.seeds import Interval, mean_of_table

CURVE = "plain training"
_BOTH = ("right", "robust")


@dataclass(frozen=True, kw_only=True)
class Matched:
    """One measure of accuracy under attack, of all methods.

    Args:
        measure: an attack, or the worst case over several.
        outcomes: method → seed → which texts it has right without and under attack.
        plain: names of the methods whose models were trained without perturbation.
        constant: the models that give one answer to every text.
    """

    measure: str
    outcomes: Mapping[str, Mapping[int | None, Outcome]]
    plain: Sequence[str]
    constant: Sequence[Outcome]

    def curve(self, seed: int | None) -> list[Outcome]:
        """The plain models of a seed, and constant answers; empty where no plain one is there."""
        seeds = [self.outcomes[name] for name in self.plain]
        known = [one[seed] for one in seeds if seed in one]
        return [*known, *self.constant] if known else []

    def gain(self, method: str) -> tuple[Interval, int] | None:
        """Over plain training at equal clean accuracy, and from how many seeds."""
        seeds = self.outcomes.get(method, {})
        pairs = [(one, curve) for seed, one in seeds.items() if (curve := self.curve(seed))]
        if not pairs:
            return None
        mine, curves = zip(*pairs, strict=True)
        return gain_at_equal_accuracy(mine, curves), len(pairs)


def matched(report: Report, numbers: Numbers) -> list[Matched]:
    """For each measure under attack; nothing where no model is known to be plainly trained.

    Nor where no other model is there to be compared with them.
    """
    plain = [name for name, models in report.methods().items() if all(one.plain for one in models)]
    if not plain or len(plain) == len(report.methods()):
        return []
    found = []
    for measure in numbers.measures:
        if measure != CLEAN and (one := _of_measure(report, numbers, measure, plain)):
            found.append(one)
    return found


def _of_measure(
    report: Report, numbers: Numbers, measure: str, plain: Sequence[str]
) -> Matched | None:
    under = {
        (model.name, model.seed): (model, right)
        for model in report.models
        if (right := right_answers(model, measure, numbers.together))
    }
    # Of texts that every model was attacked on: seeds and methods are paired text by text.
    every = [set(right) for _, right in under.values()]
    ids = sorted(set.intersection(*every)) if every else []
    if not ids:
        return None
    outcomes: dict[str, dict[int | None, Outcome]] = {}
    for (name, seed), (model, right) in under.items():
        clean = right_answers(model, CLEAN, numbers.together)
        both = np.array([[one[number] for number in ids] for one in (clean, right)])
        outcomes.setdefault(name, {})[seed] = Outcome(*both)
    named = [name for name in plain if name in outcomes]
    first, _ = next(iter(under.values()))
    constant = [] if report.target is not None else constant_answers(_labels(first, ids))
    return Matched(measure=measure, outcomes=outcomes, plain=named, constant=constant)


def _labels(model: ModelResult, ids: Sequence[int]) -> list[int]:
    labels = {record.id: record.label for record in model.records}
    return [labels[number] for number in ids]


def matched_table(report: Report, found: Sequence[Matched]) -> Table:
    """A row a method, a column a measure: its gain at equal clean accuracy."""
    gains = {
        (name, one.measure): gain
        for one in found
        for name in one.outcomes
        if name not in one.plain and (gain := one.gain(name)) is not None
    }
    p = holm({key: gain.p for key, (gain, _) in gains.items() if is_tested(report, *key)})
    rows: list[tuple[Cell | str, ...]] = []
    for name in report.methods():
        cells = [
            Cell("a point of the curve")
            if name in one.plain
            else _gain(gains.get((name, one.measure)), p.get((name, one.measure)))
            for one in found
        ]
        rows.append((name, *cells))
    return Table.of(("method", *(one.measure for one in found)), *rows)


def _gain(gain: tuple[Interval, int] | None, p: float | None) -> Cell:
    if gain is None:
        return Cell(MISSING, ("no plain model of its seeds",))
    value, seeds = gain
    told = seeds >= MARKED_FROM and p is not None and p < LEVEL
    mark = "" if not told else "▲ " if value.difference > 0 else "▼ "
    notes = [f"{seeds} seed{'s' * (seeds > 1)}", *([] if p is None else [p_value(p)])]
    return Cell(mark + points(value), tuple(notes))


def matched_charts(found: Sequence[Matched]) -> list[Chart]:
    """For each measure the curve of plain training, and a point a method with its interval."""
    return [
        Chart(
            title=one.measure,
            x_label="clean accuracy, % of the attacked examples",
            lines=[_curve(one), *(_point(name, one) for name in one.outcomes)],
            y_label="accuracy under attack, %",
        )
        for one in found
    ]


def points_table(chart: Chart) -> Table:
    """A row a method: where it is in the chart."""
    points = [(line.name, line.points[0]) for line in chart.lines if line.name != CURVE]
    rows = [
        (name, f"{at.x:.1f}", f"{at.value:.1f} {interval(at.low / 100, at.high / 100)}")
        for name, at in points
    ]
    return Table.of((chart.title, "clean accuracy, %", chart.y_label), *rows)


def _curve(one: Matched) -> Line:
    """H, of each plain method's mean over seeds and of constant answers.

    On the left of its first corner it is level: whoever may be less accurate need not be less
    robust.
    """
    means = [_mean(list(one.outcomes[name].values())) for name in one.plain]
    corners = [_mark(corner) for corner in hull([*means, *one.constant])]
    everyone = [_mean(list(seeds.values())).clean_accuracy for seeds in one.outcomes.values()]
    left = 100 * min(everyone)
    level = [Mark(left, corners[0].value)] if left < corners[0].x else []
    return Line(CURVE, [*level, *corners])


def _point(name: str, one: Matched) -> Line:
    """The mean over seeds, with the interval of its accuracy under attack."""
    seeds = list(one.outcomes[name].values())
    low, high = mean_of_table(np.stack([seed.robust for seed in seeds]))
    return Line(name, [replace(_mark(_mean(seeds)), low=100 * low, high=100 * high)])


def _mean(seeds: Sequence[Outcome]) -> Outcome:
    """How often a text is right, over seeds."""
    right, robust = (np.mean([getattr(one, name) for one in seeds], 0) for name in _BOTH)
    return Outcome(right, robust)


def _mark(one: Outcome) -> Mark:
    return Mark(100 * one.clean_accuracy, 100 * one.robust_accuracy)
