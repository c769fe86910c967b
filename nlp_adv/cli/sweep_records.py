"""The files of a sweep: its settings, and a line for each finished trial."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nlp_adv.errors import UserError
from nlp_adv.folders import is_empty, write_whole

SETTINGS_NAME, TRIALS_NAME, STUDY_NAME = "sweep.json", "trials.jsonl", "optuna_journal.log"


@dataclass(frozen=True)
class TrialRecord:
    """One finished trial.

    Args:
        number: of the trial, from 0.
        params: the searched flags and their values.
        clean: accuracy on the whole validation split.
        robust: accuracy under attack on its first rows, by radius.
        objective: what is maximised: share·clean + (1 − share)·mean(robust).
        loss: on the validation split, without attack.
        constant: whether the rows got one answer, or nearly: the attacked ones, or where none was
            attacked the whole split; their labels have more.
        seconds: wall-clock time of the training alone.
        seed: of the training.
        method: how it was trained, with its numbers.
        clean_attacked: accuracy on the attacked rows, without attack; None where none was attacked.
    """

    number: int
    params: dict[str, Any]
    clean: float
    robust: dict[str, float]
    objective: float
    loss: float
    constant: bool | None
    seconds: float
    seed: int
    method: dict[str, Any]
    clean_attacked: float | None = None


class SweepFolder:
    """Where a sweep lives; the same command finds its finished trials there.

    Args:
        path: the folder; it is made when the sweep is opened.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.records: list[TrialRecord] = []

    def check(self, settings: dict[str, Any], *, overwrite: bool) -> None:
        """Read what is there; nothing is written.

        Raises:
            UserError: the folder holds something else, or a sweep with other settings.
        """
        if overwrite or is_empty(self.path):
            return
        way_out = "name a new --output_dir, or pass --overwrite_output_dir true."
        if not (self.path / SETTINGS_NAME).is_file():
            raise UserError(f"{self.path} is not empty and holds no sweep: {way_out}")
        try:
            before = json.loads((self.path / SETTINGS_NAME).read_text(encoding="utf-8"))
            self.records = self._read()
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"The sweep in {self.path} cannot be read ({error}): {way_out}") from (
                error
            )
        if before != settings:
            raise UserError(
                f"{self.path} holds a sweep with another {_difference(before, settings)}: give the "
                f"same to continue it, {way_out}"
            )

    def open(self, settings: dict[str, Any]) -> None:
        """Make the folder ready for the next trial."""
        self.path.mkdir(parents=True, exist_ok=True)
        if not self.records:
            (self.path / TRIALS_NAME).unlink(missing_ok=True)
            (self.path / STUDY_NAME).unlink(missing_ok=True)
        write_whole(
            self.path / SETTINGS_NAME, json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
        )
        if self.records:  # without the half of a line that a killed sweep may have left
            write_whole(self.path / TRIALS_NAME, "".join(map(_line, self.records)))

    def add(self, record: TrialRecord) -> None:
        """Write a finished trial down at once."""
        self.records.append(record)
        with (self.path / TRIALS_NAME).open("a", encoding="utf-8") as file:
            file.write(_line(record))
            file.flush()
            os.fsync(file.fileno())

    @property
    def best(self) -> TrialRecord:
        """The trial with the largest objective, the first of equal ones."""
        return self.ranked[0]

    @property
    def ranked(self) -> list[TrialRecord]:
        """The best first."""
        return sorted(self.records, key=lambda record: (-record.objective, record.number))

    def _read(self) -> list[TrialRecord]:
        path = self.path / TRIALS_NAME
        if not path.is_file():
            return []
        *lines, _ = path.read_text(encoding="utf-8").split("\n")
        return [TrialRecord(**json.loads(line)) for line in lines]


def _line(record: TrialRecord) -> str:
    return json.dumps(asdict(record), ensure_ascii=False) + "\n"


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The first setting in which two sweeps differ, and its value there."""
    one = {**before, **before.get("flags", {})}
    other = {**now, **now["flags"]}
    names = [name for name in (*one, *other) if name != "flags"]
    name = next((name for name in names if one.get(name) != other.get(name)), "setting")
    return f"{name} ({one.get(name, 'not given')})"
