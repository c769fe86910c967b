"""One line an example and attack: what was tried, what came of it, what it cost.

A file of records is JSON lines in UTF-8, a line a record, in the order in which examples were
finished; nan is null. A killed run leaves whole lines, and at most a part of one behind them.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import MISSING, asdict, dataclass, fields
from io import FileIO
from pathlib import Path
from typing import Any, Literal, get_args

from nlp_adv.errors import UserError

RECORDS = "records.jsonl"  # their name in a folder of results
Outcome = Literal["skipped", "failed", "succeeded"]


@dataclass(frozen=True, kw_only=True)
class Record:
    """What one attack did to one example.

    Args:
        id: the example's number in the data, from 0; models are compared on equal ids.
        attack: the attack's name; an attack on embeddings has one name a radius.
        original: the attacked text; of a pair, the part that the protocol names.
        adversarial: the text that the attack ended with; of a skipped example, the original. The
            text of an attack on embeddings does not change.
        context: the other text of a pair.
        label: the right class.
        prediction: the answer without attack.
        adversarial_prediction: the answer to `adversarial`.
        outcome: "skipped": wrong without attack; "failed": the attack did, the model stands;
            "succeeded": the model fell.
        queries: asked of the model, counted as the protocol counts them, the original included.
        forwards: texts that the model was really run on, backward passes not counted.
        tokens: in those texts, without padding.
        words: of the original, as many as the model reads.
        words_changed: of those, in `adversarial`.
        confidence, adversarial_confidence: softmax probability of the two predictions.
        budget_stopped: whether the attack ended because its query budget was spent.
    """

    id: int
    attack: str
    original: str
    adversarial: str
    label: int
    outcome: Outcome
    queries: int
    forwards: int
    tokens: int
    words: int
    words_changed: int
    prediction: int
    adversarial_prediction: int
    confidence: float
    adversarial_confidence: float
    budget_stopped: bool = False
    context: str | None = None


def changes_text(attack: str) -> bool:
    """Whether an attack of that name changes the text; those on embeddings have "name@ε"."""
    return "@" not in attack


class RecordWriter:
    """Appends records to a file, each one written whole before the next is taken.

    The part of a line that a killed run may have left is cut off when the file is opened. Opening
    a file that holds anything else than records is refused, and leaves it as it was.

        with RecordWriter(path) as writer:
            for record in records:
                writer.write(record)

    Args:
        path: the file; it and its folder are made where they are missing.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: FileIO | None = None
        self._written: set[tuple[str, int]] = set()

    def __enter__(self) -> RecordWriter:
        """Open the file.

        Raises:
            UserError: it cannot be written, or holds something else.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            data = self.path.read_bytes() if self.path.exists() else b""
            before, length = _parsed(data, self.path)
            self._written = {(record.attack, record.id) for record in before}
            # Unbuffered: what is written is out of this process, and stays if it is killed.
            self._file = self.path.open("ab", buffering=0)
            if length < len(data):
                self._file.truncate(length)
            if not data[:length].endswith(b"\n") and length:
                self._append(b"\n")
        except OSError as error:
            raise self._stopped(error) from error
        return self

    def write(self, record: Record) -> None:
        """Append one.

        Raises:
            UserError: the disk is full or gone; all records before this one are kept.
            ValueError: the file is not open, or has this example under this attack already.
        """
        key = (record.attack, record.id)
        if self._file is None or key in self._written:
            why = "has it already" if key in self._written else "is not open"
            raise ValueError(f"Example {record.id} of {record.attack}: {self.path} {why}.")
        try:
            self._append(_line(record))
        except OSError as error:
            raise self._stopped(error) from error
        self._written.add(key)

    def __exit__(self, *error: object) -> None:
        """Wait until all is on the disk, and close."""
        if self._file is None:
            return
        try:
            os.fsync(self._file.fileno())
            self._file.close()
        except OSError as failure:
            raise self._stopped(failure) from failure
        self._file = None

    def _append(self, data: bytes) -> None:
        assert self._file is not None
        while data:  # a disk that fills up takes a part first
            data = data[self._file.write(data) :]

    def _stopped(self, error: OSError) -> UserError:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
        self._file = None
        return UserError(
            f"{self.path} cannot be written ({error.strerror}): {len(self._written)} finished "
            "examples are kept in it; mend that and run the same again to go on."
        )


def read_records(path: str | Path) -> list[Record]:
    """All records of a file, in its order; part of a line that a killed run left is passed over.

    Raises:
        UserError: there is no such file, or a line of it is no record, or is there twice.
    """
    path = Path(path)
    try:
        return _parsed(path.read_bytes(), path)[0]
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check the path.") from error


def merge(paths: Iterable[str | Path]) -> list[Record]:
    """The records of several files, such as shards, by attack and id; equal ones are kept once.

    Raises:
        UserError: as `read_records`, or two files say different things of one example.
    """
    found: dict[tuple[str, int], tuple[Record, str | Path]] = {}
    for path in paths:
        for record in read_records(path):
            other, first = found.setdefault((record.attack, record.id), (record, path))
            # As lines: two nan are equal there.
            if _line(other) != _line(record):
                raise UserError(
                    f"{first} and {path} disagree on example {record.id} of {record.attack}; "
                    "merge only parts of one run."
                )
    return [found[key][0] for key in sorted(found)]


_FIELDS = {field.name: field for field in fields(Record)}
_TYPES: dict[Any, tuple[type, ...]] = {
    "int": (int,),
    "str": (str,),
    "bool": (bool,),
    "Outcome": (str,),
    "float": (float, int, type(None)),
    "str | None": (str, type(None)),
}
_START = b'{"id": '  # of every line


def _line(record: Record) -> bytes:
    content = {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in asdict(record).items()
    }
    line = json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n"
    # Half a surrogate pair is no UTF-8; written \udxxx, it is what JSON calls it, too.
    return line.encode("utf-8", "backslashreplace")


def _parsed(data: bytes, path: Path) -> tuple[list[Record], int]:
    """The records, and the number of bytes before what a killed run left."""
    records: list[Record] = []
    first: dict[tuple[str, int], int] = {}
    length = 0
    lines = data.split(b"\n")
    for number, line in enumerate(lines, 1):
        unended = number == len(lines)
        where = f"{path}, line {number}"
        if line.strip():
            try:
                value = json.loads(line.decode("utf-8"))
            except ValueError as error:
                if unended and line.startswith(_START[: len(line)]):
                    break
                why = getattr(error, "msg", "not UTF-8")
                raise UserError(f"{where}: bad JSON ({why}); mend or delete the line.") from None
            records.append(_checked(value, where))
            key = (records[-1].attack, records[-1].id)
            if first.setdefault(key, number) != number:
                raise UserError(
                    f"{where}: example {key[1]} of {key[0]} is in line {first[key]} already; "
                    "delete one of the lines."
                )
        length += len(line) + (not unended)
    return records, length


def _checked(value: Any, where: str) -> Record:
    if not isinstance(value, dict):
        raise UserError(f"{where}: not a JSON object; name a file of records.")
    required = {name for name, field in _FIELDS.items() if field.default is MISSING}
    for kind, names in (("no", required - value.keys()), ("an unknown", value.keys() - _FIELDS)):
        if names:
            raise UserError(
                f"{where}: {kind} field {', '.join(sorted(names))}; name a file of records that "
                "this version of nlp_adv wrote."
            )
    for name, one in value.items():
        if type(one) not in _TYPES[_FIELDS[name].type]:
            raise UserError(f"{where}: {name} is {one!r:.40}, not {_FIELDS[name].type}; mend it.")
    if value["outcome"] not in get_args(Outcome):
        raise UserError(
            f"{where}: the outcome is {value['outcome']!r:.40}; it must be "
            f"{', '.join(get_args(Outcome))}."
        )
    content: dict[str, Any] = dict(value)
    for name in ("confidence", "adversarial_confidence"):
        content[name] = math.nan if value[name] is None else float(value[name])
    return Record(**content)
