"""IDX files: every shape comes back as it was written, and each damage has its own message."""

import gzip
import math
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nlp_adv.data.idx import read_idx
from nlp_adv.errors import UserError


def idx(shape: tuple[int, ...], values: bytes | None = None, code: int = 8) -> bytes:
    values = bytes(i % 256 for i in range(math.prod(shape))) if values is None else values
    lengths = b"".join(length.to_bytes(4, "big") for length in shape)
    return bytes([0, 0, code, len(shape)]) + lengths + values


def written(folder: Path, content: bytes) -> Path:
    path = folder / "some-ubyte"
    path.write_bytes(content)
    return path


@given(st.lists(st.integers(0, 5), min_size=1, max_size=4), st.booleans())
def test_the_shape_is_the_headers_and_the_last_axis_runs_fastest(tmp_path_factory, shape, zipped):
    content = idx(tuple(shape))
    path = written(
        tmp_path_factory.mktemp("idx"), gzip.compress(content, mtime=0) if zipped else content
    )
    read = read_idx(path)
    expected = torch.arange(math.prod(shape)).remainder(256).reshape(shape)
    assert read.dtype == torch.uint8
    assert list(read.shape) == shape
    assert torch.equal(read.long(), expected)


def test_lengths_are_big_endian_and_a_string_names_a_file(tmp_path):
    read = read_idx(str(written(tmp_path, idx((300, 2)))))  # 300 = 0x0000012c
    assert read.shape == (300, 2)


def test_the_tensor_is_the_callers_to_change(tmp_path):
    path = written(tmp_path, idx((3,)))
    read_idx(path).fill_(7)
    assert read_idx(path).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no IDX file"),
        (b"\0\0\x08", "is no IDX file"),
        (b"\x89PNG" + bytes(20), "begins with 0x89504e47"),
        (b"\0\0\x08\0", "is no IDX file"),
        (idx((2,), bytes(8), code=0x0D), "type 0x0d; only unsigned bytes"),
        (idx((2, 3))[:9], "truncated in its header"),
        (idx((2, 3))[:-1], "truncated: its header says 2×3 = 6 values and 5 follow"),
        (idx((2, 3)) + b"\0", "too long: its header says 2×3 = 6 values and 7 follow"),
        (idx((2**32 - 1,) * 3, b""), "truncated"),
        (gzip.compress(idx((2, 3)), mtime=0)[:-4], "damaged gzip file"),
        (gzip.compress(idx((2, 3)), mtime=0)[:5], "damaged gzip file"),
        (gzip.compress(bytes(50), mtime=0)[:12] + b"\xff" * 30, "damaged gzip file"),
        (gzip.compress(idx((2, 3))[:-1], mtime=0), "truncated: its header"),
    ],
)
def test_each_damage_has_its_message_and_names_the_file(tmp_path, content, message):
    path = written(tmp_path, content)
    with pytest.raises(UserError, match=message) as error:
        read_idx(path)
    assert str(path) in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="absent-ubyte cannot be read"):
        read_idx(tmp_path / "absent-ubyte")


@pytest.mark.real_data
@pytest.mark.skipif("NLP_ADV_DATA" not in os.environ, reason="NLP_ADV_DATA names no data folder")
def test_the_training_digits_of_mnist():
    folder = Path(os.environ["NLP_ADV_DATA"], "mnist")
    images = read_idx(folder / "train-images-idx3-ubyte.gz")
    labels = read_idx(folder / "train-labels-idx1-ubyte.gz")
    assert images.shape == (60000, 28, 28)
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert labels.bincount().tolist() == counts
    # A digit is a few strokes in the middle: 13 % of the light, and none in the corners.
    assert images.float().mean() / 255 == pytest.approx(0.1307, abs=1e-4)
    assert images[:, 0, 0].max() == 0
