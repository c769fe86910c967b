"""What a sweep shows at its end: the trials, what mattered, and how to train the best one."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from scipy.stats import spearmanr

from nlp_adv.drawing import new_figure, svg_bytes
from nlp_adv.experiments.recipe import as_flags
from nlp_adv.experiments.space import Hyperparameter
from nlp_adv.experiments.sweep import Scores, short
from nlp_adv.folders import write_whole
from nlp_adv.report.cells import MISSING, Table
from nlp_adv.report.markdown import markdown_table

if TYPE_CHECKING:  # Optuna is an extra
    from matplotlib.axes import Axes
    from optuna.trial import FrozenTrial

    from nlp_adv.experiments.study import StudyFolder

TABLE_NAME, PLOT_NAME, BEST_NAME = "sweep.md", "sweep.svg", "best.json"

_MEASURES: dict[str, Callable[[FrozenTrial], float]] = {
    "objective": lambda trial: cast(float, trial.value),
    "clean": lambda trial: Scores.of(trial).clean,
    "robust": lambda trial: fmean(Scores.of(trial).robust.values() or [math.nan]),
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
        return shlex.join(["nlp-adv", "train", *as_flags(self.flags)])

    @cached_property
    def trials(self) -> list[list[str]]:
        """A row a trial, the best first, below the names of the columns."""
        names = [one.name for one in self.space]
        radii = list(Scores.of(self.ranked[0]).robust)
        same = ["clean, attacked rows"] if radii else []
        head = ["trial", *names, "clean", *same, *(f"PGD ε={float(e):g}" for e in radii)]
        rows = [[*head, "objective", "seconds"]]
        for trial in self.ranked:
            scores = Scores.of(trial)
            mark = " †" if scores.constant else ""
            before = [] if scores.clean_attacked is None else [scores.clean_attacked]
            shown = [f"{score:.4f}" for score in (scores.clean, *before)]
            under = [*(scores.robust[e] for e in radii), trial.value]
            shown += [f"{score:.4f}{mark}" for score in under]
            params = [short(trial.params[name]) for name in names]
            rows.append([str(trial.number), *params, *shown, f"{scores.seconds:.1f}"])
        return rows

    @cached_property
    def mattered(self) -> list[list[str]]:
        """A row a hyperparameter: its rank correlation with each measure, and its importance."""
        rows = [["hyperparameter", *_MEASURES, "importance"]]
        for one in self.space:
            values = [trial.params[one.name] for trial in self.ranked]
            scores = [[measure(trial) for trial in self.ranked] for measure in _MEASURES.values()]
            signed = [_signed(rank_correlation(values, score)) for score in scores]
            share = self.importances.get(one.name)
            rows.append([one.name, *signed, MISSING if share is None else f"{share:.2f}"])
        return rows

    @cached_property
    def importances(self) -> dict[str, float]:
        """Optuna's importance of each hyperparameter for the objective; they add up to 1.

        Empty where there is nothing to explain: fewer than three trials, or objectives that are
        all the same.
        """
        if len(self.ranked) < 3 or len({trial.value for trial in self.ranked}) < 2:
            return {}
        from optuna.importance import FanovaImportanceEvaluator, get_param_importances

        evaluator = FanovaImportanceEvaluator(seed=0)
        return dict(get_param_importances(self.folder.study, evaluator=evaluator))

    @property
    def notes(self) -> list[str]:
        """The objective, and which trials' numbers mean something else."""
        notes = [f"Objective: {self.formula}."]
        constant = sorted(trial.number for trial in self.ranked if Scores.of(trial).constant)
        if constant:
            notes.append(
                f"† In trial {', '.join(map(str, constant))} every row, or nearly, got the same "
                f"answer: training collapsed, or had hardly begun, and the accuracy is the share "
                f"of one class."
            )
        if self.ranked[0].number in constant:
            notes.append(
                "Warning: the best trial is one of them: train longer, search smaller values of ε, "
                "or raise --clean_share."
            )
        for trial in self.folder.trials():
            if "failed" in trial.user_attrs:
                notes.append(f"Trial {trial.number} failed: {trial.user_attrs['failed']}")
        return notes

    def write(self) -> None:
        """Write the table, the plot and the flags of the best trial."""
        page = [
            "# Sweep",
            *self.notes,
            markdown_table(Table.of(*self.trials)),
            "Spearman's rank correlation of each hyperparameter with what was measured, and its "
            "importance (Optuna's fANOVA: the share of the objective's variance that it explains), "
            f"over {len(self.ranked)} trials:",
            markdown_table(Table.of(*self.mattered)),
            f"![{PLOT_NAME}]({PLOT_NAME})",
            f"The best trial, {self.ranked[0].number}, is trained by",
            f"```bash\n{self.command}\n```",
        ]
        path = self.folder.path
        write_whole(path / BEST_NAME, json.dumps(self.flags, indent=2) + "\n")
        write_whole(path / PLOT_NAME, draw(self.ranked, self.space, self.importances))
        write_whole(path / TABLE_NAME, "\n\n".join(page) + "\n")


def rank_correlation(values: Sequence[Any], scores: Sequence[float]) -> float:
    """Spearman's ρ; nan for words, for fewer than three trials, and where one side is constant."""
    words = any(isinstance(value, str) for value in values)
    if words or len(values) < 3 or len(set(values)) < 2 or len(set(scores)) < 2:
        return math.nan
    return float(spearmanr(values, scores).statistic)


def draw(
    trials: Sequence[FrozenTrial], space: Sequence[Hyperparameter], weight: Mapping[str, float]
) -> bytes:
    """An SVG: one panel a hyperparameter, and the importances where there are any."""
    count = len(space) + bool(weight)
    figure = new_figure(max(3.6 * count, 5), 4)
    panels = list(figure.subplots(1, count, squeeze=False)[0])
    for axes, one in zip(panels, space, strict=False):
        _panel(axes, one, trials)
        if axes is not panels[0]:
            axes.sharey(panels[0])
            axes.tick_params(labelleft=False)
    panels[0].set_ylabel("accuracy")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    if weight:
        names = sorted(weight, key=weight.__getitem__)
        panels[-1].barh(names, [weight[name] for name in names], alpha=0.7)
        panels[-1].set_title("importance (fANOVA)", fontsize=10)
        panels[-1].set_xlim(0, 1)
    return svg_bytes(figure, text=True)


def _panel(axes: Axes, one: Hyperparameter, trials: Sequence[FrozenTrial]) -> None:
    values = [trial.params[one.name] for trial in trials]
    if any(isinstance(value, str | bool) for value in values):
        values = [str(value) for value in values]  # a place for each word
    elif one.log:
        axes.set_xscale("log")
    measured = {name: [measure(t) for t in trials] for name, measure in _MEASURES.items()}
    for name, scores in measured.items():
        if not all(map(math.isnan, scores)):
            axes.plot(values, scores, _MARKERS[name], label=name, alpha=0.7)
    ticks = sorted(set(values))
    if len(ticks) > _TICKS and isinstance(ticks[0], float):
        spaced = np.geomspace if one.log else np.linspace
        ticks = spaced(ticks[0], ticks[-1], _TICKS).tolist()
    axes.set_xticks(ticks, [short(tick) for tick in ticks])
    axes.minorticks_off()
    correlation = rank_correlation(values, measured["objective"])
    rho = "" if math.isnan(correlation) else f"ρ = {_signed(correlation)}, "
    axes.set_title(f"{one.name}: {rho}n = {len(trials)}", fontsize=10)
    axes.set_xlabel(one.name)


def _signed(correlation: float) -> str:
    return MISSING if math.isnan(correlation) else f"{correlation:+.2f}"
