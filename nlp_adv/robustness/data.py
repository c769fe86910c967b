"""Which texts are attacked, with labels as the model numbers them."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import ClassLabel, Dataset

from nlp_adv.attacks.words.engine import Text
from nlp_adv.attacks.words.protocols import Part
from nlp_adv.data.class_names import (
    ClassReading,
    are_placeholders,
    classes_of,
    contradiction,
    number_in,
    read_declared,
    read_values,
)
from nlp_adv.data.text import DataSource, check_rows, find_columns
from nlp_adv.errors import UserError


@dataclass(frozen=True)
class AttackData:
    """Labelled texts.

    Args:
        texts: the attacked ones, in the order of their numbers.
        rest: the others.
        columns: one text column, or two for pairs.
        labels: names of the classes.
        description: for the report.
        notes: what a reader must know of the labels, a sentence each.
    """

    texts: tuple[Text, ...]
    rest: tuple[Text, ...]
    columns: tuple[str, ...]
    labels: tuple[str, ...]
    description: str
    notes: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """12 hexadecimal digits of SHA-256 over ids, texts and labels."""
        rows = [[text.id, text.text, text.context, text.label] for text in self.texts]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:12]


def attack_data(
    dataset: Dataset | Sequence[Mapping[str, Any]],
    config: Any,
    *,
    text_columns: Sequence[str] = (),
    label_column: str | None = None,
    part: Part = "second",
    max_examples: int | None = None,
    seed: int = 0,
    name: str = "the data",
) -> AttackData:
    """Check a data set, number its labels and draw the texts to attack.

    Args:
        dataset: rows with one or two text columns and a label: a name of one of the model's
            classes, in whatever case, or a class number. Where neither names agree, numbers are
            taken, and `notes` says which class was taken for which.
        config: of the model, for its classes.
        text_columns, label_column: found by their usual names where not given.
        part: the attacked text of a pair.
        max_examples: draw so many at random with `seed`, the same for every model; None takes all.
        seed: of the draw.
        name: of the data, for messages and the report.

    Raises:
        UserError: there are no rows, no such columns, or labels that the model does not have.
    """
    if max_examples is not None and max_examples < 1:
        raise UserError(f"max_examples is {max_examples}; give at least 1.")
    data = dataset if isinstance(dataset, Dataset) else Dataset.from_list(list(dataset))
    source = DataSource(text_columns=tuple(text_columns), label_column=label_column)
    if not len(data):
        raise UserError(f"There is nothing to attack: {name} is empty.")
    columns, label = find_columns(data.column_names, source)
    check_rows(name, data, (*columns, label), columns, is_split=False)
    labels, reading = _read(data, label, config)
    ids = list(range(len(data)))
    if max_examples is not None and max_examples < len(ids):
        ids = sorted(random.Random(seed).sample(ids, max_examples))
    texts = Text.of_rows(data, columns, labels, part)
    chosen = set(ids)
    return AttackData(
        tuple(texts[n] for n in ids),
        tuple(text for text in texts if text.id not in chosen),
        columns,
        reading.names,
        f"{len(ids)} of {len(data)} rows of {name}",
        tuple(note for note in (reading.assumed, contradiction(config)) if note),
    )


def _read(data: Dataset, column: str, config: Any) -> tuple[list[int], ClassReading]:
    """The class number of each row, and how it was found."""
    classes, feature, values = classes_of(config), data.features[column], list(data[column][:])
    declared = feature.names if isinstance(feature, ClassLabel) else None
    reading = read_values(values, classes) if declared is None else read_declared(declared, classes)
    numbers: list[int] = []
    for row, value in enumerate(values, 1):
        readable = isinstance(value, int | float | str) and not isinstance(value, bool)
        if not readable or value not in reading.numbers:
            if declared is not None and value in range(len(declared)):
                value = declared[value]  # people know it by its name
            raise UserError(_refused(row, column, value, classes))
        numbers.append(reading.numbers[value])
    return numbers, reading


def _refused(row: int, column: str, value: Any, classes: list[str]) -> str:
    where = f"Row {row} of the column {column!r}: the label {value!r} is"
    number = number_in(value)
    if number is None or number in range(len(classes)) or not number.is_integer():
        return (
            f"{where} no class of the model ({', '.join(classes)}); give class numbers or these "
            f"names."
        )
    names = "" if are_placeholders(classes) else f" ({', '.join(classes)})"
    return (
        f"{where} none of the model's {len(classes)} classes, 0 to {len(classes) - 1}{names}; "
        f"mend it or remove the row."
    )
