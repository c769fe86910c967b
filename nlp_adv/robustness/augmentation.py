"""Adversarial texts as rows to train on, beside those that an attack began with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from datasets import Dataset

from nlp_adv.attacks.words.engine import attacked_column
from nlp_adv.attacks.words.protocols import Part
from nlp_adv.data.text import DataSource, find_columns
from nlp_adv.errors import UserError
from nlp_adv.robustness.record import Record, Substitution

Keep = Literal["fooled", "changed"]
ADDED_BY = "added_by"  # the column that names the attack; "" of the rows that were there


def augmented_rows(
    dataset: Dataset,
    records: Iterable[Record],
    *,
    keep: Keep = "fooled",
    originals: bool = True,
    text_columns: tuple[str, ...] = (),
    label_column: str | None = None,
    part: Part = "second",
) -> list[dict[str, Any]]:
    """Rows with the attacked text in the place of their own and their label as it was.

    A text whose label an edit changes for a reader too is trained on as what it no longer is: read
    some of them before they are used.

    Args:
        dataset: what was attacked.
        records: of attacks that replace words, whose ids are rows of the data set.
        keep: "fooled", texts that changed a right answer; "changed", the last text that was tried
            of the others too.
        originals: with the rows of the data set before them.
        text_columns, label_column: found by their usual names where not given.
        part: the attacked text of a pair.

    Returns:
        The columns of the data set and "added_by", the attack's name, "" of an original. The same
        text with the same label is there once.

    Raises:
        UserError: there is no text to add, or a column is called "added_by" already.
    """
    if ADDED_BY in dataset.column_names:
        raise UserError(f"The data has a column {ADDED_BY!r} already; rename or remove it.")
    source = DataSource(text_columns=tuple(text_columns), label_column=label_column)
    columns, label = find_columns(dataset.column_names, source)
    attacked = attacked_column(columns, part)
    rows: list[dict[str, Any]] = [{**dict(row), ADDED_BY: ""} for row in dataset]
    seen = {(*(row[column] for column in columns), row[label]) for row in rows}
    added = list[dict[str, Any]]()
    for record in records:
        found = record.found
        if not isinstance(found, Substitution) or found.adversarial == found.original:
            continue
        if record.outcome != "fooled" and (keep == "fooled" or record.outcome == "wrong"):
            continue
        row = {**rows[record.id], attacked: found.adversarial, ADDED_BY: record.attack}
        key = (*(row[column] for column in columns), row[label])
        if key not in seen:
            seen.add(key)
            added.append(row)
    if not added:
        raise UserError(
            "No attack changed an answer, so that there is nothing to add; take a stronger attack, "
            "a looser protocol, or --keep changed."
        )
    return [*rows, *added] if originals else added
