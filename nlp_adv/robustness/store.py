"""The records of a run in a folder, written as they come and taken up again after a kill.

Of several processes the main one holds the folder, and each of the others a folder in it with its
own records. They are taken over when all are done; after a kill, when the run is taken up again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from nlp_adv.errors import UserError
from nlp_adv.folders import alone_in, write_whole
from nlp_adv.robustness.evaluated import Evaluation
from nlp_adv.robustness.processes import ALONE, Processes
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
        processes: that share it.

    Raises:
        UserError: the folder holds another run, or cannot be written; or several processes have
            none.
    """

    def __init__(
        self, evaluation: Evaluation, folder: str | Path | None, processes: Processes = ALONE
    ) -> None:
        if folder is None and processes.of > 1:
            raise UserError("Several processes keep their records in a folder: give output_dir.")
        self._evaluation, self._processes = evaluation, processes
        self._folder = None if folder is None else Path(folder)
        self._records: dict[tuple[str, float | None, int], Record] = {}
        self._before: set[tuple[str, float | None, int]] = set()  # written by another process
        self._order: list[str] = []  # of the attacks in the folder
        self._writer: RecordWriter | None = None
        self._spent: dict[str, float] = {}  # by the runs before this one
        self._open = ExitStack()

    def __enter__(self) -> Store:
        if self._folder is None:
            return self
        with ExitStack() as opened:
            if self._processes.main:
                self._open_whole(opened, self._folder)
            else:
                self._open_part(opened, self._folder)
            self._open = opened.pop_all()
        return self

    def _open_whole(self, opened: ExitStack, folder: Path) -> None:
        opened.enter_context(alone_in(folder))
        before = _resumed(folder, self._evaluation)
        self._order = list(read_header(folder / HEADER)["hashes"])
        self._spent = _spent(folder, before)
        self._records = {record.key: record for record in before}
        self._writer = opened.enter_context(RecordWriter(folder / RECORDS))
        self._take_over(sorted(folder.glob(_part("*"))))
        self.cost(dict.fromkeys(self._spent, 0))
        self._processes.tell("opened")
        for other in self._processes.others:  # all know the same of it before it grows
            self._processes.hear("read", other)

    def _open_part(self, opened: ExitStack, folder: Path) -> None:
        self._processes.hear("opened", 0)
        before = read_records(folder / RECORDS)
        self._records = {record.key: record for record in before}
        self._before = set(self._records)
        self._folder = folder / _part(self._processes.index)
        opened.enter_context(alone_in(self._folder))
        self._writer = opened.enter_context(RecordWriter(self._folder / RECORDS))
        self._processes.tell("read")

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Write nothing more, and let others into the folder."""
        self._open.close()

    def join(self) -> None:
        """Of the main process: take over what the others did, and put the file in order.

        A finished run's records are by attack, radius and id, however many processes it had.

        Raises:
            UserError: the folder cannot be written.
        """
        folder = self._folder
        if folder is None or self._writer is None:
            return
        self._take_over([folder / _part(other) for other in self._processes.others])
        self._writer.rewrite(self._sorted(self._order, self._records.values()))

    def _take_over(self, parts: Iterable[Path]) -> None:
        """Append the records of other processes, and add what they spent."""
        for part in parts:
            with alone_in(part):
                found = read_records(part / RECORDS) if (part / RECORDS).exists() else []
                for record in found:
                    if record.key not in self._records:
                        self.add(record)
                for name, value in _spent(part, found).items():
                    self._spent[name] = self._spent.get(name, 0) + value
            shutil.rmtree(part)

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
            count = len(self._records) - len(self._before)
            line = json.dumps({"records": count, **total}) + "\n"
            try:
                with (self._folder / COST).open("a", encoding="utf-8") as file:
                    file.write(line)
            except OSError as error:
                raise UserError(f"{self._folder} cannot be written ({error.strerror}).") from error
        return total

    def records(self, attacks: Sequence[str], ids: set[int]) -> list[Record]:
        """Those of some attacks and examples, in the order of both; radii from the smallest up."""
        chosen = (r for r in self._records.values() if r.attack in attacks and r.id in ids)
        return self._sorted(attacks, chosen)

    def _sorted(self, attacks: Sequence[str], records: Iterable[Record]) -> list[Record]:
        order = {name: place for place, name in enumerate(attacks)}
        return sorted(records, key=lambda r: (order.get(r.attack, -1), r.epsilon or 0.0, r.id))


def _part(index: int | str) -> str:
    """The folder of a process other than the main one."""
    return f"process-{index}"


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
            telling = None not in said and said[0] != said[1]
            named = (said[0], said[1]) if telling else (known, one)
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
