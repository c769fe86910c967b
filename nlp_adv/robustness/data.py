"""Which texts are attacked, with labels as the model numbers them."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import ClassLabel, Dataset

from nlp_adv.errors import UserError
from nlp_adv.robustness.protocols import Part
from nlp_adv.robustness.substitution.engine import Text
from nlp_adv.text.data import DataSource, check_rows, find_columns


@dataclass(frozen=True)
class AttackData:
    """Labelled texts.

    Args:
        texts: the attacked ones, in the order of their numbers.
        rest: the others.
        columns: one text column, or two for pairs.
        labels: names of the classes.
        description: for the report.
    """

    texts: tuple[Text, ...]
    rest: tuple[Text, ...]
    columns: tuple[str, ...]
    labels: tuple[str, ...]
    description: str

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
        dataset: rows with one or two text columns and a label: a class number, or a name that the
            model's configuration knows.
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
    labels = _numbered(data, label, config)
    ids = list(range(len(data)))
    if max_examples is not None and max_examples < len(ids):
        ids = sorted(random.Random(seed).sample(ids, max_examples))
    order = columns if part == "first" or len(columns) == 1 else columns[::-1]
    mine = data[order[0]][:]
    other = data[order[1]][:] if len(order) > 1 else [None] * len(data)
    texts = [Text(n, mine[n], labels[n], other[n]) for n in range(len(data))]
    chosen = set(ids)
    return AttackData(
        tuple(texts[n] for n in ids),
        tuple(text for text in texts if text.id not in chosen),
        columns,
        tuple(str(config.id2label[n]) for n in range(config.num_labels)),
        f"{len(ids)} of {len(data)} rows of {name}",
    )


def _numbered(data: Dataset, column: str, config: Any) -> list[int]:
    feature = data.features[column]
    values = list(data[column][:])
    if isinstance(feature, ClassLabel) and set(feature.names) <= set(config.label2id):
        values = [feature.names[value] for value in values]
    known = {str(name): int(number) for name, number in config.label2id.items()}
    numbers: list[int] = []
    for row, value in enumerate(values, 1):
        number = known.get(value) if isinstance(value, str) else value
        if number is None and isinstance(value, str) and value.isdecimal():
            number = int(value)  # tables without types hold numbers as text
        if isinstance(number, bool) or not isinstance(number, int):
            raise UserError(
                f"Row {row} of the column {column!r}: the label {value!r} is no class of the model "
                f"({', '.join(known)}); give class numbers or these names."
            )
        if not 0 <= number < config.num_labels:
            raise UserError(
                f"Row {row} of the column {column!r}: the label {number} is none of the model's "
                f"{config.num_labels} classes, 0 to {config.num_labels - 1}."
            )
        numbers.append(number)
    return numbers
