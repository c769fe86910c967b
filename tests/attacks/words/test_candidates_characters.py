"""Edits of characters: against brute force over all words one edit away; draws; look-alikes."""

import random
import unicodedata
from collections import Counter
from itertools import combinations, pairwise, permutations
from string import ascii_letters, ascii_lowercase

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from nlp_adv.attacks.words.candidates import (
    CandidateTable,
    DeepWordBugEdits,
    TextBuggerEdits,
)
from nlp_adv.attacks.words.candidates.confusables import ADJACENT_KEYS, LOOK_ALIKES
from nlp_adv.errors import UserError

ALL = 10**6  # draws of each kind: more than there are
NEIGHBOURS = CandidateTable.from_mapping(
    {"form": ["from", "shape", "type", "kind", "sort", "cast"], "a": ["one"]}
)
LETTERS = st.sampled_from(ascii_letters)
WORDS = st.text(LETTERS, max_size=9)
ODD_WORDS = st.text(LETTERS | st.sampled_from("'-9éßİ中"), max_size=9)
SOURCES = [
    DeepWordBugEdits(),
    DeepWordBugEdits(per_kind=3),
    TextBuggerEdits(),
    TextBuggerEdits(NEIGHBOURS, per_kind=3),
]


def differences(word: str, other: str) -> list[int]:
    assert len(word) == len(other)
    return [place for place, (a, b) in enumerate(zip(word, other, strict=True)) if a != b]


def is_swap(word: str, other: str) -> bool:
    """Two places, side by side, with each other's characters."""
    places = differences(word, other)
    if len(places) != 2 or places[1] != places[0] + 1:
        return False
    a, b = places
    return (word[a], word[b]) == (other[b], other[a])


def shortened(word: str) -> set[str]:
    return {"".join(kept) for kept in combinations(word, len(word) - 1)}


@pytest.mark.parametrize("source", SOURCES)
@given(word=ODD_WORDS, seed=st.integers(0, 2**32))
def test_never_the_word_no_two_alike_and_the_same_for_the_same_state(source, word, seed):
    around = random.getstate()
    first, second = random.Random(seed), random.Random(seed)
    found = source.candidates(word, first)
    assert word not in found
    assert "" not in found
    assert len(set(found)) == len(found)
    assert source.candidates(word, second) == found
    assert first.getstate() == second.getstate()
    assert random.getstate() == around


@given(WORDS, st.integers(0, 2**32))
def test_deepwordbug_makes_one_edit_of_each_kind(word, seed):
    found = DeepWordBugEdits().candidates(word, random.Random(seed))
    if len(word) < 2:
        assert found == []
        return
    *swapped, substituted, deleted, inserted = found
    assert [is_swap(word, other) for other in swapped] == [True] * (len(set(word)) > 1)
    assert len(differences(word, substituted)) == 1
    assert deleted in shortened(word)
    assert word in shortened(inserted)
    assert len(inserted) == len(word) + 1
    # Letters are as large as those that they replace, or as the word is.
    assert [letter.isupper() for letter in substituted] == [letter.isupper() for letter in word]
    assert (Counter(inserted) - Counter(word)).popitem()[0].isupper() == word.isupper()


@given(st.text(st.sampled_from("aabz"), min_size=2, max_size=5))
def test_all_edits_together_are_all_words_one_edit_away(word):
    found = DeepWordBugEdits(per_kind=ALL).candidates(word, random.Random(0))
    size = len(word)
    swaps = {"".join(p) for p in permutations(word) if is_swap(word, "".join(p))}
    substitutions = {
        word[:place] + letter + word[place + 1 :]
        for place in range(size)
        for letter in ascii_lowercase
    } - {word}
    insertions = {
        word[:place] + letter + word[place:]
        for place in range(size + 1)
        for letter in ascii_lowercase
    }
    expected = [swaps, substitutions, shortened(word), insertions]
    assert Counter(found) == Counter([one for kind in expected for one in kind])


@given(WORDS, st.integers(1, 4), st.integers(0, 2**32))
def test_per_kind_is_the_number_of_draws_where_there_are_as_many(word, per_kind, seed):
    if len(word) < 2:
        return
    found = DeepWordBugEdits(per_kind).candidates(word, random.Random(seed))
    lengths = Counter(map(len, found))
    assert lengths[len(word) + 1] == per_kind
    assert lengths[len(word) - 1] == min(per_kind, len(shortened(word)))
    unequal = sum(a != b for a, b in pairwise(word))
    assert lengths[len(word)] == per_kind + min(per_kind, unequal)


def test_all_edits_of_a_kind_are_equally_likely():
    edits = DeepWordBugEdits()
    drawn = [edits.candidates("paper", random.Random(seed)) for seed in range(3000)]
    swapped, substituted, deleted, inserted = (Counter(kind) for kind in zip(*drawn, strict=True))
    # Words, not places: "p" before or after a "p" is the same word.
    kinds = {4: swapped, 5: deleted, 5 * 25: substituted, 6 * 26 - 5: inserted}
    for possible, counts in kinds.items():
        assert len(counts) == possible
        assert chisquare(list(counts.values())).pvalue > 1e-3


@given(WORDS, st.integers(0, 2**32))
def test_textbugger_edits_are_of_the_five_kinds(word, seed):
    found = TextBuggerEdits().candidates(word, random.Random(seed))
    kinds = {"space": 0, "deleted": 0, "swapped": 0, "look-alike": 0, "key": 0}
    for other in found:
        if len(other) > len(word):
            assert other.replace(" ", "", 1) == word
            assert other.strip() == other
            kinds["space"] += 1
        elif len(other) < len(word):
            assert other in {word[0] + middle + word[-1] for middle in shortened(word[1:-1])}
            kinds["deleted"] += 1
        elif is_swap(word, other):
            assert (other[0], other[-1]) == (word[0], word[-1])
            kinds["swapped"] += 1
        else:
            (place,) = differences(word, other)
            alike = other[place] in LOOK_ALIKES[word[place]]
            kinds["look-alike" if alike else "key"] += 1
            assert alike or other[place] in ADJACENT_KEYS[word[place]]
    size = len(word)
    assert kinds == {
        "space": 2 <= size <= 5,
        "deleted": size >= 3,
        "swapped": len(set(word[1:-1])) > 1,
        "look-alike": size >= 1,
        "key": size >= 1,
    }


def test_all_textbugger_edits_of_a_word():
    found = TextBuggerEdits(per_kind=ALL).candidates("lost", random.Random(0))
    plain = {one for one in found if one.isascii() and one.replace(" ", "").isalpha()}
    spaces = {"l ost", "lo st", "los t"}
    keys = {"kost", "oost", "post"}
    keys |= {"list", "lpst", "lkst", "llst"}
    keys |= {f"lo{key}t" for key in "awedxz"} | {f"los{key}" for key in "ryfg"}
    assert plain == spaces | {"lst", "lot", "lsot"} | keys
    assert {"1ost", "l0st", "lo$t", "lo5t"} <= set(found)


def test_neighbours_come_last_the_nearest_ones_and_each_word_once():
    edits = TextBuggerEdits(NEIGHBOURS, per_kind=ALL)
    found = edits.candidates("Form", random.Random(0))
    # A swap has made "From" already; the sixth neighbour is too far.
    assert found[-4:] == ["Shape", "Type", "Kind", "Sort"]
    assert found.count("From") == 1
    assert "Cast" not in found
    assert (
        TextBuggerEdits(NEIGHBOURS, nearest=2).candidates("FORM", random.Random(0))[-1] == "SHAPE"
    )


def test_long_words_are_not_split():
    for longest, expected in ((5, False), (7, True)):
        found = TextBuggerEdits(longest_split=longest).candidates("perhaps", random.Random(0))
        assert any(" " in one for one in found) == expected


def test_fingerprints_tell_rules_apart():
    sources = [
        DeepWordBugEdits(),
        DeepWordBugEdits(per_kind=2),
        TextBuggerEdits(),
        TextBuggerEdits(per_kind=2),
        TextBuggerEdits(nearest=4),
        TextBuggerEdits(longest_split=6),
        TextBuggerEdits(NEIGHBOURS),
        TextBuggerEdits(CandidateTable.from_mapping({"form": ["shape"]})),
    ]
    assert len({source.fingerprint for source in sources}) == len(sources)
    assert DeepWordBugEdits().fingerprint == sources[0].fingerprint
    same = TextBuggerEdits(CandidateTable.from_mapping({"form": ["shape"]}, "another name"))
    assert same.fingerprint == sources[-1].fingerprint
    assert all(len(source.fingerprint) == 12 for source in sources)


@pytest.mark.parametrize("wrong", [{"per_kind": 0}, {"nearest": 0}])
def test_counts_below_one_are_refused(wrong):
    ((name, _),) = wrong.items()
    with pytest.raises(UserError, match=f"{name} is 0; it must be at least 1"):
        TextBuggerEdits(**wrong)
    with pytest.raises(UserError, match="per_kind is -1"):
        DeepWordBugEdits(per_kind=-1)


@pytest.mark.parametrize("letter", ascii_letters)
def test_look_alikes_do_not_turn_into_their_letter_again(letter):
    alike = LOOK_ALIKES[letter]
    assert len(set(alike)) == len(alike) > 0
    for character in alike:
        assert character not in ascii_letters
        for form in ("NFC", "NFD", "NFKC", "NFKD"):
            seen = unicodedata.normalize(form, character)
            bare = "".join(one for one in seen if not unicodedata.combining(one))
            assert letter.lower() not in (bare.lower(), bare.casefold())


def test_the_misprints_that_the_paper_names():
    assert "0" in LOOK_ALIKES["o"]
    assert "1" in LOOK_ALIKES["l"]
    assert "@" in LOOK_ALIKES["a"]
    assert "n" in ADJACENT_KEYS["m"]


def test_adjacent_keys():
    known = {"q": "wa", "s": "awedxz", "g": "tyhbvf", "p": "ol", "l": "opk", "m": "njk", "z": "asx"}
    assert {key: set(ADJACENT_KEYS[key]) for key in known} == {
        key: set(keys) for key, keys in known.items()
    }
    assert ADJACENT_KEYS["S"] == ADJACENT_KEYS["s"].upper()
    assert set(ADJACENT_KEYS) == set(ascii_letters)
    for key, keys in ADJACENT_KEYS.items():
        assert all(key in ADJACENT_KEYS[other] for other in keys)
        assert key not in keys
        assert len(set(keys)) == len(keys)
