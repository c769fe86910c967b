"""The records of a run in a folder, written as they come and taken up again after a kill."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from nlp_adv.errors import UserError
from nlp_adv.folders import alone_in, write_whole
from nlp_adv.robustness.evaluated import Evaluation
from nlp_adv.robustness.record import Record
from nlp_adv.robustness.records import RECORDS, RecordWriter, read_records
from nlp_adv.robustness.saved import (
    HEADER,
    OLD_HEADER,
    identity,
    read_header,
    upgraded_header,
    write_header,
)

COST = "cost.jsonl"
_IDENTITY = ("model", "data", "seed", "target")


class Store:
    """The records of a run: on disk as they come where there is a folder, else in memory.

    Args:
        evaluation: what is being run.
        folder: where; None keeps records in memory.

    Raises:
        UserError: the folder holds another run, or cannot be written.
    """

    def __init__(self, evaluation: Evaluation, folder: str | Path | None) -> None:
        self._evaluation = evaluation
        self._folder = None if folder is None else Path(folder)
        self._records: dict[tuple[str, float | None, int], Record] = {}
        self._writer: RecordWriter | None = None
        self._spent: dict[str, float] = {}  # by the runs before this one
        self._open = ExitStack()

    def __enter__(self) -> Store:
        if self._folder is None:
            return self
        with ExitStack() as opened:
            opened.enter_context(alone_in(self._folder))
            before = _resumed(self._folder, self._evaluation)
            self._spent = _spent(self._folder, before)
            self._records = {record.key: record for record in before}
            self._writer = opened.enter_context(RecordWriter(self._folder / RECORDS))
            self._open = opened.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def has(self, attack: str, number: int, epsilon: float | None = None) -> bool:
        """Whether an example is finished."""
        return (attack, epsilon, number) in self._records

    def find(
        self, attack: str, epsilon: float | None, number: int, example: str, label: int
    ) -> Record | None:
        """The record of an example that is known by its content, where it is finished.

        Raises:
            UserError: it is of another example.
        """
        # Before version 2 a record of an image had no radius: an attack of one name has one.
        record = self._records.get((attack, epsilon, number))
        record = record or self._records.get((attack, None, number))
        known = record is not None and record.example in ("", example)
        if record is not None and not (known and record.label == label):
            raise UserError(
                f"{self._folder} holds records of other examples (example {number} differs); give "
                f"another --output_dir."
            )
        return record

    def add(self, record: Record) -> None:
        """Keep one more.

        Raises:
            UserError: the disk is full or gone; all records before this one are kept.
        """
        if self._writer is not None:
            self._writer.write(record)
        self._records[record.key] = record

    def cost(self, work: Mapping[str, float]) -> dict[str, float]:
        """What this run did, and the ones before it; written down beside the records.

        A run that is killed has done all that stood here after its last record.
        """
        total = {name: self._spent.get(name, 0) + value for name, value in work.items()}
        if self._folder is not None:
            line = json.dumps({"records": len(self._records), **total}) + "\n"
            try:
                with (self._folder / COST).open("a", encoding="utf-8") as file:
                    file.write(line)
            except OSError as error:
                raise UserError(f"{self._folder} cannot be written ({error.strerror}).") from error
        return total

    def records(self, attacks: Sequence[str], ids: set[int]) -> list[Record]:
        """Those of some attacks and examples, in the order of both; radii from the smallest up."""
        order = {name: place for place, name in enumerate(attacks)}
        chosen = [r for r in self._records.values() if r.attack in order and r.id in ids]
        return sorted(chosen, key=lambda one: (order[one.attack], one.epsilon or 0.0, one.id))


def _resumed(folder: Path, evaluation: Evaluation) -> list[Record]:
    """Records of the same run that are there already; begins the folder where there are none."""
    records = folder / RECORDS
    ours, theirs = identity(evaluation), _header_of(folder)
    if theirs is not None:
        _check_same(folder, ours, theirs)
        for name in ("hashes", "attacks"):
            ours[name] = theirs.get(name, {}) | ours[name]
    elif records.exists():
        raise UserError(f"{folder} holds records of an unknown run; give another --output_dir.")
    before = read_records(records) if records.exists() else []
    write_header(folder, ours)
    return before


def _header_of(folder: Path) -> dict[str, Any] | None:
    if (folder / HEADER).exists():
        return read_header(folder / HEADER)
    old = folder / OLD_HEADER
    return upgraded_header(read_header(old), old) if old.exists() else None


def _check_same(folder: Path, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Whether two headers are of one run.

    Raises:
        UserError: they are not; the message names what differs.
    """
    mine = {name: ours[name] for name in _IDENTITY} | ours["settings"]
    other = {name: theirs.get(name) for name in _IDENTITY} | theirs.get("settings", {})
    for key in (*mine, *other):
        if other.get(key) != mine.get(key):
            raise UserError(
                f"{folder} holds the records of another run (its {key} is {other.get(key)!r}, not "
                f"{mine.get(key)!r}); give another --output_dir."
            )
    for attack, one in ours["hashes"].items():
        known = theirs.get("hashes", {}).get(attack)
        said = [header.get("attacks", {}).get(attack) for header in (theirs, ours)]
        # Up to version 0.5 a run of images knew its attacks by their description alone.
        if known is None and said[0] != said[1] and said[0] is not None:
            known = said[0]
        if known not in (None, one):
            named = (said[0], said[1]) if None not in said else (known, one)
            raise UserError(
                f"{folder} holds records of another {attack}, or under another protocol or with "
                f"other resources ({named[0]}, not {named[1]}); give another --output_dir."
            )


def _spent(folder: Path, before: Sequence[Record]) -> dict[str, float]:
    """What the runs that made these records had done by then; the file keeps that alone.

    Where it is missing, what stands in the records themselves.
    """
    records = len(before)
    found: dict[str, float] = {
        "forwards": sum(record.forwards for record in before),
        "tokens": sum(record.found.tokens for record in before),
    }
    path = folder / COST
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for line in lines:
        try:
            entry = json.loads(line)
            if entry.pop("records") <= records:
                found = {name: value + 0 for name, value in entry.items()}
        except (ValueError, TypeError, LookupError, AttributeError):  # half a line of a killed run
            continue
    write_whole(path, json.dumps({"records": records, **found}) + "\n")
    return found
