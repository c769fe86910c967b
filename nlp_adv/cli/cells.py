"""The cells of a recipe: what is there of each, and whether what is not there can be run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nlp_adv.cli import evaluate, train
from nlp_adv.cli.arguments import parse
from nlp_adv.cli.recipe import Control, Recipe
from nlp_adv.cli.tables import REPORT_NAME
from nlp_adv.cli.task import Task, load_task
from nlp_adv.errors import UserError
from nlp_adv.robustness.saved import HEADER


@dataclass(frozen=True)
class Cell:
    """One method trained with one seed, and its evaluation."""

    method: str
    seed: int
    folder: Path  # of the cell
    model: Path  # of its weights: another cell's for a control

    @property
    def title(self) -> str:
        """In messages."""
        return f"{self.method}, seed {self.seed}"

    @property
    def trained(self) -> bool:
        """Whether the weights are there, whole: the report is written last."""
        return (self.model / REPORT_NAME).exists()

    @property
    def evaluated(self) -> bool:
        """Whether the evaluation is there, whole."""
        try:
            content = json.loads((self.folder / HEADER).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # not there, or damaged, which the evaluation says
            return False
        return isinstance(content, dict) and "found" in content


def check_cells(recipe: Recipe, cells: Sequence[Cell]) -> None:
    """Make sure that all cells can be run, before the first of them takes its hours.

    Flags are parsed, data and tokenizers are read, a model of each kind is built and the resources
    of the attacks are loaded; nothing is trained or written.

    Raises:
        UserError: the first cell that cannot be run, and why.
    """
    tasks: dict[str, Task] = {}
    trained: set[Path] = set()
    for cell in cells:
        own = recipe.methods[cell.method]
        if isinstance(own, Control) and not cell.trained and cell.model not in trained:
            raise UserError(needs_model(cell, own))
        try:
            if not isinstance(own, Control) and not cell.trained:
                _check_training(recipe.train_flags(cell.method, cell.seed, cell.model), tasks)
            if cell is cells[0]:  # all cells are attacked alike
                evaluate.check(recipe.attack_flags(cell.model, cell.folder))
        except UserError as error:
            raise UserError(f"Nothing was run, since {cell.title} cannot be: {error}") from error
        trained.add(cell.model)


def _check_training(flags: list[str], tasks: dict[str, Task]) -> None:
    arguments = parse(flags)
    same = repr((arguments.model, arguments.data))
    if same not in tasks:
        tasks[same] = load_task(arguments)
    task, training = tasks[same], arguments.training
    train.check_before_training(arguments, task)
    if training.adv != "none":
        task.check_fits(task.new_model(), arguments)


def needs_model(cell: Cell, own: Control) -> str:
    """What to say of a control whose model is not there."""
    return f"{cell.title} needs the model of {own.of}: run that method first."
