"""Methods × seeds of a recipe, trained and evaluated cell by cell, and their report."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from nlp_adv.cli import evaluate, train
from nlp_adv.cli.arguments import TrainArguments, parse
from nlp_adv.cli.dry_run import dry_run
from nlp_adv.cli.evaluations import one_report, summary_table
from nlp_adv.cli.flags import command_line
from nlp_adv.cli.task import Task, load_task
from nlp_adv.cli.text_attack import TextAttack
from nlp_adv.errors import UserError
from nlp_adv.experiments.archive import exchange
from nlp_adv.experiments.cells import TRAINING, Cell, cells_of
from nlp_adv.experiments.recipe import INHERITED, Control, Recipe, checked_seeds, read_recipe
from nlp_adv.folders import FolderTaken, alone_in, unusable_as_name
from nlp_adv.report import ModelResult, write_report
from nlp_adv.robustness.saved import load

ATTACK_FLAGS = {one.name for kind in TextAttack.kinds("evaluate") for one in fields(kind)} - {
    *INHERITED,
    "modality",
    "model_name_or_path",
    "model_revision",
    "cache_dir",
    "tokenizer_name",
}


def compare(options: argparse.Namespace, overrides: dict[str, Any], command: str) -> None:
    """Run what is missing of a recipe and write the report of what is there.

    Args:
        options: the command's own flags.
        overrides: the others, which win over the recipe's.
        command: as it was typed.

    Raises:
        UserError: the recipe or a flag is not in order.
    """
    recipe = read_recipe(Path(options.recipe), overrides, ATTACK_FLAGS)
    for name in options.methods or ():
        if name not in recipe.methods:
            raise UserError(f"The recipe has no method {name!r}, only {', '.join(recipe.methods)}.")
    folder = Path(options.output_dir or _default_folder(options.recipe))
    try:
        seeds = checked_seeds(options.seeds or recipe.seeds)
    except ValueError as error:
        raise UserError(f"--seeds: {error}.") from error
    cells = list(cells_of(recipe, folder, options.methods, seeds))
    archive = Path(options.archive) if options.archive else None
    _exchange(cells_of(recipe, folder), archive)
    if options.dry_run:
        _check([cell for cell in cells if not cell.evaluated])
        print(dry_run(cells))
        return
    elsewhere = []
    if not options.report_only:
        _check([cell for cell in cells if not cell.evaluated])
        elsewhere = [cell for cell in cells if not (cell.evaluated or _run(cell, archive))]
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


def _check(cells: Sequence[Cell]) -> None:
    """Make sure that all cells can be run, before the first of them takes its hours.

    Flags are parsed, data and tokenizers are read, a model of each kind is built and the resources
    of the attacks are loaded; nothing is trained or written.

    Raises:
        UserError: the first cell that cannot be run, and why.
    """
    trained: set[Path] = set()
    tasks: dict[str, Task] = {}
    for cell in cells:
        if cell.control and not cell.trained and cell.run not in trained:
            raise _without_model(cell, cell.control)
        if cell.trained and not cell.model.exists():
            raise _without_state(cell)
        try:
            if not cell.control and not cell.trained:
                _check_training(parse(cell.train_flags), tasks)
            if cell is cells[0]:  # all cells are attacked alike
                evaluate.check(cell.attack_flags)
        except UserError as error:
            raise UserError(f"Nothing was run, since {cell.title} cannot be: {error}") from error
        trained.add(cell.run)


def _check_training(arguments: TrainArguments, tasks: dict[str, Task]) -> None:
    """Look at flags of `nlp-adv train`; data and tokenizers that are the same are read once."""
    same = repr((arguments.model, arguments.data))
    if same not in tasks:
        tasks[same] = load_task(arguments)
    train.check_before_training(arguments, tasks[same])
    if arguments.training.adv != "none":
        tasks[same].check_fits(tasks[same].new_model(), arguments)


def _exchange(cells: Iterable[Cell], archive: Path | None) -> None:
    if archive is not None:
        for cell in cells:
            exchange(cell, archive)


def _run(cell: Cell, archive: Path | None) -> bool:
    """Train and evaluate what is missing; False if another process is at it."""
    baseline, control = cell.baseline, cell.control
    try:
        with alone_in(cell.run.parent):
            if not cell.trained and control:
                raise _without_model(cell, control)
            if not cell.trained:
                shutil.rmtree(cell.run, ignore_errors=True)  # begun and not finished
                _say(cell, "train", cell.train_flags)
                train.main(cell.train_flags)
            if not cell.model.exists():
                raise _without_state(cell)
            if not cell.evaluated:
                _say(cell, "evaluate", cell.attack_flags)
                others = load(baseline.folder).records if baseline else ()
                transfer = [one for one in others if one.text]  # an archive has left them out
                times = control.logits_times if control else 1.0
                evaluate.run(cell.attack_flags, transfer=transfer, logits_times=times)
            _exchange([cell], archive)
    except FolderTaken:
        return False
    return True


def _without_model(cell: Cell, control: Control) -> UserError:
    source = cell.run.parent
    if (source / TRAINING).exists():
        return UserError(
            f"{cell.title} needs the weights of {control.of}, which was finished elsewhere: run it "
            f"there, or leave it out with --methods; or remove {source} and its file in the "
            f"archive to train {control.of} again."
        )
    return UserError(f"{cell.title} needs the model of {control.of}: run that method first.")


def _without_state(cell: Cell) -> UserError:
    return UserError(
        f"{cell.title} needs {cell.model}, which its training did not keep: it was run without "
        f"this control, or for fewer steps. Remove {cell.run} to train it again."
    )


def _say(cell: Cell, command: str, flags: list[str]) -> None:
    print(f"\n=== {cell.title}\n{command_line(command, flags)}", file=sys.stderr, flush=True)


def _report(recipe: Recipe, folder: Path, command: str) -> None:
    evaluations, results = [], []
    order = list(recipe.methods)
    for cell in sorted(cells_of(recipe, folder), key=lambda cell: order.index(cell.method)):
        if cell.evaluated:
            evaluation = load(cell.folder)
            evaluations.append(evaluation)
            result = ModelResult.of(
                evaluation, cell.method, cell.seed, cell.training, plain=cell.plain
            )
            results.append(result)
    if not results:
        raise UserError(f"{folder} holds no finished cell yet; run the recipe first.")
    report = one_report(
        evaluations,
        results,
        title=recipe.title,
        commands=[command],
        published=recipe.published,
        primary=recipe.primary,
    )
    with alone_in(folder):
        written = write_report(report, folder)
    print(summary_table(results))
    print(f"The report is {written[0]}.")
