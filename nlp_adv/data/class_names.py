"""The labels of a data set as the numbers of a model's classes: matched by name, not by place."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from nlp_adv.errors import UserError

_PLACEHOLDER = re.compile(r"LABEL_(\d+)")
# Separators beside a letter: "not_entailment", "not-entailment" and "not entailment" are one name,
# and "-1" is not "1".
_SEPARATORS = re.compile(r"(?<=[^\W\d_])[\s_/\-]+|[\s_/\-]+(?=[^\W\d_])")


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold().strip()


def _bare(name: str) -> str:
    return _SEPARATORS.sub("", _folded(name))


_SPELLINGS: tuple[Callable[[str], str], ...] = (str, _folded, _bare)


def matched(names: Iterable[str], classes: Sequence[str]) -> dict[str, int]:
    """Name → number of the class of that name, for those names that have one.

    Names are compared as they are written, then without regard to case, then to spaces, hyphens
    and underscores as well: the first of these ways that finds most, of those in which no two
    names and no two classes become one.
    """
    distinct, best = list(dict.fromkeys(names)), dict[str, int]()
    for spelling in _SPELLINGS:
        numbers = {spelling(one): number for number, one in enumerate(classes)}
        found = {name: numbers[spelling(name)] for name in distinct if spelling(name) in numbers}
        unambiguous = len(numbers) == len(classes) and len(set(found.values())) == len(found)
        if unambiguous and len(found) > len(best):
            best = found
    return best


def classes_of(config: Any) -> list[str]:
    """The names of a model's classes in the order of its logits.

    `id2label` says what a logit means; `label2id` is followed where that has only placeholders.
    """
    given = {int(number): str(name) for number, name in dict(config.id2label or {}).items()}
    names = [given.get(number, f"LABEL_{number}") for number in range(config.num_labels)]
    if are_placeholders(names):
        other = {int(number): name for name, number in dict(config.label2id or {}).items()}
        names = [str(other.get(number, name)) for number, name in enumerate(names)]
    return names


def contradiction(config: Any) -> str:
    """What to say of a configuration whose two tables disagree; "" of others."""
    for number, name in enumerate(classes_of(config)):
        other = dict(config.label2id or {}).get(name, number)
        if int(other) != number:
            return (
                f"The model's configuration calls logit {number} {name!r} in id2label, and gives "
                f"{name!r} the number {other} in label2id; id2label was followed."
            )
    return ""


def are_placeholders(names: Iterable[str]) -> bool:
    """Whether all names are LABEL_0, LABEL_1 and so on, which say nothing."""
    return all(_PLACEHOLDER.fullmatch(name) for name in names)


def number_in(value: Any) -> float | None:
    """The number that a label is or spells; None of a word."""
    # float() would also read "1_0", as ten.
    if isinstance(value, bool) or not isinstance(value, int | float | str) or "_" in str(value):
        return None
    try:
        return float(value)
    except ValueError:
        return None


@dataclass(frozen=True)
class ClassReading:
    """How the labels of one column were read.

    Args:
        numbers: label as it stands in the column → number of the model's class.
        names: of the classes, for people.
        assumed: what was taken for granted, a sentence; "" where names settled it.
    """

    numbers: dict[Any, int]
    names: tuple[str, ...]
    assumed: str = ""


def read_declared(declared: Sequence[str], classes: Sequence[str]) -> ClassReading:
    """Of a column that numbers its classes and names them.

    Raises:
        UserError: no name is a class of the model, and the numbers cannot mean its classes.
    """
    found = matched(declared, classes)
    if found:
        numbers = {place: found[name] for place, name in enumerate(declared) if name in found}
        return ClassReading(numbers, tuple(classes))
    numbers = _spelt(declared, len(classes)) or dict(enumerate(range(len(declared))))
    if len(declared) != len(classes) and not _spelt(declared, len(classes)):
        raise UserError(
            f"The data has the classes {', '.join(declared)} and the model "
            f"{', '.join(classes)}: no name is in both, and they are not as many; give labels that "
            f"are numbers or names of the model's classes."
        )
    read = ", ".join(f"{declared[place]} as {classes[n]}" for place, n in numbers.items())
    unnamed = are_placeholders(classes) and len(declared) == len(classes)
    return ClassReading(
        numbers,
        tuple(declared[place] for place in sorted(numbers, key=numbers.__getitem__))
        if unnamed
        else tuple(classes),
        f"No name of a class in the data is one of the model's, so classes were matched by their "
        f"number: {read}. If that is not their order, all accuracies here are wrong.",
    )


def read_values(values: Iterable[Any], classes: Sequence[str]) -> ClassReading:
    """Of a column of names or numbers; what is no class of the model is left out."""
    distinct = list(dict.fromkeys(v for v in values if isinstance(v, int | float | str)))
    numbers: dict[Any, int] = dict(matched([v for v in distinct if isinstance(v, str)], classes))
    known = {number_in(name): place for place, name in enumerate(classes)}
    if None in known:  # classes have names, so that numbers mean their places
        known = {float(place): place for place in range(len(classes))}
    counted = []
    for value in distinct:
        if value in numbers:
            continue
        label = _PLACEHOLDER.fullmatch(value) if isinstance(value, str) else None
        number = number_in(label[1] if label else value)
        if number in known:
            numbers[value] = known[number]
            counted.append(value)
    shown = ", ".join(f"{number} {name}" for number, name in enumerate(classes))
    named = not are_placeholders(classes) and any(number_in(name) is None for name in classes)
    return ClassReading(
        numbers,
        tuple(classes),
        f"The labels are numbers and were read as the model numbers its classes: {shown}."
        if counted and named
        else "",
    )


def _spelt(declared: Sequence[str], count: int) -> dict[int, int]:
    """Place → number, where the names are the numbers of classes; empty where they are not."""
    spelt = [number_in(m[1] if (m := _PLACEHOLDER.fullmatch(name)) else name) for name in declared]
    places = range(count)
    if len(set(spelt)) < len(spelt) or not all(number in places for number in spelt):
        return {}
    return {place: int(number) for place, number in enumerate(spelt) if number is not None}
