"""Labels: class numbers or scores, alike in every split."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from datasets import ClassLabel, Dataset

from nlp_adv.data.class_names import are_placeholders, classes_of, matched, number_in
from nlp_adv.data.sources import DataSource
from nlp_adv.errors import UserError


def is_unlabelled(name: str, raw: Mapping[str, Dataset], label: str) -> bool:
    """Say whether a test split has no label column, or only -1 in it."""
    if not name.startswith("test"):
        return False
    if label not in raw[name].column_names:
        return True
    values = set(map(number_in, raw[name][label][:]))
    return values == {-1} and -1 not in map(number_in, raw["train"][label][:])


def encode_labels(
    splits: Mapping[str, Dataset], column: str, source: DataSource
) -> tuple[dict[str, list[Any]], tuple[str, ...] | None]:
    """Return every split's class numbers with the class names, or its scores with None."""
    values = {name: _label_values(name, split, column) for name, split in splits.items()}
    feature = splits["train"].features[column]
    declared = feature.names if isinstance(feature, ClassLabel) else None
    numbers = [number_in(value) for value in values["train"]]
    numeric = declared is None and None not in numbers
    regression = source.regression
    if regression is None:
        fractions = any(number is not None and not number.is_integer() for number in numbers)
        regression = source.task_name == "stsb" or (numeric and fractions)
    if regression:
        return {name: _as_scores(name, column) for name, column in values.items()}, None
    named = {name: [_class_name(v, numeric) for v in column] for name, column in values.items()}
    names = declared or sorted(set(named["train"]), key=float if numeric else None)
    if len(names) < 2:
        raise UserError(
            f"All training labels are {names[0]!r}; give at least two classes, or regression=True."
        )
    return {name: _as_classes(name, column, names) for name, column in named.items()}, tuple(names)


def _label_values(name: str, split: Dataset, column: str) -> list[int | float | str]:
    values = split[column][:]
    for row, value in enumerate(values, 1):
        if not isinstance(value, int | float | str) or value == "" or value != value:
            missing = value is None or value == "" or value != value
            raise UserError(
                f"Row {row} of the {name} split: the label in {column!r} is "
                f"{'missing' if missing else 'a ' + type(value).__name__}; labels are whole "
                "numbers, words, or decimal numbers for regression."
            )
    feature = split.features[column]
    if isinstance(feature, ClassLabel):
        known = range(len(feature.names))
        return [feature.names[v] if v in known else str(v) for v in values]
    return list(values)


def _as_scores(name: str, values: Iterable[int | float | str]) -> list[float]:
    scores = []
    for row, value in enumerate(values, 1):
        number = number_in(value)
        if number is None or not math.isfinite(number):
            raise UserError(
                f"Row {row} of the {name} split: the label {value!r} is no finite number; mend it, "
                "or set regression=False if the labels are classes."
            )
        scores.append(number)
    return scores


def _as_classes(name: str, values: Iterable[str], names: Sequence[str]) -> list[int]:
    ids = {label: number for number, label in enumerate(names)}
    for row, value in enumerate(values, 1):
        if value not in ids:
            raise UserError(
                f"Row {row} of the {name} split: the label {value!r} is none of the training "
                f"labels ({', '.join(names)}); mend it, or add training rows that have it."
            )
    return [ids[value] for value in values]


def _class_name(value: int | float | str, numeric: bool) -> str:
    number = number_in(value) if numeric else None
    if number is None:
        return str(value)
    return str(int(number)) if number.is_integer() else repr(number)


def in_classes_of(config: Any, names: Sequence[str]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Number in the model of each class of the data, and the names of the model's classes then.

    A model that was trained before keeps the names and the order of its classes where the data has
    the same ones, by name, or as many that are only numbered. In any other case, and where the
    model's names are the placeholders LABEL_0, LABEL_1, …, the data's names and order count.

    Args:
        config: of the model before it is trained.
        names: of the data's classes.
    """
    known = classes_of(config)
    found = matched(names, known)
    if len(found) == len(names):
        return tuple(found[name] for name in names), tuple(known)
    own = tuple(range(len(names))), tuple(names)
    if are_placeholders(known) or len(known) != len(names):
        return own
    truth = {"false": 0, "true": 1}
    numbers = tuple(truth.get(name.lower(), number_in(name)) for name in names)
    if set(numbers) != set(own[0]):
        return own
    return tuple(int(number) for number in numbers if number is not None), tuple(known)
