"""Files of records: JSON lines in UTF-8, a line a record.

They stand in the order in which examples were finished, and in that of attacks, radii and ids once
the run is. A killed run leaves whole lines, and at most a part of one behind them. Lines of nlp_adv
0.4 and 0.5 are read as well.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path

from nlp_adv.errors import UserError
from nlp_adv.folders import write_whole
from nlp_adv.robustness.record import START, Record, line, parsed_record

__all__ = ["RECORDS", "Record", "RecordWriter", "merge", "read_records"]

RECORDS = "records.jsonl"  # their name in a folder of results
_STARTS = (START, b'{"id": ')  # of a line, now and in version 1


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
        self._written: set[tuple[str, float | None, int]] = set()

    def __enter__(self) -> RecordWriter:
        """Open the file.

        Raises:
            UserError: it cannot be written, or holds something else.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            data = self.path.read_bytes() if self.path.exists() else b""
            before, length = _parsed(data, self.path)
            self._written = {record.key for record in before}
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
        key = record.key
        if self._file is None or key in self._written:
            why = "has it already" if key in self._written else "is not open"
            raise ValueError(f"Example {record.id} of {record.title}: {self.path} {why}.")
        try:
            self._append(line(record))
        except OSError as error:
            raise self._stopped(error) from error
        self._written.add(key)

    def rewrite(self, records: Sequence[Record]) -> None:
        """Put the same records in another order.

        Raises:
            UserError: the disk is full or gone; the file is as it was.
        """
        assert self._file is not None
        content = b"".join(map(line, records))
        try:
            if self.path.read_bytes() != content:
                write_whole(self.path, content)
                self._file.close()
                self._file = self.path.open("ab", buffering=0)
        except OSError as error:
            raise self._stopped(error) from error

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
    found: dict[tuple[str, float, int], tuple[Record, str | Path]] = {}
    for path in paths:
        for record in read_records(path):
            other, first = found.setdefault(_order(record), (record, path))
            if other != record:
                raise UserError(
                    f"{first} and {path} disagree on example {record.id} of {record.title}; "
                    "merge only parts of one run."
                )
    return [found[key][0] for key in sorted(found)]


def _order(record: Record) -> tuple[str, float, int]:
    return record.attack, -1.0 if record.epsilon is None else record.epsilon, record.id


def _parsed(data: bytes, path: Path) -> tuple[list[Record], int]:
    """The records, and the number of bytes before what a killed run left."""
    records: list[Record] = []
    first: dict[tuple[str, float | None, int], int] = {}
    length = 0
    lines = data.split(b"\n")
    for number, one in enumerate(lines, 1):
        unended = number == len(lines)
        where = f"{path}, line {number}"
        if one.strip():
            try:
                value = json.loads(one.decode("utf-8"))
            except ValueError as error:
                if unended and any(one.startswith(start[: len(one)]) for start in _STARTS):
                    break
                why = getattr(error, "msg", "not UTF-8")
                raise UserError(f"{where}: bad JSON ({why}); mend or delete the line.") from None
            record = parsed_record(value, where)
            records.append(record)
            if first.setdefault(record.key, number) != number:
                raise UserError(
                    f"{where}: example {record.id} of {record.title} is in line "
                    f"{first[record.key]} already; delete one of the lines."
                )
        length += len(one) + (not unended)
    return records, length
