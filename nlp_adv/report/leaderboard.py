"""Models of whoever measured them alike, in one table: what others can join.

A table is of one data set and one protocol: numbers of unequal hashes never stand in one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nlp_adv.report.cells import MISSING, Cell, Table, interval, percent
from nlp_adv.report.markdown import escaped, markdown_table
from nlp_adv.robustness.evaluated import Evaluation

# Of a training's description; the rest is in the file beside the model.
_SHOWN = ("epsilon", "unit", "norm", "per", "step_size", "steps", "share", "beta", "site")
_HOW_TO_JOIN = (
    "To join, evaluate your model under the protocol and on the data of a table, and send the "
    "folder that `nlp-adv evaluate` writes: `records.jsonl` and `evaluation.json` hold every "
    "answer, so that anyone can compute the numbers again. To beat a row with a **stronger "
    "attack**, send its records of the same model and examples: a success counts where the model, "
    "asked again, gives a wrong answer to what the attack found within the protocol. What fails a "
    "check stays in the table, marked."
)


@dataclass(frozen=True)
class _Group:
    """Evaluations that compare."""

    data: str
    drawn: str
    rules: str
    hashes: tuple[tuple[str, str], ...]


def leaderboard(evaluations: Mapping[str, Evaluation], title: str = "Robust models") -> str:
    """A Markdown page, a table for each data set and protocol.

    The rows are sorted by the accuracy in the first column of an attack; a model whose answers are
    one class, or which fails a check, is marked where its name stands.

    Args:
        evaluations: by the name of the model.
        title: of the page.
    """
    groups: dict[_Group, dict[str, Evaluation]] = {}
    for name, one in evaluations.items():
        groups.setdefault(_group(one), {})[name] = one
    parts = [f"# {escaped(title)}", _HOW_TO_JOIN]
    for group, models in groups.items():
        first = next(iter(models.values()))
        hashes = ", ".join(f"{attack} `{digest}`" for attack, digest in group.hashes)
        parts += [
            f"## {escaped(first.description or group.data)}",
            f"Protocol {escaped(group.rules)}; data `{group.data or 'unknown'}`, {group.drawn}; "
            f"hashes: {hashes}.",
            markdown_table(_table(models)),
        ]
    return "\n\n".join(parts) + "\n"


def _group(one: Evaluation) -> _Group:
    rules = "of the attacks" if one.protocol is None else one.protocol.name
    drawn = f"{one.examples} examples, drawn and attacked with seed {one.seed}"
    return _Group(one.data, drawn, rules, tuple(sorted(one.hashes.items())))


def _table(models: Mapping[str, Evaluation]) -> Table:
    titles = list(dict.fromkeys(title for one in models.values() for title in one.titles))
    order = sorted(models.items(), key=lambda item: -_accuracy(item[1], titles[0]))
    head = ("model", "training", "clean, %", *(f"{title}, %" for title in titles), "checks")
    rows: list[tuple[Cell | str, ...]] = [
        (
            _name(name, one),
            trained(one.training),
            _share(one),
            *(_under(one, title) for title in titles),
            checked(one),
        )
        for name, one in order
    ]
    return Table.of(head, *rows)


def _name(name: str, one: Evaluation) -> Cell:
    notes = [*(["⚠ one class"] if one.answers.constant else [])]
    notes += ["⚠ fails a check"] if any(check.passed is False for check in one.checks) else []
    return Cell(name, tuple(notes))


def _share(one: Evaluation) -> Cell:
    return Cell(percent(one.clean.value), (interval(*one.clean.interval()),))


def _under(one: Evaluation, title: str) -> Cell:
    if title not in one.summaries:
        return Cell(MISSING)
    share = one.summaries[title].under_attack
    return Cell(percent(share.value), (interval(*share.interval()),))


def _accuracy(one: Evaluation, title: str) -> float:
    return one.summaries[title].under_attack.value if title in one.summaries else -1.0


def trained(description: Mapping[str, object]) -> str:
    """How a model was trained, in a line; “unknown” where nothing beside it says so."""
    if "method" not in description:
        return "unknown"
    shown = (f"{key} {_short(description[key])}" for key in _SHOWN if key in description)
    numbers = ", ".join(shown) if description["method"] != "none" else ""
    name = "plain" if description["method"] == "none" else str(description["method"])
    return f"{name} ({numbers})" if numbers else name


def _short(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def checked(one: Evaluation) -> str:
    """How many checks passed, and which did not."""
    if not one.checks:
        return "no checks"
    passed = sum(check.passed is True for check in one.checks)
    failed = _names(check.name for check in one.checks if check.passed is False)
    open_ = _names(check.name for check in one.checks if check.passed is None)
    said = f"{passed} of {len(one.checks)} checks passed"
    said += f", failed: {', '.join(failed)}" if failed else ""
    return said + (f", undecided: {', '.join(open_)}" if open_ else "")


def _names(names: Iterable[str]) -> Sequence[str]:
    return list(dict.fromkeys(names))
