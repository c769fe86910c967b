"""Records of a run in a folder, written as they come and taken up again after a kill."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from io import FileIO
from pathlib import Path
from typing import Any

from nlp_adv.errors import UserError
from nlp_adv.folders import alone_in, write_whole
from nlp_adv.robustness.images.records import ImageRecord, line, parsed
from nlp_adv.robustness.records import RECORDS

SETTINGS = "settings.json"


class ImageStore:
    """The records of a run: on disk as they come where there is a folder, else in memory.

    Beside `records.jsonl` stands `settings.json`, which says what run it is.

    Args:
        settings: all that the numbers depend on but the images, which each record knows by their
            hash; "attacks" maps names to what they are, and may grow from run to run.
        folder: where; None keeps records in memory.
    """

    def __init__(self, settings: Mapping[str, Any], folder: str | Path | None) -> None:
        self._settings = dict(settings)
        self._folder = None if folder is None else Path(folder)
        self._records: dict[tuple[str, int], ImageRecord] = {}
        self._file: FileIO | None = None
        self._open = ExitStack()

    def __enter__(self) -> ImageStore:
        """Open the folder.

        Raises:
            UserError: it holds another run, or cannot be written.
        """
        if self._folder is None:
            return self
        with ExitStack() as opened:
            opened.enter_context(alone_in(self._folder))
            _check_settings(self._folder, self._settings)
            path = self._folder / RECORDS
            try:
                before, length = parsed(path.read_bytes() if path.exists() else b"", path)
                # Unbuffered: what is written is out of this process, and stays if it is killed.
                self._file = opened.enter_context(path.open("ab", buffering=0))
                self._file.truncate(length)
            except OSError as error:
                raise UserError(f"{path} cannot be used ({error.strerror}).") from error
            self._records = {(record.attack, record.id): record for record in before}
            self._open = opened.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        """Close it."""
        self._open.close()

    def find(self, attack: str, number: int, pixels: str, label: int) -> ImageRecord | None:
        """The record of an image, where it is finished.

        Raises:
            UserError: it is of another image.
        """
        record = self._records.get((attack, number))
        if record is not None and (record.pixels, record.label) != (pixels, label):
            raise UserError(
                f"{self._folder} holds records of other images (image {number} differs); give "
                f"another --output_dir."
            )
        return record

    def add(self, record: ImageRecord) -> None:
        """Keep one more.

        Raises:
            UserError: the disk is full or gone; all records before this one are kept.
        """
        data = line(record) if self._file is not None else b""
        try:
            while data and self._file is not None:  # a disk that fills up takes a part first
                data = data[self._file.write(data) :]
        except OSError as error:
            raise UserError(
                f"{self._folder} cannot be written ({error.strerror}): {len(self._records)} "
                f"records are kept; mend that and run the same again to go on."
            ) from error
        self._records[record.attack, record.id] = record

    def of(self, attacks: Sequence[str], ids: set[int]) -> tuple[ImageRecord, ...]:
        """Those of some attacks and images, in the order of both."""
        order = {name: place for place, name in enumerate(attacks)}
        chosen = [r for r in self._records.values() if r.attack in order and r.id in ids]
        return tuple(sorted(chosen, key=lambda record: (order[record.attack], record.id)))


def _check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Compare with what is there, and write down what this run is."""
    path = folder / SETTINGS
    ours = json.loads(json.dumps(settings))  # tuples and the like as they come back
    if path.exists():
        theirs = _read(path)
        for key in ours.keys() - {"attacks"}:
            if theirs.get(key) != ours[key]:
                raise UserError(
                    f"{folder} holds another run (its {key} is {theirs.get(key)!r}, not "
                    f"{ours[key]!r}); give another --output_dir."
                )
        for name, one in ours["attacks"].items():
            if theirs["attacks"].get(name, one) != one:
                raise UserError(
                    f"{folder} holds records of another {name} ({theirs['attacks'][name]}, not "
                    f"{one}); give another --output_dir."
                )
        ours["attacks"] = theirs["attacks"] | ours["attacks"]
    elif (folder / RECORDS).exists():
        raise UserError(f"{folder} holds records of an unknown run; give another --output_dir.")
    try:
        write_whole(path, json.dumps(ours, indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}).") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); remove its folder and run again.") from error
    if not isinstance(settings, dict) or not isinstance(settings.get("attacks"), dict):
        raise UserError(f"{path} is damaged; remove its folder and run again.")
    return settings
