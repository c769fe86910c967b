"""What a training run looked like: its losses and accuracies, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nlp_adv.drawing import line_style, mark, new_figure, saved, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LOSSES = {"loss": "training loss", "eval_loss": "validation loss"}
_ACCURACIES = {"eval_accuracy": "clean", "eval_robust_accuracy": "under attack"}

History = Sequence[Mapping[str, Any]]


def training_curves(runs: Mapping[str, History], path: str | None = None) -> Figure:
    """Losses on the left, validation accuracies without and under attack on the right.

    Args:
        runs: a Trainer's `state.log_history` by the run's name.
        path: where to write it: .svg, .png or .pdf.

    Raises:
        UserError: matplotlib is not installed, or the file cannot be written.
    """
    figure = new_figure(11, 4.2)
    left, right = figure.subplots(1, 2)
    for number, (name, history) in enumerate(runs.items()):
        for axes, quantities in ((left, _LOSSES), (right, _ACCURACIES)):
            for which, (key, label) in enumerate(quantities.items()):
                _line(axes, history, key, f"{name}: {label}", number, which)
    left.set_ylabel("loss")
    right.set_ylabel("validation accuracy")
    right.set_ylim(0, 1)
    for axes in (left, right):
        axes.set_xlabel("epoch")
        tidy(axes)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=9, frameon=False)
    return saved(figure, path)


def _line(axes: Axes, history: History, key: str, label: str, number: int, which: int) -> None:
    points = [(line["epoch"], line[key]) for line in history if key in line]
    if not points:
        return
    style = line_style(number) | {"linestyle": ("-", "--")[which]}
    epochs, values = zip(*points, strict=True)
    axes.plot(epochs, values, label=label, marker=mark(which), markersize=4, **style)
