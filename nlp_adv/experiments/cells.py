"""The cells of a recipe, methods × seeds: what is there of each, and running what is not."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from nlp_adv.errors import UserError
from nlp_adv.experiments.recipe import Control, Recipe
from nlp_adv.folders import FolderTaken, alone_in
from nlp_adv.robustness.record import Record
from nlp_adv.robustness.saved import HEADER, load
from nlp_adv.training.records import REPORT_NAME

# What a training's report holds beside how the model was trained.
_MEASURED = (
    "metrics",
    "history",
    "accuracy_under_attack",
    "accuracy_without_attack",
    "attacked_examples",
)


class Evaluate(Protocol):
    """Evaluates a saved model as `nlp-adv evaluate` does, with what only a comparison has."""

    def __call__(
        self, argv: list[str], *, transfer: Sequence[Record], logits_times: float
    ) -> object:
        """Evaluate."""
        ...


@dataclass(frozen=True)
class Runner:
    """The commands that a cell is made of, each given its command line.

    Args:
        train, evaluate: do it.
        check_training, check_evaluation: raise what would end them, without training or writing.
        shown: a command, its flags → the line that says it.
    """

    train: Callable[[list[str]], None]
    evaluate: Evaluate
    check_training: Callable[[list[str]], None]
    check_evaluation: Callable[[list[str]], None]
    shown: Callable[[str, list[str]], str]


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

    @property
    def training(self) -> dict[str, Any]:
        """How the cell's model was trained, as its run wrote it down."""
        content = json.loads((self.model / REPORT_NAME).read_text(encoding="utf-8"))
        return {key: value for key, value in content["runs"][-1].items() if key not in _MEASURED}


def cells_of(
    recipe: Recipe,
    folder: Path,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> Iterator[Cell]:
    """Seed by seed, so that a run that is stopped has compared all methods on the first."""
    for seed in seeds or recipe.seeds:
        for name in methods or recipe.methods:
            own = recipe.methods[name]
            source = own.of if isinstance(own, Control) else name
            model = folder / f"{source}-seed{seed}" / "model"
            yield Cell(name, seed, folder / f"{name}-seed{seed}", model)


def check_cells(recipe: Recipe, cells: Sequence[Cell], runner: Runner) -> None:
    """Make sure that all cells can be run, before the first of them takes its hours.

    Flags are parsed, data and tokenizers are read, a model of each kind is built and the resources
    of the attacks are loaded; nothing is trained or written.

    Raises:
        UserError: the first cell that cannot be run, and why.
    """
    trained: set[Path] = set()
    for cell in cells:
        own = recipe.methods[cell.method]
        if isinstance(own, Control) and not cell.trained and cell.model not in trained:
            raise UserError(_needs_model(cell, own))
        try:
            if not isinstance(own, Control) and not cell.trained:
                runner.check_training(recipe.train_flags(cell.method, cell.seed, cell.model))
            if cell is cells[0]:  # all cells are attacked alike
                runner.check_evaluation(recipe.attack_flags(cell.model, cell.folder))
        except UserError as error:
            raise UserError(f"Nothing was run, since {cell.title} cannot be: {error}") from error
        trained.add(cell.model)


def run_cell(recipe: Recipe, cell: Cell, runner: Runner) -> bool:
    """Train and evaluate what is missing; False if another process is at it."""
    if cell.evaluated:
        return True
    own = recipe.methods[cell.method]
    baseline = _baseline(recipe, cell)
    try:
        with alone_in(cell.model.parent):
            if not cell.trained and isinstance(own, Control):
                raise UserError(_needs_model(cell, own))
            if not cell.trained:
                shutil.rmtree(cell.model, ignore_errors=True)  # begun and not finished
                flags = recipe.train_flags(cell.method, cell.seed, cell.model)
                _say(cell, runner.shown("train", flags))
                runner.train(flags)
            if not cell.evaluated:
                flags = recipe.attack_flags(cell.model, cell.folder)
                _say(cell, runner.shown("evaluate", flags))
                transfer = [] if baseline is None else load(baseline.folder).records
                times = own.logits_times if isinstance(own, Control) else 1.0
                runner.evaluate(flags, transfer=transfer, logits_times=times)
    except FolderTaken:
        return False
    return True


def _baseline(recipe: Recipe, cell: Cell) -> Cell | None:
    """The first method's cell of the same seed, where its adversarial texts are there to try."""
    first = next(iter(recipe.methods))
    (baseline,) = cells_of(recipe, cell.folder.parent, [first], [cell.seed])
    return baseline if cell.method != first and baseline.evaluated else None


def _needs_model(cell: Cell, own: Control) -> str:
    return f"{cell.title} needs the model of {own.of}: run that method first."


def _say(cell: Cell, command: str) -> None:
    print(f"\n=== {cell.title}\n{command}", file=sys.stderr, flush=True)
