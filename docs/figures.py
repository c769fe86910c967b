"""Draws the README's figure from the committed results: `python docs/figures.py`."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "recipes")]

import numpy as np
from frontier_report import RESULTS, Point, data_of

from nlp_adv.drawing import COLOURS, new_figure, saved, tidy
from nlp_adv.robustness.seeds import mean_of_table

FIGURE = ROOT / "docs" / "figures" / "robustness.svg"
POINTS = {
    "plain": "plain",
    "noise on ½, ε 0.08": "noise",
    "fgm on ½, ε 0.04": "FGM, half of the rows",
    "freelb-2, ε 0.08": "FreeLB, 2 passes",
}
SERIES = {"right": "clean", "robust": "under attack"}


Bar = tuple[float, float, float]  # in %: the mean, and the ends of its 95 % interval


def bars() -> dict[str, tuple[float, dict[str, Bar]]]:
    """Of each point what a run costs, in plain ones, and both accuracies on the attacked texts."""
    found = json.loads((RESULTS / "cells.json").read_text(encoding="utf-8"))
    names = dict.fromkeys(key.split(" / ")[1] for key in found["cells"])
    (data,) = data_of(found, list(names))
    points = {point.name: point for point in data.points()}
    return {
        name: (points[name].counted, {key: _bar(points[name], key) for key in SERIES})
        for name in POINTS
    }


def _bar(point: Point, series: str) -> Bar:
    cells = point.seeds.values()
    right = np.array([[float(one) for one in cell[series]] for cell in cells])  # (seeds, texts)
    low, high = mean_of_table(right)
    return 100 * float(right.mean()), 100 * low, 100 * high


def draw(path: Path = FIGURE) -> None:
    """Bars of clean and robust accuracy, with their intervals."""
    found = bars()
    figure = new_figure(7, 2.9)
    axes = figure.subplots()
    for number, (series, label) in enumerate(SERIES.items()):
        places = [place + 0.38 * (number - 0.5) for place in range(len(POINTS))]
        means, lows, highs = np.array([shown[series] for _, shown in found.values()]).T
        axes.bar(places, means, 0.36, color=COLOURS[number], label=label)
        ends = [means - lows, highs - means]
        axes.errorbar(places, means, ends, fmt="none", ecolor="#333333", capsize=3)
        for place, mean in zip(places, means, strict=True):
            axes.text(place, 3, f"{mean:.0f}", color="white", ha="center", weight="bold")
    costs = [f"{POINTS[name]}\n{cost:.2g} × the cost" for name, (cost, _) in found.items()]
    axes.set_xticks(range(len(POINTS)), costs)
    axes.set_ylim(0, 109)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel("accuracy, %")
    tidy(axes)
    axes.legend(frameon=False, ncols=2, loc="upper right")
    path.parent.mkdir(exist_ok=True)
    saved(figure, str(path))


if __name__ == "__main__":
    draw()
