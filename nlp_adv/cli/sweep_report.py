"""What a sweep shows at its end: the trials, what mattered, and how to train the best one."""

import json
import math
import shlex
from collections.abc import Callable, Sequence
from importlib import import_module
from io import BytesIO
from typing import Any

from scipy.stats import spearmanr

from nlp_adv.cli.sweep_records import SweepFolder, TrialRecord
from nlp_adv.cli.sweep_space import Hyperparameter
from nlp_adv.cli.tables import table
from nlp_adv.folders import write_whole
from nlp_adv.training.trials import Interval

TABLE_NAME, PLOT_NAME, BEST_NAME = "sweep.md", "sweep.svg", "best.json"

_MEASURES: dict[str, Callable[[TrialRecord], float]] = {
    "objective": lambda record: record.objective,
    "clean": lambda record: record.clean,
    "robust": lambda record: mean(list(record.robust.values())),
}
_TICKS = 4
_MARKERS = {"objective": "o", "clean": "^", "robust": "v"}


def mean(values: Sequence[float]) -> float:
    """Their mean; nan of none."""
    return sum(values) / len(values) if values else math.nan


def trial_line(record: TrialRecord) -> str:
    """A finished trial in one line."""
    shown = " ".join(f"{name}={_short(value)}" for name, value in record.params.items())
    robust = "".join(f", PGD ε={float(e):g} {value:.4f}" for e, value in record.robust.items())
    return (
        f"{shown}: clean {record.clean:.4f}{robust}, objective "
        f"{record.objective:.4f}, {record.seconds:.1f} s"
    )


def report_sweep(
    folder: SweepFolder, space: list[Hyperparameter], formula: str, flags: dict[str, Any]
) -> None:
    """Print the table and the way to train the best trial; write both, and the plot.

    Args:
        folder: with at least one finished trial.
        space: what was searched.
        formula: what the objective is.
        flags: of `nlp-adv train` for the best trial.
    """
    trials, mattered = _trials(folder.ranked, space), _mattered(folder.records, space)
    write_whole(folder.path / BEST_NAME, json.dumps(flags, indent=2) + "\n")
    command = shlex.join(["nlp-adv", "train", *command_line(flags)])
    notes = [f"Objective: {formula}.", *_collapsed(folder)]
    drawn = _draw(folder, space)
    page = [
        "# Sweep",
        *notes,
        _markdown(trials),
        "Spearman's rank correlation of each hyperparameter with what was measured, over "
        f"{len(folder.records)} trials:",
        _markdown(mattered),
        *([f"![{PLOT_NAME}]({PLOT_NAME})"] if drawn else []),
        f"The best trial, {folder.best.number}, is trained by",
        f"```bash\n{command}\n```",
    ]
    write_whole(folder.path / TABLE_NAME, "\n\n".join(page) + "\n")
    print(f"\n{table(trials)}\n\nRank correlation (Spearman) over the trials:\n{table(mattered)}\n")
    print("\n".join(notes))
    if not drawn:
        print("No plot: it needs matplotlib (pip install matplotlib); then run the same command.")
    written = ", ".join(name for name in (TABLE_NAME, PLOT_NAME) if name != PLOT_NAME or drawn)
    print(f"Written to {folder.path}: {written}.")
    print(f"Train the best trial with\n\n  {command}\n\nor nlp-adv train {folder.path / BEST_NAME}")


def command_line(flags: dict[str, Any]) -> list[str]:
    """Flags by name as words of a command line."""
    words = []
    for name, value in flags.items():
        values = value if isinstance(value, list) else [value]
        words += [f"--{name}", *map(str, values)]
    return words


def _trials(records: list[TrialRecord], space: list[Hyperparameter]) -> list[list[str]]:
    """A row a trial, below the names of the columns."""
    names, radii = [one.name for one in space], list(records[0].robust)
    same = ["clean, attacked rows"] if radii else []
    head = ["trial", *names, "clean", *same, *(f"PGD ε={float(e):g}" for e in radii)]
    rows = [[*head, "objective", "seconds"]]
    for record in records:
        params = [_short(record.params[name]) for name in names]
        before = math.nan if record.clean_attacked is None else record.clean_attacked
        mark = " †" if record.constant else ""
        shown = [f"{score:.4f}" for score in [record.clean, *([before] if radii else [])]]
        shown += [f"{record.robust[e]:.4f}{mark}" for e in radii]
        shown.append(f"{record.objective:.4f}{mark}")
        rows.append([str(record.number), *params, *shown, f"{record.seconds:.1f}"])
    return rows


def _mattered(records: list[TrialRecord], space: list[Hyperparameter]) -> list[list[str]]:
    """A row a hyperparameter: its rank correlation with each measure."""
    rows = [["hyperparameter", *_MEASURES]]
    for one in space:
        values = [record.params[one.name] for record in records]
        scores = [[measure(record) for record in records] for measure in _MEASURES.values()]
        rows.append([one.name, *(_signed(rank_correlation(values, score)) for score in scores)])
    return rows


def rank_correlation(values: Sequence[Any], scores: Sequence[float]) -> float:
    """Spearman's ρ; nan for words, for fewer than three trials, and where one side is constant."""
    words = any(isinstance(value, str) for value in values)
    if words or len(values) < 3 or len(set(values)) < 2 or len(set(scores)) < 2:
        return math.nan
    return float(spearmanr(values, scores).statistic)


def _signed(correlation: float) -> str:
    return "–" if math.isnan(correlation) else f"{correlation:+.2f}"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _markdown(rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, "|---" * len(rows[0]) + "|")
    return "\n".join(lines)


def _collapsed(folder: SweepFolder) -> list[str]:
    numbers = ", ".join(str(record.number) for record in folder.records if record.constant)
    if not numbers:
        return []
    notes = [
        f"† In trial {numbers} every row, or nearly, got the same answer: training collapsed, or "
        f"had hardly begun, and the accuracy is the share of one class."
    ]
    if folder.best.constant:
        notes.append(
            "Warning: the best trial is one of them: train longer, search smaller values of ε, or "
            "raise --clean_share."
        )
    return notes


def _draw(folder: SweepFolder, space: list[Hyperparameter]) -> bool:
    """One panel a hyperparameter; False without matplotlib."""
    try:
        figure_module, rc = import_module("matplotlib.figure"), import_module("matplotlib")
    except ImportError:
        return False
    figure = figure_module.Figure(figsize=(max(3.6 * len(space), 5), 4), layout="constrained")
    panels = figure.subplots(1, len(space), squeeze=False, sharey=True)[0]
    for axis, one in zip(panels, space, strict=True):
        _panel(axis, one, folder.records)
    panels[0].set_ylabel("accuracy")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    drawn = BytesIO()
    with rc.rc_context({"svg.hashsalt": "sweep", "svg.fonttype": "none"}):  # the same each time
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    write_whole(folder.path / PLOT_NAME, drawn.getvalue())
    return True


def _panel(axis: Any, one: Hyperparameter, records: list[TrialRecord]) -> None:
    values = [record.params[one.name] for record in records]
    correlation = rank_correlation(values, [record.objective for record in records])
    if any(isinstance(value, str | bool) for value in values):
        values = [str(value) for value in values]  # a place for each word
    elif one.log:
        axis.set_xscale("log")
    for name, measure in _MEASURES.items():
        scores = [measure(record) for record in records]
        if not all(math.isnan(score) for score in scores):
            axis.plot(values, scores, _MARKERS[name], label=name, alpha=0.7)
    ticks = sorted(set(values))
    if len(ticks) > _TICKS and isinstance(ticks[0], float):
        ticks = Interval(ticks[0], ticks[-1], one.log).spread(_TICKS)
    axis.set_xticks(ticks, [_short(tick) for tick in ticks])
    axis.minorticks_off()
    rho = "" if math.isnan(correlation) else f"ρ = {_signed(correlation)}, "
    axis.set_title(f"{one.name}: {rho}n = {len(records)}", fontsize=10)
    axis.set_xlabel(one.name)
