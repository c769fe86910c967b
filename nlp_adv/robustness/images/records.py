"""One line an image and attack: what came of it and what it cost.

A file of records is JSON lines in UTF-8; nan and infinities are null. A killed run leaves whole
lines, and at most a part of one behind them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args

from nlp_adv.errors import UserError
from nlp_adv.robustness.records import Outcome


@dataclass(frozen=True, kw_only=True)
class ImageRecord:
    """What one attack, with all its restarts, did to one image.

    Args:
        id: the image's number in the data.
        attack: the attack's name.
        pixels: 12 hexadecimal digits of the clean image's hash.
        label: the right class.
        clean_answer, answer: without attack, and to the image that the attack ended with.
        clean_confidence, confidence: softmax probability of these answers.
        outcome: "skipped": wrong without attack; "failed": the attack did, the model stands;
            "succeeded": the model fell.
        survives_8_bit: the success is still one after rounding to 256 levels.
        l2, linf, l1, l0: norms of δ; 0 where the image was skipped.
        gradient_passes: forward and backward passes of all restarts.
        zero_gradient: the first gradient of the last start was 0.
        first_loss, last_loss: the attack's own loss where it began and where it ended; nan where it
            looked at none.
    """

    id: int
    attack: str
    pixels: str
    label: int
    clean_answer: int
    answer: int
    clean_confidence: float
    confidence: float
    outcome: Outcome
    survives_8_bit: bool = False
    l2: float = 0.0
    linf: float = 0.0
    l1: float = 0.0
    l0: int = 0
    gradient_passes: int = 0
    zero_gradient: bool = False
    first_loss: float = math.nan
    last_loss: float = math.nan


def stood(records: Sequence[ImageRecord]) -> list[bool]:
    """Of each image: whether the model is right under the attack."""
    return [record.outcome == "failed" for record in records]


def read_image_records(path: str | Path) -> list[ImageRecord]:
    """All records of a file, in its order; part of a line that a killed run left is passed over.

    Raises:
        UserError: there is no such file, or a line of it is no record, or is there twice.
    """
    path = Path(path)
    try:
        return parsed(path.read_bytes(), path)[0]
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check the path.") from error


_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "str": (str,),
    "bool": (bool,),
    "float": (float, int, type(None)),
    "Outcome": (str,),
}
_FIELDS = {field.name: str(field.type) for field in fields(ImageRecord)}


def line(record: ImageRecord) -> bytes:
    """A record as it is written."""
    content = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in asdict(record).items()
    }
    return (json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n").encode()


def parsed(data: bytes, path: Path) -> tuple[list[ImageRecord], int]:
    """The records of a file, and the number of bytes before what a killed run left.

    Raises:
        UserError: a line is no record, or is there twice.
    """
    length = data.rfind(b"\n") + 1
    records: dict[tuple[str, int], ImageRecord] = {}
    for number, one in enumerate(data[:length].split(b"\n")[:-1], 1):
        record = _record(one)
        if record is None:
            raise UserError(f"{path}, line {number} is no record of an image; mend or delete it.")
        if (record.attack, record.id) in records:
            raise UserError(
                f"{path}, line {number}: image {record.id} of {record.attack} is there twice; "
                f"delete one of the lines."
            )
        records[record.attack, record.id] = record
    return list(records.values()), length


def _record(data: bytes) -> ImageRecord | None:
    """None of what is no record."""
    try:
        value: Any = json.loads(data)
    except ValueError:
        return None
    if not isinstance(value, dict) or value.keys() != _FIELDS.keys():
        return None
    if any(type(value[name]) not in _TYPES[kind] for name, kind in _FIELDS.items()):
        return None
    if value["outcome"] not in get_args(Outcome):
        return None
    for name, kind in _FIELDS.items():
        if kind == "float":
            value[name] = math.nan if value[name] is None else float(value[name])
    return ImageRecord(**value)
