"""From saved evaluations to one report: the end of `report`, `attack` and `evaluate`."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nlp_adv.cli.tables import table
from nlp_adv.errors import UserError
from nlp_adv.folders import alone_in, write_whole
from nlp_adv.report import ModelResult, PublishedValue, Report, write_report
from nlp_adv.report.cells import interval, norm, percent
from nlp_adv.report.content import Exhibit
from nlp_adv.report.hub import FILE, eval_results, is_hub_name
from nlp_adv.report.leaderboard import leaderboard
from nlp_adv.report.numbers import WORST, right_answers, share, value_of
from nlp_adv.report.unlike import share_of_a_token
from nlp_adv.robustness.answers import Answers
from nlp_adv.robustness.evaluated import Evaluation
from nlp_adv.robustness.joined import joined
from nlp_adv.robustness.saved import load, save
from nlp_adv.robustness.statistics import Share
from nlp_adv.training.records import CONFIG_NAME


def report(options: argparse.Namespace, command: str) -> None:
    """Put finished evaluations, or shards of one, into one report."""
    evaluations = [load(Path(folder)) for folder in options.folders]
    names = names_of(evaluations, options.folders)
    if options.leaderboard:
        if options.shards:
            raise UserError("--leaderboard is of whole evaluations: join the shards of each first.")
        page = leaderboard(dict(zip(names, evaluations, strict=True)), options.title)
        with alone_in(options.output_dir):
            write_whole(Path(options.output_dir) / "leaderboard.md", page)
        print(f"The leaderboard is {Path(options.output_dir) / 'leaderboard.md'}.")
        return
    if options.shards:
        evaluations = [joined(evaluations)]
        names = [evaluations[0].name or "model"]
    results = [
        ModelResult.of(one, name, plain=one.training.get("method") == "none")
        for one, name in zip(evaluations, names, strict=True)
    ]
    found = one_report(evaluations, results, title=options.title, commands=[command])
    with alone_in(options.output_dir):
        written = write_report(found, options.output_dir)
    print(summary_table(results))
    print(f"The report is {written[0]}.")


def saved_report(
    evaluation: Evaluation,
    folder: str,
    command: str,
    *,
    title: str = "Robustness",
    exhibit: Exhibit | None = None,
    dataset_id: str | None = None,
) -> tuple[Path, str]:
    """Save an evaluation of one model and write its report: the page, and its table.

    Args:
        evaluation, folder: what is saved, and where.
        command: as it was typed.
        title, exhibit: of the report.
        dataset_id: of the data on the Hub, for whose model pages the results are written as well.
    """
    save(Path(folder), evaluation)
    if dataset_id is not None:
        path = Path(folder) / FILE
        path.parent.mkdir(exist_ok=True)
        write_whole(path, eval_results(evaluation, dataset_id))
    result = ModelResult.of(evaluation, evaluation.name or "model")
    found = one_report([evaluation], [result], title=title, commands=[command], exhibit=exhibit)
    return Path(write_report(found, folder)[0]), summary_table([result])


def one_report(
    evaluations: Sequence[Evaluation],
    results: Sequence[ModelResult],
    *,
    title: str,
    commands: Sequence[str] = (),
    published: Sequence[PublishedValue] = (),
    primary: Sequence[tuple[str, str]] = (),
    exhibit: Exhibit | None = None,
) -> Report:
    """Several models in one table.

    Raises:
        UserError: they were not measured alike.
    """
    first = evaluations[0]
    for other in evaluations[1:]:
        check_comparable(first, other)
    hashes = dict(sorted({k: v for one in evaluations for k, v in one.hashes.items()}.items()))
    return Report(
        title=title,
        protocol=first.protocol.described() if first.protocol else first.details,
        protocol_hash=", ".join(f"{attack} {digest}" for attack, digest in hashes.items()),
        data=first.description,
        seed=first.seed,
        models=results,
        published=published,
        primary=primary,
        commands=commands,
        environment=first.environment,
        notes=list(dict.fromkeys(note for one in evaluations for note in one.notes)),
        labels=first.labels,
        target=first.target,
        exhibit=exhibit,
    )


def check_comparable(first: Evaluation, other: Evaluation) -> None:
    """Numbers are compared only where they were measured alike.

    Raises:
        UserError: other protocols, resources, texts or seeds.
    """
    for attack in set(first.hashes) & set(other.hashes):
        if first.hashes[attack] != other.hashes[attack]:
            raise UserError(
                f"Two evaluations attack with {attack} under different protocols or resources "
                f"({first.hashes[attack]} and {other.hashes[attack]}); their numbers cannot be "
                f"compared."
            )
    for what, mine, theirs in (
        ("protocols", _rules(first), _rules(other)),
        ("texts", first.data, other.data),
        ("seeds of the attack", first.seed, other.seed),
        ("targets", first.target, other.target),
    ):
        if mine != theirs:
            raise UserError(
                f"Two evaluations have different {what} ({mine} and {theirs}); their numbers "
                f"cannot be compared."
            )


def _rules(evaluation: Evaluation) -> str | None:
    return None if evaluation.protocol is None else evaluation.protocol.hash()


def names_of(evaluations: Sequence[Evaluation], folders: Sequence[str]) -> list[str]:
    """What to call the models: by their own names; by the folders' where those do not differ."""
    pairs = zip(evaluations, folders, strict=True)
    own = [one.name or Path(folder).resolve().name for one, folder in pairs]
    known = [
        f"{name} ({Path(folder).resolve().name})" if own.count(name) > 1 else name
        for name, folder in zip(own, folders, strict=True)
    ]
    return [
        f"{name} in {folder}" if known.count(name) > 1 else name
        for name, folder in zip(known, folders, strict=True)
    ]


def hub_name(dataset_name: str | None) -> str | None:
    """What a data set is called on the Hub, OWNER/NAME; None of what is on this machine."""
    name = dataset_name or ""
    return name if is_hub_name(name) and not Path(name).exists() else None


def training_of(path_or_name: str) -> dict[str, Any]:
    """How a saved model was trained, as its folder says; empty where it does not."""
    path = Path(path_or_name) / CONFIG_NAME
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not ours, or damaged: nobody knows then
        return {}
    return found if isinstance(found, dict) else {}


def model_name(path_or_name: str) -> str:
    """A saved model's folder, with the one around it where it is called like any other's."""
    if not Path(path_or_name).is_dir():
        return path_or_name
    folder = Path(path_or_name).resolve()
    usual = re.fullmatch(r"model|checkpoint-\d+|best|final|output", folder.name)
    return f"{folder.parent.name}/{folder.name}" if usual else folder.name


# Column → field of a `Summary`, and how it is shown.
_Columns = dict[str, tuple[str, Callable[[float], str]]]
_OF_TEXTS: _Columns = {
    "success %": ("success", percent),
    "queries": ("queries", "{:.1f}".format),
    "words %": ("words_changed", percent),
}
_OF_IMAGES: _Columns = {
    "fooled %": ("fooled", percent),
    "8 bits %": ("fooled_8_bit", percent),
    "L2": ("l2", norm),
    "Linf": ("linf", norm),
    "gradients": ("gradient_passes", "{:.1f}".format),
}


def summary_table(results: Sequence[ModelResult]) -> str:
    """Clean accuracy, accuracy under attack and cost, a row a model and attack.

    Clean accuracy is of the examples of that attack. Of images there is the worst case as well.
    Below the table stands what forbids to read an accuracy under attack as robustness; beside an
    attack, what its ε is of a token's norm.
    """
    of_images = any(result.of_images for result in results)
    columns = _OF_IMAGES if of_images else _OF_TEXTS
    head = ["model", "attack", "clean %", "under attack %", *columns, "largest answer %"]
    rows, notes = [head], list[str]()
    for result in (one for one in results if one.records):
        answers = Answers.of_records(result.records)
        mark, largest = " †" if answers.constant else "", answers.largest
        if answers.constant:
            notes.append(
                f"Warning: † {result.title} answers class {answers.answer} to {largest.count} of "
                f"{largest.total} {'image' if of_images else 'text'}s: its accuracy under attack "
                f"is the share of that class and no robustness."
            )
        shown = [result.title, percent(largest.value)]
        for attack, one in result.summaries.items():
            accuracies = _with_interval(one.clean), _with_interval(one.under_attack) + mark
            details = [show(value_of(one, name)) for name, show in columns.values()]
            rows.append([shown[0], _titled(result, attack), *accuracies, *details, shown[1]])
        if of_images:
            worst = share(right_answers(result, WORST, list(result.summaries)))
            under = _with_interval(worst) + mark
            rows.append([shown[0], WORST, rows[-1][2], under, *[""] * len(columns), shown[1]])
    return "\n".join([table(rows), *notes])


def _titled(result: ModelResult, attack: str) -> str:
    """An attack, and of one on embeddings what its ε is of a token's norm."""
    part = share_of_a_token(result.records, attack)
    return attack if part is None else f"{attack} ({100 * part:.2g} % of a token)"


def _with_interval(share: Share) -> str:
    return f"{percent(share.value)} {interval(*share.interval())}"
