"""Folders of results: one process at a time, and files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from nlp_adv.errors import UserError

RECORDS = "records.jsonl"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """No other process writes records into the folder meanwhile.

    Raises:
        UserError: another one does, or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{RECORDS}.lock", timeout=0)
        lock.acquire()
    except OSError as error:  # a Timeout is one as well
        why = "another process writes into it" if isinstance(error, Timeout) else error.strerror
        raise UserError(f"{folder} cannot be used: {why}; give another --output_dir.") from error
    try:
        yield
    finally:
        lock.release()


def write_whole(path: Path, text: str) -> None:
    """Write a text that replaces what was there, in one stroke.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # A text can hold half a surrogate pair, which UTF-8 has no bytes for.
        unfinished.write_bytes(text.encode("utf-8", "backslashreplace"))
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
