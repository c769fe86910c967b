"""What a sweep shows at its end: the trials, what mattered, and how to train the best one."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from io import BytesIO
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from scipy.stats import spearmanr

from nlp_adv.experiments.space import Hyperparameter
from nlp_adv.experiments.sweep import Scores, short
from nlp_adv.folders import write_whole

if TYPE_CHECKING:  # Optuna is an extra
    from optuna.trial import FrozenTrial

    from nlp_adv.experiments.study import StudyFolder

TABLE_NAME, PLOT_NAME, BEST_NAME = "sweep.md", "sweep.svg", "best.json"

_MEASURES: dict[str, Callable[[FrozenTrial], float]] = {
    "objective": lambda trial: cast(float, trial.value),
    "clean": lambda trial: Scores.of(trial).clean,
    "robust": lambda trial: _mean(list(Scores.of(trial).robust.values())),
}
_TICKS = 4
_MARKERS = {"objective": "o", "clean": "^", "robust": "v"}


@dataclass(frozen=True)
class SweepReport:
    """The report of a study.

    Args:
        folder: with at least one finished trial.
        space: what was searched.
        formula: what the objective is.
        flags: of `nlp-adv train` for the best trial.
    """

    folder: StudyFolder
    space: Sequence[Hyperparameter]
    formula: str
    flags: Mapping[str, Any]

    @cached_property
    def ranked(self) -> list[FrozenTrial]:
        """The trials, the best first; those that other processes finish later are not in it."""
        return self.folder.ranked

    @property
    def command(self) -> str:
        """The command that trains the best trial."""
        words = []
        for name, value in self.flags.items():
            values = value if isinstance(value, list) else [value]
            words += [f"--{name}", *map(str, values)]
        return shlex.join(["nlp-adv", "train", *words])

    @cached_property
    def trials(self) -> list[list[str]]:
        """A row a trial, the best first, below the names of the columns."""
        ranked, names = self.ranked, [one.name for one in self.space]
        radii = list(Scores.of(ranked[0]).robust)
        same = ["clean, attacked rows"] if radii else []
        head = ["trial", *names, "clean", *same, *(f"PGD ε={float(e):g}" for e in radii)]
        rows = [[*head, "objective", "seconds"]]
        for trial in ranked:
            scores = Scores.of(trial)
            before = math.nan if scores.clean_attacked is None else scores.clean_attacked
            mark = " †" if scores.constant else ""
            shown = [f"{score:.4f}" for score in [scores.clean, *([before] if radii else [])]]
            shown += [f"{scores.robust[e]:.4f}{mark}" for e in radii]
            shown.append(f"{trial.value:.4f}{mark}")
            params = [short(trial.params[name]) for name in names]
            rows.append([str(trial.number), *params, *shown, f"{scores.seconds:.1f}"])
        return rows

    @cached_property
    def mattered(self) -> list[list[str]]:
        """A row a hyperparameter: its rank correlation with each measure, and its importance."""
        ranked, weight = self.ranked, self.importances
        rows = [["hyperparameter", *_MEASURES, "importance"]]
        for one in self.space:
            values = [trial.params[one.name] for trial in ranked]
            scores = [[measure(trial) for trial in ranked] for measure in _MEASURES.values()]
            signed = [_signed(rank_correlation(values, score)) for score in scores]
            share = f"{weight[one.name]:.2f}" if one.name in weight else "–"
            rows.append([one.name, *signed, share])
        return rows

    @cached_property
    def importances(self) -> dict[str, float]:
        """Optuna's importance of each hyperparameter for the objective; they add up to 1.

        Empty where there is nothing to explain: fewer than three trials, or objectives that are
        all the same.
        """
        if len(self.ranked) < 3 or len({trial.value for trial in self.ranked}) < 2:
            return {}
        importance = import_module("optuna.importance")
        evaluator = importance.FanovaImportanceEvaluator(seed=0)
        return dict(importance.get_param_importances(self.folder.study, evaluator=evaluator))

    @property
    def notes(self) -> list[str]:
        """The objective, and which trials' numbers mean something else."""
        ranked = self.ranked
        notes = [f"Objective: {self.formula}."]
        constant = sorted(trial.number for trial in ranked if Scores.of(trial).constant)
        if constant:
            notes.append(
                f"† In trial {', '.join(map(str, constant))} every row, or nearly, got the same "
                f"answer: training collapsed, or had hardly begun, and the accuracy is the share "
                f"of one class."
            )
        if ranked[0].number in constant:
            notes.append(
                "Warning: the best trial is one of them: train longer, search smaller values of ε, "
                "or raise --clean_share."
            )
        for trial in self.folder.trials():
            if "failed" in trial.user_attrs:
                notes.append(f"Trial {trial.number} failed: {trial.user_attrs['failed']}")
        return notes

    def write(self) -> list[str]:
        """Write the table, the plot and the flags of the best trial; the names of the first two."""
        path = self.folder.path
        write_whole(path / BEST_NAME, json.dumps(self.flags, indent=2) + "\n")
        drawn = draw(self.ranked, self.space, self.importances)
        if drawn is not None:
            write_whole(path / PLOT_NAME, drawn)
        page = [
            "# Sweep",
            *self.notes,
            _markdown(self.trials),
            "Spearman's rank correlation of each hyperparameter with what was measured, and its "
            "importance (Optuna's fANOVA: the share of the objective's variance that it explains), "
            f"over {len(self.ranked)} trials:",
            _markdown(self.mattered),
            *([f"![{PLOT_NAME}]({PLOT_NAME})"] if drawn is not None else []),
            f"The best trial, {self.ranked[0].number}, is trained by",
            f"```bash\n{self.command}\n```",
        ]
        write_whole(path / TABLE_NAME, "\n\n".join(page) + "\n")
        return [TABLE_NAME] if drawn is None else [TABLE_NAME, PLOT_NAME]


def rank_correlation(values: Sequence[Any], scores: Sequence[float]) -> float:
    """Spearman's ρ; nan for words, for fewer than three trials, and where one side is constant."""
    words = any(isinstance(value, str) for value in values)
    if words or len(values) < 3 or len(set(values)) < 2 or len(set(scores)) < 2:
        return math.nan
    return float(spearmanr(values, scores).statistic)


def draw(
    trials: Sequence[FrozenTrial], space: Sequence[Hyperparameter], weight: Mapping[str, float]
) -> bytes | None:
    """An SVG: one panel a hyperparameter, and the importances; None without matplotlib."""
    try:
        figure_module, rc = import_module("matplotlib.figure"), import_module("matplotlib")
    except ImportError:
        return None
    count = len(space) + bool(weight)
    figure = figure_module.Figure(figsize=(max(3.6 * count, 5), 4), layout="constrained")
    panels = [figure.add_subplot(1, count, place + 1) for place in range(count)]
    for axis, one in zip(panels, space, strict=False):
        _panel(axis, one, trials)
        if axis is not panels[0]:
            axis.sharey(panels[0])
            axis.tick_params(labelleft=False)
    panels[0].set_ylabel("accuracy")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    if weight:
        names = sorted(weight, key=weight.__getitem__)
        panels[-1].barh(names, [weight[name] for name in names], alpha=0.7)
        panels[-1].set_title("importance (fANOVA)", fontsize=10)
        panels[-1].set_xlim(0, 1)
    drawn = BytesIO()
    with rc.rc_context({"svg.hashsalt": "sweep", "svg.fonttype": "none"}):  # the same each time
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    return drawn.getvalue()


def _panel(axis: Any, one: Hyperparameter, trials: Sequence[FrozenTrial]) -> None:
    values = [trial.params[one.name] for trial in trials]
    correlation = rank_correlation(values, [cast(float, trial.value) for trial in trials])
    if any(isinstance(value, str | bool) for value in values):
        values = [str(value) for value in values]  # a place for each word
    elif one.log:
        axis.set_xscale("log")
    for name, measure in _MEASURES.items():
        scores = [measure(trial) for trial in trials]
        if not all(math.isnan(score) for score in scores):
            axis.plot(values, scores, _MARKERS[name], label=name, alpha=0.7)
    ticks = sorted(set(values))
    if len(ticks) > _TICKS and isinstance(ticks[0], float):
        spaced = np.geomspace if one.log else np.linspace
        ticks = spaced(ticks[0], ticks[-1], _TICKS).tolist()
    axis.set_xticks(ticks, [short(tick) for tick in ticks])
    axis.minorticks_off()
    rho = "" if math.isnan(correlation) else f"ρ = {_signed(correlation)}, "
    axis.set_title(f"{one.name}: {rho}n = {len(trials)}", fontsize=10)
    axis.set_xlabel(one.name)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _signed(correlation: float) -> str:
    return "–" if math.isnan(correlation) else f"{correlation:+.2f}"


def _markdown(rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, "|---" * len(rows[0]) + "|")
    return "\n".join(lines)
