"""A small file that unpacks to more than memory holds is refused, whatever it is read as."""

import gzip
import json
import tracemalloc
import zipfile

import pytest

from nlp_adv import UserError
from nlp_adv.attacks.words.candidates import CandidateTable, WordNet
from nlp_adv.data.files import read_file
from nlp_adv.data.idx import read_idx
from nlp_adv.unpacking import FREE, RATIO, open_unpacked

pytestmark = pytest.mark.fault("D11")
MIB = 2**20


def bomb(path, begin: bytes, piece: bytes, end: bytes = b"", mib: int = 400):
    """A file of some 400 KB that unpacks to 400 MB."""
    many = piece * (MIB // len(piece))
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(begin)
        for _ in range(mib):
            file.write(many)
        file.write(end)
    assert path.stat().st_size < mib * MIB / 50
    return path


def peak(run):
    """Bytes that Python held at once in a call that is refused."""
    tracemalloc.start()
    try:
        with pytest.raises(UserError) as caught:
            run()
        return tracemalloc.get_traced_memory()[1], str(caught.value)
    finally:
        tracemalloc.stop()


CASES = {
    "candidates": ("c.json.gz", b'{"film": ["movie"', b', "a"', b"]}", CandidateTable),
    "blanks": ("c.json.gz", b"{", b" ", b"}", CandidateTable),
    "an array of images": (
        "train-images-idx3-ubyte.gz",
        bytes([0, 0, 8, 3]) + (400).to_bytes(4, "big") + (1024).to_bytes(4, "big") * 2,
        b"\0",
        b"",
        read_idx,
    ),
    "more than its header says": ("i.gz", bytes([0, 0, 8, 1, 0, 0, 0, 9]), b"\0", b"", read_idx),
    "one line": ("t.csv.gz", b"text,label\n", b"a", b",1\n", read_file),
    "many rows": ("t.csv.gz", b"text,label\n", b"a" * 2**15 + b",1\n", b"", read_file),
    "rows": ("t.jsonl.gz", b"", b'{"text": "%s", "label": 1}\n' % (b"a" * 2**15), b"", read_file),
}


@pytest.mark.parametrize("case", CASES)
def test_a_bomb_is_refused_before_it_fills_the_memory(tmp_path, case):
    name, begin, piece, end, read = CASES[case]
    path = bomb(tmp_path / name, begin, piece, end, 100)
    held, message = peak(lambda: read(path))
    assert name in message
    assert "\n" not in message
    assert held < 3 * FREE


def test_a_header_that_asks_for_more_than_there_is(tmp_path):
    """5 exabytes by the header; the values that follow are four."""
    path = tmp_path / "images"
    path.write_bytes(bytes([0, 0, 8, 2]) + b"\x7f\xff\xff\xff" * 2 + b"abcd")
    held, message = peak(lambda: read_idx(path))
    assert "truncated" in message
    assert held < 64 * MIB


def test_the_limit_of_a_candidate_file_holds_for_plain_ones(tmp_path, monkeypatch):
    monkeypatch.setattr("nlp_adv.attacks.words.candidates.table.LARGEST", 1000)
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"film": ["movie"] * 200}))
    with pytest.raises(UserError, match="give a smaller one"):
        CandidateTable(path)
    path.write_text(json.dumps({"film": ["movie"] * 20}))
    assert CandidateTable(path).candidates("film", None) == ["movie"]


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a": ' * 100_000])
def test_nesting_is_no_recursion_error(tmp_path, content):
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(UserError, match=r"c\.json"):
        CandidateTable(tmp_path / "c.json")


def test_wordnet_in_a_zip(tmp_path, monkeypatch):
    monkeypatch.setenv("NLTK_DATA", str(tmp_path))
    (tmp_path / "corpora").mkdir()
    with zipfile.ZipFile(tmp_path / "corpora" / "wordnet.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("wordnet/index.noun", b"\0" * (200 * MIB))
    held, message = peak(WordNet)
    assert "index.noun" in message
    assert held < 400 * MIB


def test_what_packs_well_is_no_bomb(tmp_path):
    """Up to the limits a file is read, byte for byte."""
    content = b"the film is fine\n" * 100_000
    path = tmp_path / "t.gz"
    path.write_bytes(gzip.compress(content))
    assert path.stat().st_size * RATIO < len(content)
    with open_unpacked(path, packed=True) as file:
        assert file.read() == content
    with open_unpacked(path, packed=True) as file:
        assert list(file) == content.splitlines(keepends=True)
