"""Packed files are read with limits: a few kilobytes can unpack to more than memory holds."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any, BinaryIO, cast

from nlp_adv.errors import UserError

FREE = 2**26  # bytes that may come out of any file
RATIO = 100  # beyond those, so many times the packed size: text takes 3 to 20, zeros take 1000


def open_unpacked(path: Path, *, packed: bool, most: int | None = None) -> BinaryIO:
    """A file's content as it is read, unpacked.

    Args:
        path: the file.
        packed: whether it is gzipped.
        most: bytes that may come out of it, packed or not; any number without.

    Raises:
        OSError: as `open` does; reading raises what `gzip` does, and UserError at a limit.
    """
    size = path.stat().st_size
    source = (gzip.open if packed else open)(path, "rb")
    return cast(BinaryIO, io.BufferedReader(_Limited(source, path, size if packed else None, most)))


class _Limited(io.RawIOBase):
    """Counts what comes out of a file."""

    def __init__(self, source: Any, path: Path, packed: int | None, most: int | None) -> None:
        self._source, self._path, self._packed, self._most = source, path, packed, most
        self._count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self._source.read1(len(buffer))  # what is there, before an error further on
        buffer[: len(part)] = part
        self._count += len(part)
        if self._most is not None and self._count > self._most:
            raise UserError(
                f"{self._path} holds more than {self._most / 2**20:.0f} MiB, more than such a file "
                f"may; give a smaller one."
            )
        if self._packed is not None and self._count > max(FREE, RATIO * self._packed):
            raise UserError(
                f"{self._path} unpacks to more than {RATIO} times its size, as files do that are "
                f"made to fill the memory; unpack it yourself if it is what you mean."
            )
        return len(part)

    def close(self) -> None:
        self._source.close()
        super().close()
