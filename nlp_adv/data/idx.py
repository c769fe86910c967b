"""IDX files, the format of MNIST and of the data sets made after it."""

import gzip
import math
import os
import zlib
from pathlib import Path

import torch

from nlp_adv.errors import UserError
from nlp_adv.unpacking import open_unpacked

GZIP = b"\x1f\x8b"  # how a gzipped file begins, whatever its name
CHUNK = 2**24  # bytes read at once
UNSIGNED_BYTE = 8  # the type code of uint8


def read_idx(path: str | os.PathLike[str]) -> torch.Tensor:
    """The array in an IDX file, plain or gzipped.

    A header of 4 + 4·n bytes (two zeros, the type code, the number of axes n, then n lengths, all
    big-endian) and the values, last axis fastest.

    Args:
        path: the file, such as `train-images-idx3-ubyte.gz`.

    Returns:
        uint8, of the shape in the header: (N, 28, 28) for MNIST's images, (N,) for its labels.

    Raises:
        UserError: the file is not there, is no IDX file of unsigned bytes, or holds fewer or more
            values than its header says.
    """
    try:
        return _read(Path(path))
    except OSError as error:
        if isinstance(error, gzip.BadGzipFile):
            raise _damaged(path, error) from error
        raise UserError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    except (EOFError, zlib.error) as error:
        raise _damaged(path, error) from error


def _read(path: Path) -> torch.Tensor:
    with path.open("rb") as file:
        packed = file.read(2) == GZIP
    with open_unpacked(path, packed=packed) as file:
        content = bytearray(file.read(CHUNK))  # what is damaged at its beginning shows itself here
        shape = _shape(path, content)
        del content[: 4 + 4 * len(shape)]
        # Not by its header's word: that may ask for more memory than there is.
        expected = math.prod(shape)
        while len(content) <= expected and (part := file.read(CHUNK)):
            content += part
        more = " or more" if file.read(1) else ""
    if len(content) != expected:
        what = "is truncated" if len(content) < expected else "is too long"
        raise UserError(
            f"{path} {what}: its header says {'×'.join(map(str, shape))} = {expected} values and "
            f"{len(content)}{more} follow; fetch it again."
        )
    if not content:
        return torch.zeros(shape, dtype=torch.uint8)
    # A bytearray, so that the tensor may be written to; it shares the memory.
    return torch.frombuffer(content, dtype=torch.uint8).reshape(shape)


def _shape(path: Path, content: bytearray) -> list[int]:
    """The lengths in a header."""
    if len(content) < 4 or content[:2] != b"\0\0" or content[3] == 0:
        raise UserError(
            f"{path} is no IDX file: it begins with 0x{content[:4].hex()} where 0x000008 and the "
            f"number of axes are expected; check the path."
        )
    code, axes = content[2], content[3]
    if code != UNSIGNED_BYTE:
        raise UserError(
            f"{path} holds values of type 0x{code:02x}; only unsigned bytes (0x08) are read."
        )
    if len(content) < 4 + 4 * axes:
        raise UserError(f"{path} is truncated in its header; fetch it again.")
    return [int.from_bytes(content[at : at + 4], "big") for at in range(4, 4 + 4 * axes, 4)]


def _damaged(path: str | os.PathLike[str], error: Exception) -> UserError:
    return UserError(f"{path} is a damaged gzip file ({error}); fetch it again.")
