"""IDX files, the format of MNIST and of the data sets made after it."""

import gzip
import math
import os
import zlib
from pathlib import Path

import torch

from nlp_adv.errors import UserError

GZIP = b"\x1f\x8b"  # how a gzipped file begins, whatever its name
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
    content = _bytes_of(Path(path))
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
    start = 4 + 4 * axes
    if len(content) < start:
        raise UserError(f"{path} is truncated in its header; fetch it again.")
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4)]
    found, expected = len(content) - start, math.prod(shape)
    if found != expected:
        what = "is truncated" if found < expected else "is too long"
        raise UserError(
            f"{path} {what}: its header says {'×'.join(map(str, shape))} = {expected} values and "
            f"{found} follow; fetch it again."
        )
    # A bytearray, so that the tensor may be written to; it shares the memory, header included.
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)[start:].reshape(shape)


def _bytes_of(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    if not content.startswith(GZIP):
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        raise UserError(f"{path} is a damaged gzip file ({error}); fetch it again.") from error
