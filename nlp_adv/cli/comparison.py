"""Methods × seeds of a recipe, trained and evaluated cell by cell, and their report."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nlp_adv.cli import evaluate, train
from nlp_adv.cli.cells import Cell, check_cells, needs_model
from nlp_adv.cli.evaluations import one_report, summary_table
from nlp_adv.cli.flags import command_line
from nlp_adv.cli.recipe import Control, Recipe, checked_seeds, read_recipe
from nlp_adv.cli.tables import REPORT_NAME
from nlp_adv.errors import UserError
from nlp_adv.folders import FolderTaken, alone_in, unusable_as_name
from nlp_adv.report import ModelResult, write_report
from nlp_adv.robustness.saved import load


def compare(options: argparse.Namespace, overrides: dict[str, Any], command: str) -> None:
    """Run what is missing of a recipe and write the report of what is there.

    Args:
        options: the command's own flags.
        overrides: the others, which win over the recipe's.
        command: as it was typed.

    Raises:
        UserError: the recipe or a flag is not in order.
    """
    recipe = read_recipe(Path(options.recipe), overrides)
    for name in options.methods or ():
        if name not in recipe.methods:
            raise UserError(f"The recipe has no method {name!r}, only {', '.join(recipe.methods)}.")
    folder = Path(options.output_dir or _default_folder(options.recipe))
    try:
        seeds = checked_seeds(options.seeds or recipe.seeds)
    except ValueError as error:
        raise UserError(f"--seeds: {error}.") from error
    cells = list(_cells(recipe, folder, options.methods, seeds))
    elsewhere = []
    if not options.report_only:
        check_cells(recipe, [cell for cell in cells if not cell.evaluated])
        elsewhere = [cell for cell in cells if not _run(recipe, cell)]
    if elsewhere:
        names = ", ".join(cell.title for cell in elsewhere)
        print(f"Another process is at {names}: run this again, with --report_only, at its end.")
    _report(recipe, folder, command)


def _default_folder(recipe: str) -> str:
    name = Path(recipe).stem
    wrong = unusable_as_name(name)
    if wrong is not None:
        raise UserError(f"The recipe's name {name!r} {wrong}: name a folder with --output_dir.")
    return f"runs/{name}"


def _cells(
    recipe: Recipe, folder: Path, methods: Sequence[str] | None, seeds: Sequence[int] | None
) -> Iterator[Cell]:
    """Seed by seed, so that a run that is stopped has compared all methods on the first."""
    for seed in seeds or recipe.seeds:
        for name in methods or recipe.methods:
            own = recipe.methods[name]
            source = own.of if isinstance(own, Control) else name
            yield Cell(
                name, seed, folder / f"{name}-seed{seed}", folder / f"{source}-seed{seed}" / "model"
            )


def _run(recipe: Recipe, cell: Cell) -> bool:
    """Train and evaluate what is missing; False if another process is at it."""
    if cell.evaluated:
        return True
    own = recipe.methods[cell.method]
    baseline = _baseline(recipe, cell)
    try:
        with alone_in(cell.model.parent):
            if not cell.trained and isinstance(own, Control):
                raise UserError(needs_model(cell, own))
            if not cell.trained:
                shutil.rmtree(cell.model, ignore_errors=True)  # begun and not finished
                flags = recipe.train_flags(cell.method, cell.seed, cell.model)
                _say(cell, command_line("train", flags))
                train.main(flags)
            if not cell.evaluated:
                flags = recipe.attack_flags(cell.model, cell.folder)
                _say(cell, command_line("evaluate", flags))
                transfer = [] if baseline is None else load(baseline.folder).records
                times = own.logits_times if isinstance(own, Control) else 1.0
                evaluate.run(flags, transfer=transfer, logits_times=times)
    except FolderTaken:
        return False
    return True


def _baseline(recipe: Recipe, cell: Cell) -> Cell | None:
    """The first method's cell of the same seed, where its adversarial texts are there to try."""
    first = next(iter(recipe.methods))
    folder = cell.folder.parent / f"{first}-seed{cell.seed}"
    baseline = Cell(first, cell.seed, folder, folder / "model")
    return baseline if cell.method != first and baseline.evaluated else None


def _say(cell: Cell, command: str) -> None:
    print(f"\n=== {cell.title}\n{command}", file=sys.stderr, flush=True)


def _report(recipe: Recipe, folder: Path, command: str) -> None:
    evaluations, results = [], []
    for cell in sorted(
        _cells(recipe, folder, None, None), key=lambda c: list(recipe.methods).index(c.method)
    ):
        if cell.evaluated:
            evaluation = load(cell.folder)
            evaluations.append(evaluation)
            results.append(ModelResult.of(evaluation, cell.method, cell.seed, _training(cell)))
    if not results:
        raise UserError(f"{folder} holds no finished cell yet; run the recipe first.")
    report = one_report(
        evaluations, results, title=recipe.title, commands=[command], published=recipe.published
    )
    with alone_in(folder):
        written = write_report(report, folder)
    print(summary_table(results))
    print(f"The report is {written[0]}.")


def _training(cell: Cell) -> dict[str, Any]:
    """How the cell's model was trained, as its run wrote it down."""
    run: dict[str, Any] = json.loads((cell.model / REPORT_NAME).read_text(encoding="utf-8"))[
        "runs"
    ][-1]
    hidden = (
        "metrics",
        "history",
        "accuracy_under_attack",
        "accuracy_without_attack",
        "attacked_examples",
    )
    return {key: value for key, value in run.items() if key not in hidden}
