"""Output folders: one process at a time, and files that are there whole or not at all."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from nlp_adv.errors import UserError

LOCK = ".lock"
_held = threading.local()  # `.folders`: those that this thread is alone in


@contextmanager
def alone_in(folder: str | Path) -> Iterator[None]:
    """No other process writes into the folder meanwhile.

    Commands hold it from before they look at what is in the folder until their last file is
    written; what they call may hold it again. The operating system gives the lock back with the
    process that held it, however that ended, so that nothing has to be removed by hand after a
    kill. A folder that was made for it and is still empty at the end is removed.

    Raises:
        UserError: another process holds it, or the folder cannot be made.
    """
    folder = Path(folder)
    held: set[Path] = _held.__dict__.setdefault("folders", set())
    place = folder.resolve()
    if place in held:
        yield
        return
    if folder.is_file():
        raise UserError(f"{folder} cannot be used: it is a file; give another --output_dir.")
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:  # a Timeout is one as well
        _remove_empty(made)
        why = "another process writes into it" if isinstance(error, Timeout) else error.strerror
        raise UserError(f"{folder} cannot be used: {why}; give another --output_dir.") from error
    held.add(place)
    try:
        yield
    finally:
        held.discard(place)
        # Before it is released: who waits for a removed file finds that out and makes a new one.
        with suppress(OSError):
            (folder / LOCK).unlink()
        lock.release()
        _remove_empty(made)


def is_empty(folder: Path) -> bool:
    """Whether there is nothing in a folder but a lock; true of one that is not there."""
    return not folder.is_dir() or all(one.name == LOCK for one in folder.iterdir())


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file that replaces what was there, in one stroke.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if isinstance(content, str):
            # A text can hold half a surrogate pair, which UTF-8 has no bytes for.
            content = content.encode("utf-8", "backslashreplace")
        unfinished.write_bytes(content)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _remove_empty(folders: list[Path]) -> None:
    """Innermost first."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
