"""What a recipe will take, before it takes it: cells, passes, hours."""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from logging import ERROR
from typing import Any

from transformers import TrainerCallback
from transformers.utils import logging

from nlp_adv.cli.arguments import TrainArguments, parse
from nlp_adv.cli.running import plain_arguments
from nlp_adv.cli.tables import table
from nlp_adv.cli.task import Task, load_task
from nlp_adv.cli.train import steps_of
from nlp_adv.experiments.cells import Cell
from nlp_adv.methods import floor_cost
from nlp_adv.robustness.saved import load
from nlp_adv.training.trainer import AdversarialTrainer

_TIMED = 4  # plain steps, after one that warms up


def dry_run(cells: Sequence[Cell]) -> str:
    """A table of what is to be trained, and sentences of what that and the evaluation take.

    The cost of a method is the least that its passes can cost (`floor_cost`), the mean over the
    run's steps; the seconds of a plain step are measured here, on the recipe's own model and data.
    What an evaluation takes depends on how long the attacks have to search: it is known by the mean
    of finished cells, and not before.
    """
    rows = [["method", "cells", "to train", "steps", "a step costs", "plain steps"]]
    tasks: dict[str, Task] = {}
    whole = seconds = 0.0
    each: dict[str, float] = {}
    for method in dict.fromkeys(cell.method for cell in cells):
        mine = [cell for cell in cells if cell.method == method]
        missing = [cell for cell in mine if not (cell.trained or cell.evaluated)]
        if mine[0].control:
            rows.append([method, str(len(mine)), f"{mine[0].control.of}'s", "", "", ""])
            continue
        arguments = parse(mine[0].train_flags)
        task = _task(arguments, tasks)
        steps, epoch = steps_of(task.rows_of_an_epoch(arguments), arguments.training)
        schedule = arguments.training.adversarial_schedule(task.modality).over(steps, epoch)
        # The mean: an attack may begin late.
        cost = statistics.fmean(floor_cost(schedule.at(step)) for step in range(steps))
        passes = len(missing) * steps * cost
        whole += passes
        if missing:
            seconds += passes * _seconds_a_step(arguments, task, each)
        shown = str(len(mine)), str(len(missing)), str(steps), f"{cost:.2f}", f"{passes:,.0f}"
        rows.append([method, *shown])
    words = ["Training: all runs are finished."]
    if each:
        taken = " or ".join(f"{one:.3g}" for one in each.values())
        words = [
            f"Training: passes of {whole:,.0f} plain steps, {_hours(seconds)} on this machine at "
            f"{taken} s a plain step; scoring, saving and what methods cost besides come on top."
        ]
    return "\n".join([table(rows), "", *words, _evaluation(cells)])


def _task(arguments: TrainArguments, tasks: dict[str, Task]) -> Task:
    same = repr((arguments.model, arguments.data))
    if same not in tasks:
        tasks[same] = load_task(arguments)
    return tasks[same]


class _Stopwatch(TrainerCallback):
    """The seconds of each step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._began = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds.append(time.perf_counter() - self._began)


def _seconds_a_step(arguments: TrainArguments, task: Task, each: dict[str, float]) -> float:
    """The median of a few plain steps; once for runs of equal models, data and batches."""
    training = arguments.training
    sizes = training.train_batch_size, training.gradient_accumulation_steps
    same = repr((arguments.model, arguments.data, sizes))
    if same not in each:
        with tempfile.TemporaryDirectory() as folder, _quietly():
            short = copy.copy(plain_arguments(training))
            short.output_dir, short.max_steps = folder, 1 + _TIMED
            short.save_strategy = short.eval_strategy = short.logging_strategy = "no"
            short.load_best_model_at_end, short.disable_tqdm = False, True
            watch = _Stopwatch()
            trainer = AdversarialTrainer(model=task.new_model(), args=short, **task.for_trainer())
            trainer.add_callback(watch)
            trainer.train()
        each[same] = statistics.median(watch.seconds[1:] or watch.seconds)
    return each[same]


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what a Trainer says of runs: this is none."""
    before = logging.get_verbosity()
    logging.set_verbosity(ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _evaluation(cells: Sequence[Cell]) -> str:
    missing = sum(not cell.evaluated for cell in cells)
    known = [load(cell.folder).cost.get("seconds") for cell in cells if cell.evaluated]
    taken = [seconds for seconds in known if seconds]
    if not missing:
        return "Evaluation: all cells are finished."
    if not taken:
        return f"Evaluation: {missing} cells; how long one takes is known when one is finished."
    mean = statistics.fmean(taken)
    return (
        f"Evaluation: {missing} cells, {_hours(missing * mean)} by the mean of {len(taken)} "
        f"finished ones."
    )


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.2g} h" if seconds >= 360 else f"{seconds / 60:.2g} min"
