"""The page and the figure of `frontier.py`."""

import platform
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from nlp_adv.drawing import COLOURS, mark, new_figure, saved, tidy
from nlp_adv.folders import write_whole
from nlp_adv.robustness.matched import Outcome, constant_answers, gains, hull, of_paired
from nlp_adv.robustness.seeds import Interval, mean_of_table

RESULTS = Path(__file__).parent / "results" / "frontier"
CHEAP = 1.5  # clean steps
KINDS = ("plain", "noise", "fgm", "pgd", "freelb")  # a colour each


def outcome(cell: Mapping[str, Any]) -> Outcome:
    """Of the digits of a cell."""
    return Outcome(*(np.array([float(one) for one in cell[key]]) for key in ("right", "robust")))


@dataclass(frozen=True)
class Data:
    """What was found on one data set.

    Args:
        name: of it.
        labels: of the attacked texts.
        cells: point → seed → cell.
    """

    name: str
    labels: tuple[int, ...]
    cells: Mapping[str, Mapping[int, Mapping[str, Any]]]

    def points(self) -> list["Point"]:
        """In the order of the recipe."""
        return [Point(name, seeds, self) for name, seeds in self.cells.items() if seeds]

    def plain(self, seed: int) -> list[Outcome]:
        """Plain models of a seed: whole runs, states on the way there, one answer for all."""
        runs = [seeds[seed] for name, seeds in self.cells.items() if is_plain(name, seeds, seed)]
        on_the_way = [one for run in runs for one in run["on_the_way"].values()]
        return [outcome(one) for one in (*runs, *on_the_way)] + constant_answers(self.labels)


def is_plain(name: str, seeds: Mapping[int, Any], seed: int) -> bool:
    """Whether a point is a control that was trained without perturbation, with this seed."""
    return name.startswith("plain") and seed in seeds


@dataclass(frozen=True)
class Point:
    """One row of the table."""

    name: str
    seeds: Mapping[int, Mapping[str, Any]]
    data: Data

    @property
    def kind(self) -> str:
        """The method."""
        return next(kind for kind in KINDS if self.name.startswith(kind))

    @cached_property
    def outcomes(self) -> list[Outcome]:
        """One a seed."""
        return [outcome(cell) for cell in self.seeds.values()]

    @cached_property
    def gains(self) -> np.ndarray:
        """(seeds, texts); see `nlp_adv.robustness.matched`."""
        return gains(self.outcomes, [self.data.plain(seed) for seed in self.seeds])

    @property
    def gain(self) -> Interval:
        """Over plain training at equal clean accuracy."""
        return of_paired(self.gains)

    @property
    def clean(self) -> float:
        """On all test texts."""
        return statistics.fmean(cell["clean"] for cell in self.seeds.values())

    @property
    def counted(self) -> float:
        """Passes of a run, in those of a plain one."""
        return self._ratio("flops")

    @property
    def measured(self) -> float:
        """Processor time of a run, in that of the plain one of its seed; the median."""
        return self._ratio("cpu_seconds")

    def _ratio(self, key: str) -> float:
        plain = self.data.cells["plain"]
        return statistics.median(cell[key] / plain[s][key] for s, cell in self.seeds.items())


def data_of(found: Mapping[str, Any], points: list[str]) -> list[Data]:
    """By data set; a seed counts where its plain model is there."""
    by_name: dict[str, dict[str, dict[int, Any]]] = {}
    for key, cell in found["cells"].items():
        name, point, seed = key.split(" / ")
        by_name.setdefault(name, {p: {} for p in points})[point][int(seed)] = cell
    return [
        Data(
            name,
            tuple(map(int, found["labels"][name])),
            {
                point: {s: seeds[s] for s in sorted(seeds) if s in cells["plain"]}
                for point, seeds in cells.items()
            },
        )
        for name, cells in by_name.items()
        if cells["plain"]
    ]


def write_results(found: Mapping[str, Any], points: list[str]) -> None:
    """`README.md` and a figure for each data set."""
    data = data_of(found, points)
    if not data:
        raise SystemExit("No seed has its plain model yet, with which all others are compared.")
    RESULTS.mkdir(parents=True, exist_ok=True)
    for one in data:
        draw(one)
    write_whole(RESULTS / "README.md", page(data, found["setting"]))


def page(data: list[Data], setting: Mapping[str, Any]) -> str:
    """The whole page."""
    training, steps = setting["training"], setting["attack_steps"]
    head = f"""# Robust accuracy against the cost of training, at equal clean accuracy

`recipes/frontier.py`: a 6-layer MiniLM encoder with a fresh head, {setting["train_samples"]}
training texts, drawn anew for each seed, {training["num_train_epochs"]} epoch of batches of
{training["per_device_train_batch_size"]}; {platform.machine()} processor, torch
{torch.__version__}, transformers {transformers.__version__}. Attacked on the word embeddings at
ε = {setting["epsilon"]:g}, a share of the norm of a text's, with APGD on the margin ({steps} steps)
and APGD-T from a random start ({steps} steps a class) on what that left, on
{setting["examples"]} test texts. A method's ε is in the same unit; its attack sets in after a tenth
of the steps and has its full size after four tenths.

*Counted*: passes of the run, those of a plain run being 1. *Measured*: processor time of the whole
run, optimizer included, over that of the plain run of the same seed, the median; on a shared
machine, so rough. *Clean*: on {setting["test_examples"]} test texts. *Gain*: robust accuracy minus
what plain training reaches **at the same clean accuracy**: the upper concave hull of the plain
model, its state after each quarter of the run, label smoothing, half the learning rate, and one
answer for all texts. 95 % intervals: t over seeds with the texts' variance; of one seed over texts
alone, which says nothing of another run.

A point near the share of the larger class in both columns gives one answer to all texts: by robust
accuracy alone it would be the best of the table.
"""
    parts = [head]
    for one in data:
        parts += [f"## {one.name}\n", table(one), verdict(one), f"![{one.name}]({one.name}.svg)\n"]
    return "\n".join(parts)


def table(data: Data) -> str:
    """A row a point."""
    lines = [
        "| | point | seeds | counted | measured | clean, % | robust, % | gain |",
        "|---:|---|---:|---:|---:|---:|---|---|",
    ]
    for number, point in enumerate(data.points(), 1):
        robust = np.stack([one.robust for one in point.outcomes])
        low, high = mean_of_table(robust)
        shown = f"{100 * robust.mean():.1f} [{100 * low:.1f}, {100 * high:.1f}]"
        lines.append(
            f"| {number} | {point.name} | {len(point.seeds)} | {point.counted:.2f} | "
            f"{point.measured:.2f} | {100 * point.clean:.1f} | {shown} | {told(point.gain)} |"
        )
    return "\n".join(lines) + "\n"


def told(gain: Interval) -> str:
    """In percentage points."""
    return f"{100 * gain.difference:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"


def verdict(data: Data) -> str:
    """The best point of all against the best of the cheap ones, on the seeds that both have."""
    attacked = [one for one in data.points() if one.kind != "plain"]
    cheap = [one for one in attacked if one.counted <= CHEAP]
    if not cheap:
        return ""
    best, best_cheap = (max(some, key=lambda p: p.gain.difference) for some in (attacked, cheap))
    text = (
        f"Of all points “{best.name}” gains most, at {best.counted:.2f} clean steps; of those up "
        f"to {CHEAP:g}, “{best_cheap.name}”, at {best_cheap.counted:.2f}"
    )
    both = [seed for seed in best.seeds if seed in best_cheap.seeds]
    if best is best_cheap or not both:
        return f"{text}.\n"
    rows = [[list(one.seeds).index(seed) for seed in both] for one in (best_cheap, best)]
    apart = of_paired(best_cheap.gains[rows[0]] - best.gains[rows[1]])
    return f"{text}: {told(apart)} points from the best ({len(both)} seeds in common).\n"


def draw(data: Data) -> None:
    """The gain over the cost, and robust over clean accuracy with the plain curve."""
    figure = new_figure(10.0, 4.4)
    left, right = figure.subplots(1, 2)
    seen = set()
    for number, point in enumerate(data.points(), 1):
        at = KINDS.index(point.kind)
        label = None if point.kind in seen else point.kind
        seen.add(point.kind)
        style = {"color": COLOURS[at], "marker": mark(at), "linestyle": "none", "label": label}
        gain = point.gain
        ends = [[100 * (gain.difference - gain.low)], [100 * (gain.high - gain.difference)]]
        y = 100 * gain.difference
        left.errorbar(point.counted, y, yerr=ends, elinewidth=0.6, **style)
        left.annotate(str(number), (point.counted, y), (3, 3), textcoords="offset points")
        x = 100 * statistics.fmean(one.clean_accuracy for one in point.outcomes)
        y = 100 * statistics.fmean(one.robust_accuracy for one in point.outcomes)
        right.plot(x, y, **style)
        right.annotate(str(number), (x, y), (3, 3), textcoords="offset points")
    for seed in data.cells["plain"]:
        corners = hull(data.plain(seed))
        right.plot(
            [100 * one.clean_accuracy for one in corners],
            [100 * one.robust_accuracy for one in corners],
            color=COLOURS[0],
            linewidth=0.8,
            alpha=0.6,
        )
    left.axhline(0, color="#888888", linewidth=0.8)
    left.set_xscale("log")
    ticks = (1, 1.5, 2, 3, 4, 6, 8)
    left.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    left.minorticks_off()
    left.set_xlabel("passes, in those of plain training")
    left.set_ylabel("robust accuracy above plain training's\nat equal clean accuracy, points")
    right.set_xlabel("clean accuracy, %")
    right.set_ylabel("robust accuracy, %")
    right.set_xlim(left=60)
    for axes in (left, right):
        tidy(axes)
    left.legend(frameon=False)
    saved(figure, str(RESULTS / f"{data.name}.svg"))
