"""Candidate files: look-up, case, one fingerprint for one content, a sentence for each bad file."""

import gzip
import json
import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlp_adv.attacks.words.candidates import CandidateTable
from nlp_adv.errors import UserError

RNG = random.Random(0)
CONTENT = {
    "film": ["movie", "picture", "movie", "Film"],
    "great": [["grand", 0.9], ["gigantic", 1]],
    "US": ["America"],
    "us": ["we"],
    "br": [],
}
WORDS = st.text(min_size=1, max_size=8).filter(str.strip)


def written(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def look_up(word: str, content: dict = CONTENT) -> list[str]:
    return CandidateTable.from_mapping(content).candidates(word, RNG)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("film", ["movie", "picture"]),
        ("Film", ["Movie", "Picture"]),
        ("FILM", ["MOVIE", "PICTURE"]),
        ("great", ["grand", "gigantic"]),
        ("US", ["AMERICA"]),
        ("us", ["we"]),
        ("Us", ["We"]),
        ("br", []),
        ("absent", []),
        ("", []),
    ],
)
def test_known_answers(word, expected):
    assert look_up(word) == expected


@given(st.dictionaries(WORDS, st.lists(WORDS), min_size=1), st.data())
def test_candidates_are_distinct_and_never_the_word(content, data):
    if not any(content.values()):
        return
    word = data.draw(st.sampled_from(sorted(content)))
    for spelling in (word, word.upper(), word.capitalize()):
        found = look_up(spelling, content)
        folded = [one.casefold() for one in found]
        assert len(set(folded)) == len(folded)
        assert spelling.casefold() not in folded


def test_every_packing_and_layout_of_one_content_is_the_same_source(tmp_path):
    text = json.dumps(CONTENT)
    paths = [
        written(tmp_path, "a.json", text),
        written(tmp_path, "b.json.gz", text),
        written(tmp_path, "c.json", json.dumps(CONTENT, indent=2)),
        written(tmp_path, "d.json", "\ufeff" + json.dumps(dict(reversed(CONTENT.items())))),
    ]
    tables = [CandidateTable(path) for path in paths]
    assert [table.name for table in tables] == ["a", "b", "c", "d"]
    assert len({table.fingerprint for table in tables}) == 1
    assert tables[0].fingerprint == CandidateTable.from_mapping(CONTENT).fingerprint
    assert all(table.candidates("Film", RNG) == ["Movie", "Picture"] for table in tables)
    assert len(tables[0].fingerprint) == 12
    int(tables[0].fingerprint, 16)


@pytest.mark.parametrize(
    "other",
    [
        CONTENT | {"film": ["picture", "movie"]},  # the ranking
        CONTENT | {"film": ["movie"]},
        CONTENT | {"films": ["movies"]},
        {word: found for word, found in CONTENT.items() if word != "us"},
    ],
)
def test_another_content_has_another_fingerprint(other):
    tables = [CandidateTable.from_mapping(content) for content in (CONTENT, other)]
    assert tables[0].fingerprint != tables[1].fingerprint


def test_scores_do_not_change_the_fingerprint():
    scored = {"film": [["movie", 0.9], ["picture", 0.8]]}
    plain = {"film": ["movie", "picture"]}
    tables = [CandidateTable.from_mapping(content) for content in (scored, plain)]
    assert tables[0].fingerprint == tables[1].fingerprint


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("latin.json", '{"été": ["x"]}'.encode("latin-1"), "is not UTF-8"),
        ("blank.json", " \n", "is empty"),
        ("broken.json", '{"film": ["movie"],\n "a" ["b"]}', "line 2: bad JSON"),
        ("lines.json", '{"film": ["movie"]}\n{"a": ["b"]}', "line 2: bad JSON"),
        ("list.json", '["film", "movie"]', "is no object"),
        ("none.json", "{}", "has no candidates"),
        ("nothing.json", '{"br": [], "film": []}', "has no candidates"),
        ("flat.json", '{"a": ["b"], "film": "movie"}', "word 'film': expected a list"),
        ("nested.json", '{"a": ["b"], "film": {"movie": 1}}', "word 'film': expected a list"),
        ("numbers.json", '{"a": ["b"], "film": ["movie", 0.5], "c": [1]}', "word 'film'"),
        ("triples.json", '{"film": [["movie", 0.5, 1]]}', "word 'film'"),
        ("swapped.json", '{"film": [[0.5, "movie"]]}', "word 'film'"),
        ("blanks.json", '{"film": ["movie", " "]}', "word 'film'"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_bad_files_say_what_is_wrong(tmp_path, name, content, sentence, packed):
    path = written(tmp_path, name + ".gz" * packed, content)
    with pytest.raises(UserError) as raised:
        CandidateTable(path)
    message = str(raised.value)
    assert sentence in message
    assert str(path) in message
    assert message.endswith(".")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match=r"absent\.json does not exist; check the path\."):
        CandidateTable(tmp_path / "absent.json")
    with pytest.raises(UserError, match="is a folder"):
        CandidateTable(tmp_path)
    whole = written(tmp_path, "whole.json.gz", json.dumps(CONTENT)).read_bytes()
    for damaged in (whole[:-9], b"{}" + whole, whole[:10] + b"\xff" * 20 + whole[30:]):
        (tmp_path / "bad.json.gz").write_bytes(damaged)
        with pytest.raises(UserError, match="gzip data is damaged or cut off"):
            CandidateTable(tmp_path / "bad.json.gz")


def test_a_mapping_of_another_shape_is_refused():
    with pytest.raises(UserError, match="mapping mine, word 'film'"):
        CandidateTable.from_mapping({"film": "movie"}, "mine")
    with pytest.raises(UserError, match="has no candidates"):
        CandidateTable.from_mapping({})


@pytest.mark.real_data
@pytest.mark.skipif("NLP_ADV_DATA" not in os.environ, reason="NLP_ADV_DATA names no data folder")
def test_the_neighbour_lists_of_jia_et_al():
    folder = Path(os.environ["NLP_ADV_DATA"], "counter_fitted")
    table = CandidateTable(folder / "counterfitted_neighbors.json.gz")
    assert table.candidates("Movie", RNG)[:3] == ["Film", "Filmmaking", "Films"]
    assert table.candidates("br", RNG) == []
