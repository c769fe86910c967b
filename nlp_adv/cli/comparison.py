"""Methods × seeds of a recipe, trained and evaluated cell by cell, and their report."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from nlp_adv.cli import evaluate, train
from nlp_adv.cli.arguments import parse
from nlp_adv.cli.evaluations import one_report, summary_table
from nlp_adv.cli.flags import command_line
from nlp_adv.cli.task import Task, load_task
from nlp_adv.cli.text_attack import TextAttack
from nlp_adv.errors import UserError
from nlp_adv.experiments.cells import Runner, cells_of, check_cells, run_cell
from nlp_adv.experiments.recipe import INHERITED, Recipe, checked_seeds, read_recipe
from nlp_adv.folders import alone_in, unusable_as_name
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
    elsewhere = []
    if not options.report_only:
        checked, attack = _check_training(), evaluate.run
        runner = Runner(train.main, attack, checked, evaluate.check, command_line)
        check_cells(recipe, [cell for cell in cells if not cell.evaluated], runner)
        elsewhere = [cell for cell in cells if not run_cell(recipe, cell, runner)]
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


def _check_training() -> Callable[[list[str]], None]:
    """Looks at flags of `nlp-adv train`, reading data and tokenizers that are the same once."""
    tasks: dict[str, Task] = {}

    def check(flags: list[str]) -> None:
        arguments = parse(flags)
        same = repr((arguments.model, arguments.data))
        if same not in tasks:
            tasks[same] = load_task(arguments)
        train.check_before_training(arguments, tasks[same])
        if arguments.training.adv != "none":
            tasks[same].check_fits(tasks[same].new_model(), arguments)

    return check


def _report(recipe: Recipe, folder: Path, command: str) -> None:
    evaluations, results = [], []
    order = list(recipe.methods)
    for cell in sorted(cells_of(recipe, folder), key=lambda cell: order.index(cell.method)):
        if cell.evaluated:
            evaluation = load(cell.folder)
            evaluations.append(evaluation)
            results.append(ModelResult.of(evaluation, cell.method, cell.seed, cell.training))
    if not results:
        raise UserError(f"{folder} holds no finished cell yet; run the recipe first.")
    report = one_report(
        evaluations, results, title=recipe.title, commands=[command], published=recipe.published
    )
    with alone_in(folder):
        written = write_report(report, folder)
    print(summary_table(results))
    print(f"The report is {written[0]}.")
