"""WordNet: small files in its format with known answers, base forms, damage; once the real one."""

import os
import random
import shutil
import zipfile
from pathlib import Path

import pytest

from nlp_adv.attacks.words.candidates import WordNet
from nlp_adv.errors import UserError

RNG = random.Random(0)
LETTERS = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}
MANY = [f"thing{number}" for number in range(17)]

# Synsets in the order of the data file, senses in the order of the index.
SYNSETS = {
    "noun": {
        "coating": ["film", "thin_layer", "coat"],
        "movie": ["movie", "film", "moving_picture", "Flick"],
        "tool": ["ax", "axe"],
        "line": ["axis", "bloc"],
        "person": ["man", "adult_male", "guy"],
        "animal": ["mouse", "rodent"],
        "glasses": ["spectacles", "glasses"],
        "glass": ["glass", "drinking_glass", "tumbler"],
        "many": MANY,
        "lonely": ["hermit"],
    },
    "verb": {
        "shoot": ["film", "shoot", "take"],
        "go": ["leave", "exit", "go_away"],
        "coat": ["film", "coat"],
    },
    "adj": {
        "living": ["alive(p)", "live(a)", "galore(ip)"],
        "left": ["left", "leftover"],
        "quick": ["fast", "quick"],
    },
    "adv": {"quickly": ["fast", "rapidly"]},
}
SENSES = {
    "noun": {
        "film": ["movie", "coating"],
        "movie": ["movie"],
        "moving_picture": ["movie"],
        "axe": ["tool"],
        "ax": ["tool"],
        "axis": ["line"],
        "man": ["person"],
        "mouse": ["animal"],
        "glasses": ["glasses"],
        "glass": ["glass"],
        "thing0": ["many"],
        "hermit": ["lonely"],
    },
    "verb": {"film": ["shoot", "coat"], "leave": ["go"]},
    "adj": {"alive": ["living"], "left": ["left"], "fast": ["quick"]},
    "adv": {"fast": ["quickly"]},
}
EXCEPTIONS = {
    "noun": ["mice mouse", "axes ax axis", "gone_forms nowhere"],
    "verb": ["left leave"],
    "adj": [],
    "adv": [],
}
LICENCE = "  1 This software and database is being provided to you, the LICENSEE, by  \n  2   \n"


def write(folder: Path, part: str, synsets: dict, senses: dict, exceptions: list[str]) -> None:
    """One part of speech, as wndb(5WN) has it."""
    letter, offsets = LETTERS[part], {}
    frames = "01 + 08 00 " if part == "verb" else ""
    data = LICENCE
    for key, words in synsets.items():
        offsets[key] = f"{len(data.encode()):08d}"
        listed = " ".join(f"{word} {number:x}" for number, word in enumerate(words))
        pointers = f"002 @ 00001740 {letter} 0000 + 00022119 v 0101"
        gloss = '| a gloss (a); "and an example"'
        head = f"{offsets[key]} 06 {letter} {len(words):02x}"
        data += f"{head} {listed} {pointers} {frames}{gloss}  \n"
    index = LICENCE
    for lemma, keys in sorted(senses.items()):
        listed = " ".join(offsets[key] for key in keys)
        index += f"{lemma} {letter} {len(keys)} 2 @ + {len(keys)} 1 {listed}  \n"
    (folder / f"data.{part}").write_text(data, encoding="utf-8", newline="")
    (folder / f"index.{part}").write_text(index, encoding="utf-8", newline="")
    (folder / f"{part}.exc").write_text("".join(f"{line}\n" for line in exceptions))


@pytest.fixture
def folder(tmp_path) -> Path:
    place = tmp_path / "wordnet"
    place.mkdir()
    for part in LETTERS:
        write(place, part, SYNSETS[part], SENSES[part], EXCEPTIONS[part])
    return place


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        # Nouns first, in sense order; "coat" is met again as a verb.
        ("film", ["movie", "Flick", "coat", "shoot", "take"]),
        ("Film", ["Movie", "Flick", "Coat", "Shoot", "Take"]),
        ("FILM", ["MOVIE", "FLICK", "COAT", "SHOOT", "TAKE"]),
        ("alive", ["live", "galore"]),
        ("fast", ["quick", "rapidly"]),
        ("thing0", MANY[1:]),  # 17 words: their number is hexadecimal
        ("hermit", []),
        ("rodent", []),  # in a synset, but not in the index
        ("software", []),
        ("1", []),
        ("", []),
    ],
)
def test_known_answers(folder, word, expected):
    assert WordNet(folder).candidates(word, RNG) == expected


def test_lemmas_of_several_words_on_request(folder):
    found = WordNet(folder, single_words=False).candidates("film", RNG)
    assert found == ["movie", "moving picture", "Flick", "thin layer", "coat", "shoot", "take"]


@pytest.mark.parametrize(
    ("word", "expected", "parts"),
    [
        ("movies", ["movie", "film", "Flick"], {"noun"}),
        ("filmed", ["film", "shoot", "take", "coat"], {"verb"}),
        ("mice", ["mouse", "rodent"], {"noun"}),
        # Both base forms of the exception list.
        ("Axes", ["Ax", "Axe", "Axis", "Bloc"], {"noun"}),
        # An adjective of its own, and as a verb a form of "leave".
        ("left", ["leave", "exit", "leftover"], {"verb", "adj"}),
        # The index has the noun, so that it is not a form of "glass".
        ("glasses", ["spectacles"], {"noun"}),
        ("gone_forms", [], set()),
        ("thicker", [], set()),
        ("s", [], set()),
    ],
)
def test_base_forms(folder, word, expected, parts):
    wordnet = WordNet(folder)
    assert wordnet.candidates(word, RNG) == expected
    assert wordnet.parts_of_speech(word) == parts


# The table of morphy(7WN), an example a rule.
RULES = [
    ("noun", "dogs", "dog"),
    ("noun", "gases", "gas"),
    ("noun", "boxes", "box"),
    ("noun", "quizes", "quiz"),
    ("noun", "churches", "church"),
    ("noun", "dishes", "dish"),
    ("noun", "women", "woman"),
    ("noun", "ladies", "lady"),
    ("verb", "runs", "run"),
    ("verb", "cries", "cry"),
    ("verb", "hoses", "hose"),
    ("verb", "washes", "wash"),
    ("verb", "loved", "love"),
    ("verb", "walked", "walk"),
    ("verb", "loving", "love"),
    ("verb", "walking", "walk"),
    ("adj", "taller", "tall"),
    ("adj", "tallest", "tall"),
    ("adj", "nicer", "nice"),
    ("adj", "nicest", "nice"),
]


@pytest.mark.parametrize(("part", "form", "base"), RULES)
def test_rules_of_detachment(tmp_path, part, form, base):
    for each in LETTERS:
        known = each == part
        synsets = {"only": [base, "synonym"]} if known else {}
        write(tmp_path, each, synsets, {base: ["only"]} if known else {}, [])
    wordnet = WordNet(tmp_path)
    assert wordnet.candidates(form, RNG) == [base, "synonym"]
    assert wordnet.parts_of_speech(form.upper()) == {part}
    assert wordnet.parts_of_speech(form + "x") == frozenset()


def test_parts_of_speech(folder):
    wordnet = WordNet(folder)
    assert wordnet.parts_of_speech("film") == {"noun", "verb"}
    assert wordnet.parts_of_speech("Fast") == {"adj", "adv"}
    assert wordnet.parts_of_speech("absent") == frozenset()


def test_the_fingerprint_is_of_the_content(folder, tmp_path):
    first = WordNet(folder).fingerprint
    assert len(first) == 12
    assert WordNet(folder, single_words=False).fingerprint != first
    shutil.copytree(folder, tmp_path / "copy")
    assert WordNet(tmp_path / "copy").fingerprint == first
    seen = {first}
    for part in LETTERS:
        for name in (f"index.{part}", f"data.{part}", f"{part}.exc"):
            path = folder / name
            path.write_bytes(path.read_bytes() + b"  \n")
            seen.add(WordNet(folder).fingerprint)
    assert len(seen) == 13


def test_found_where_nltk_puts_it_packed_or_not(folder, tmp_path, monkeypatch):
    expected = WordNet(folder)
    root = tmp_path / "data"
    corpora = root / "corpora"
    monkeypatch.setenv("NLTK_DATA", os.pathsep.join([str(tmp_path / "absent"), str(root)]))
    shutil.copytree(folder, corpora / "wordnet")
    assert WordNet().fingerprint == expected.fingerprint
    with zipfile.ZipFile(corpora / "wordnet.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for file in sorted((corpora / "wordnet").iterdir()):
            packed.write(file, f"wordnet/{file.name}")
    shutil.rmtree(corpora / "wordnet")
    for unpacked in (WordNet(), WordNet(corpora / "wordnet")):
        assert unpacked.fingerprint == expected.fingerprint
        assert unpacked.candidates("film", RNG) == expected.candidates("film", RNG)


def test_the_environment_comes_before_the_home_folder(folder, tmp_path, monkeypatch):
    home, other = tmp_path / "home", tmp_path / "other"
    shutil.copytree(folder, home / "nltk_data" / "corpora" / "wordnet")
    shutil.copytree(folder, other / "corpora" / "wordnet")
    exceptions = other / "corpora" / "wordnet" / "noun.exc"
    exceptions.write_text("pics film\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("NLTK_DATA", str(other))
    assert WordNet().parts_of_speech("pics") == {"noun"}
    monkeypatch.delenv("NLTK_DATA")
    assert WordNet().parts_of_speech("pics") == frozenset()


def test_where_it_is_not(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"WordNet is not in .*absent: install it"):
        WordNet(tmp_path / "absent")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="WordNet is not in"):
        WordNet(".")
    monkeypatch.setenv("NLTK_DATA", "/one" + os.pathsep + "/two")
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setattr(Path, "is_file", lambda self: False)
    monkeypatch.setattr(zipfile, "is_zipfile", lambda path: False)
    with pytest.raises(UserError) as raised:
        WordNet()
    places = ["/one", "/two", "/home/me/nltk_data", "/usr/share/nltk_data"]
    listed = ", ".join([*(f"{place}/corpora/wordnet" for place in places), "/usr/share/wordnet"])
    assert f"WordNet is not in {listed}: install it" in str(raised.value)


@pytest.mark.parametrize("name", ["data.noun", "index.verb", "data.adv", "adj.exc"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing or cannot be read"):
        WordNet(folder)


def replaced(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("data.noun", b"\n", b"\r\n"),  # every offset then points elsewhere
        ("data.noun", b" 06 n 04", b" 06 n zz"),
        ("data.noun", b"Flick", b"\xff\xff\xff\xff\xff"),
        ("data.noun", b"thin_layer", b"layer"),  # so do those of the lines below
        ("index.noun", b"film n 2", b"film n x"),
        ("index.noun", b"film n 2", b"film n 6"),
        ("index.noun", b"film n 2 2 @ + 2 1 0", b"film n 2 2 @ + 2 1 9"),
    ],
)
def test_damage_is_noticed(folder, name, old, new):
    replaced(folder / name, old, new)
    with pytest.raises(UserError, match=r"index\.noun or data\.noun is damaged; install"):
        WordNet(folder).candidates("film", RNG)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("index.noun", b"film n", b"f\xfflm n"),
        ("noun.exc", b"mice", b"m\xffce"),
        ("index.noun", b"film n 2", b"film\nn 2"),
    ],
)
def test_damage_of_lists_is_noticed_at_once(folder, name, old, new):
    replaced(folder / name, old, new)
    with pytest.raises(UserError, match=f"{name} is damaged; install WordNet again"):
        WordNet(folder)


def test_a_broken_archive_is_refused(folder, tmp_path):
    packed = tmp_path / "packed.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.write(folder / "index.noun", "wordnet/index.noun")
    with pytest.raises(UserError, match=r"data\.noun is missing or cannot be read"):
        WordNet(tmp_path / "packed")


def real() -> WordNet:
    try:
        return WordNet(os.environ.get("NLP_ADV_WORDNET"))
    except UserError as error:
        pytest.skip(str(error))


def test_the_real_one():
    wordnet = real()
    film = wordnet.candidates("Film", RNG)
    assert film[:4] == ["Movie", "Picture", "Pic", "Flick"]
    assert {"Celluloid", "Cinema", "Shoot", "Take"} <= set(film)
    assert wordnet.candidates("alive", RNG) == ["live", "animated", "active", "alert", "awake"]
    assert "run" in wordnet.candidates("ran", RNG)
    assert wordnet.candidates("xyzzy", RNG) == []
    assert wordnet.parts_of_speech("well") == {"noun", "verb", "adj", "adv"}
    assert wordnet.parts_of_speech("quickly") == {"adv"}
    assert wordnet.parts_of_speech("Geese") == {"noun"}
