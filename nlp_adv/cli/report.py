"""What a training run shows at its end: a table, and the same as JSON beside the model."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from nlp_adv.cli.arguments import TrainArguments
from nlp_adv.cli.tables import REPORT_NAME, table
from nlp_adv.cli.task import Task
from nlp_adv.errors import UserError
from nlp_adv.folders import write_whole
from nlp_adv.robustness.answers import one_answer
from nlp_adv.training.curves import training_curves

_TIMINGS = ("_runtime", "_per_second", "_loss", "_time", "_model_preparation_time")


@dataclass
class RunResult:
    """One trained model and what was measured of it.

    Attributes:
        name: the row's in the table.
        description: how it was trained, as it is saved beside the model.
        seed: of the training.
        model: what was trained.
        trained: False of a model that was only evaluated.
        seconds: wall-clock time of the training alone; None for one that was resumed.
        split: the split that the table is about.
        metrics: scores of all evaluated splits, as the Trainer names them.
        labels: of the rows of that split.
        history: the Trainer's log of the training.
        measured: what an attack found, once it is known.
        warnings: of its training, a sentence each.
    """

    name: str
    description: dict[str, Any]
    seed: int
    model: PreTrainedModel
    trained: bool
    seconds: float | None
    split: str | None
    metrics: dict[str, float]
    labels: list[Any]
    history: list[dict[str, float]]
    measured: Any = None
    warnings: Sequence[str] = ()

    @property
    def scores(self) -> dict[str, float]:
        """The quality measures of the table's split, without the Trainer's timings."""
        prefix = f"{self.split}_"
        return {
            name.removeprefix(prefix): value
            for name, value in self.metrics.items()
            if name.startswith(prefix) and not name.endswith(_TIMINGS)
        }

    @property
    def one_class(self) -> bool:
        """Whether the model gives one answer to every row, or nearly, in whose labels are more."""
        largest = self.scores.get("largest_answer")
        if largest is None or not self.labels:
            return False
        return one_answer(largest, Counter(self.labels).most_common(1)[0][1] / len(self.labels))


def print_report(runs: Sequence[RunResult], arguments: TrainArguments, task: Task) -> None:
    """The table, with what its numbers mean below it."""
    rows = [
        _header(runs[-1], arguments, task),
        *(_row(run, runs[0], arguments, task) for run in runs),
    ]
    if len(runs) == 1:  # nothing to compare with
        rows = [row[:-1] for row in rows]
    print()
    print(table(rows))
    print()
    for line in _legend(runs[-1], arguments, task):
        print(line)
    for run in runs:
        if run.one_class:
            print(
                f"Warning: † {run.name} gives {100 * run.scores['largest_answer']:.4g} % of the "
                f"{task.examples} the same answer: its training collapsed, or has hardly begun. "
                f"Its accuracy is the share of one class, under attack as well, and no robustness."
            )
        for warning in run.warnings:
            print(f"Warning: {run.name}: {warning}")
        for doubt in [] if run.measured is None else run.measured.doubts:
            print(f"Warning: {run.name} {doubt}")


def _header(run: RunResult, arguments: TrainArguments, task: Task) -> list[str]:
    scores = [name.replace("largest_answer", "largest answer") for name in run.scores]
    measured = run.measured
    attacks = [] if measured is None else task.columns(measured, arguments.report)
    return ["training", *scores, *attacks, "seconds", "time ÷ plain"]


def _row(run: RunResult, first: RunResult, arguments: TrainArguments, task: Task) -> list[str]:
    cells = [f"{value:.4f}" for value in run.scores.values()]
    if run.measured is not None:
        mark = " †" if run.one_class else ""
        cells += task.columns(run.measured, arguments.report, mark).values()
    if run.seconds is None or first.seconds is None:
        return [run.name, *cells, "resumed" if run.trained else "not trained", ""]
    return [run.name, *cells, f"{run.seconds:.1f}", f"{run.seconds / first.seconds:.2f}"]


def _legend(run: RunResult, arguments: TrainArguments, task: Task) -> list[str]:
    lines = []
    if run.scores:
        largest = "; “largest answer” is how often the most frequent answer is given"
        lines.append(
            f"Scores are of all {len(run.labels)} {task.examples} of the {run.split} split"
            f"{largest if 'largest_answer' in run.scores else ''}."
        )
    if run.measured is not None:
        lines.append(task.meaning(run.measured))
    if arguments.demo:
        lines.append(task.demo_note)
    return [*lines, f"All of it is in {arguments.training.output_dir}."]


def write_report(runs: Sequence[RunResult], arguments: TrainArguments, task: Task) -> None:
    """The same numbers as JSON, and the curves of trainings that were evaluated on the way."""
    folder = Path(str(arguments.training.output_dir))
    content = {
        "modality": task.about,
        "demo": arguments.demo,
        "synthetic_data": arguments.demo and task.about != "image",
        "split": runs[-1].split,
        "attack": task.attack_in_json(arguments.report),
        "runs": [_in_json(run, task) for run in runs],
    }
    write_whole(folder / REPORT_NAME, json.dumps(content, indent=2) + "\n")
    if not any("eval_loss" in line for run in runs for line in run.history):
        return
    try:
        training_curves({run.name: run.history for run in runs}, str(folder / "training.svg"))
    except UserError as error:  # the training is done, and a picture is not worth its loss
        print(f"Note: no curves were drawn. {error}", file=sys.stderr)


def _in_json(run: RunResult, task: Task) -> dict[str, Any]:
    content: dict[str, Any] = {
        **run.description,
        "seed": run.seed,
        "train_seconds": run.seconds,
        "metrics": run.metrics,
        **({"warnings": list(run.warnings)} if run.warnings else {}),
    }
    if run.measured is not None:
        content |= task.found_in_json(run.measured)
    return content | {"history": run.history}
