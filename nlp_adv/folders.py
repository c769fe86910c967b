"""Output folders: one process at a time, and files that are there whole or not at all."""

from __future__ import annotations

import os
import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from nlp_adv.errors import UserError

LOCK = ".lock"
LONGEST_NAME = 200  # bytes; file systems take 255, and something is added to names
_DEVICES = {"CON", "PRN", "AUX", "NUL"} | {
    f"{kind}{n}" for kind in ("COM", "LPT") for n in range(10)
}
_held = threading.local()  # `.folders`: those that this thread is alone in


class FolderTaken(UserError):
    """Another process writes into a folder."""


@contextmanager
def alone_in(folder: str | Path, *, wait: float = 0) -> Iterator[None]:
    """No other process writes into the folder meanwhile.

    Commands hold it from before they look at what is in the folder until their last file is
    written; what they call may hold it again. The operating system gives the lock back with the
    process that held it, however that ended, so that nothing has to be removed by hand after a
    kill. A folder that was made for it and is still empty at the end is removed.

    Args:
        folder: the folder; it is made.
        wait: for how many seconds another process may hold it before this one gives up.

    Raises:
        FolderTaken: another process holds it.
        UserError: the folder cannot be made.
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
    lock = FileLock(folder / LOCK, timeout=wait)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise FolderTaken(
            f"{folder} cannot be used: another process writes into it; wait for it, or give "
            f"another --output_dir."
        ) from error
    except OSError as error:
        _remove_empty(made)
        raise UserError(
            f"{folder} cannot be used: {error.strerror}; give another --output_dir."
        ) from error
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


def unusable_as_name(name: Any) -> str | None:
    """What keeps a name from naming a folder inside another one, on any system; None for nothing.

    Names from recipes and the like become folders: one that is a path would write, and delete,
    outside of the output folder. Letters of every alphabet are fine, and so are blanks inside.
    """
    if not isinstance(name, str):
        return f"is {type(name).__name__}, not text: put it in quotes"
    plain = unicodedata.normalize("NFKC", name)  # where a fullwidth solidus is a solidus
    if not plain.strip():
        return "is empty"
    if not (name.isprintable() and plain.isprintable()) or set(plain) & set('/\\:*?"<>|∕⁄∖'):
        return 'holds one of / \\ : * ? " < > | or what cannot be printed'
    if plain[0] in ".-~ " or plain[-1] in ". ":
        return "begins with one of . - ~ or a blank, or ends with a dot or a blank"
    if plain.split(".")[0].upper() in _DEVICES:
        return "is the name of a device on Windows"
    if len(name.encode("utf-8")) > LONGEST_NAME:
        return f"has more than {LONGEST_NAME} bytes"
    return None


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
