"""Protocols: arithmetic of budgets, and a hash that tells any two of them apart."""

import dataclasses
import hashlib
import json
import math
import os
import subprocess
import sys
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlp_adv.attacks.words.protocols import PROTOCOLS, Protocol, protocol_named
from nlp_adv.errors import UserError

OTHER = {
    "name": "other",
    "version": 2,
    "max_changed": 0.5,
    "min_changed": 3,
    "queries": 70,
    "queries_per_word": 7,
    "candidates": 9,
    "min_words": 4,
    "min_length": 5,
    "stop_words": "none",
    "protected": ("film",),
    "repeat": True,
    "same_part_of_speech": True,
    "nouns_for_verbs": True,
    "min_similarity": 0.5,
    "short": 15,
    "min_similarity_short": 0.25,
    "similarity_window": 15,
    "similarity": "eager",
    "count": "uncached",
    "part": "first",
    "source": "elsewhere",
}


class TestHash:
    def test_every_field_counts(self):
        plain = Protocol(name="plain")
        assert OTHER.keys() == {field.name for field in dataclasses.fields(Protocol)}
        hashes = {plain.hash()}
        for name, value in OTHER.items():
            assert getattr(plain, name) != value
            hashes.add(dataclasses.replace(plain, **{name: value}).hash())
        assert len(hashes) == 1 + len(OTHER)

    def test_every_resource_counts_and_their_order_does_not(self):
        plain = Protocol(name="plain")
        resources = {"neighbours": "0a", "tagger": "nltk"}
        hashes = [
            plain.hash(),
            plain.hash(resources),
            plain.hash({"neighbours": "0a"}),
            plain.hash({**resources, "tagger": "other"}),
            plain.hash({"neighbours": "nltk", "tagger": "0a"}),
            plain.hash({**resources, "encoder": ""}),
        ]
        assert len(set(hashes)) == len(hashes)
        assert plain.hash(dict(reversed(resources.items()))) == plain.hash(resources)
        assert plain.hash({}) == plain.hash(None) == plain.hash()

    def test_equal_protocols_hash_alike_however_they_were_made(self):
        made = Protocol(**OTHER)
        assert Protocol(**dict(reversed(OTHER.items()))).hash() == made.hash()
        assert dataclasses.replace(Protocol(name="x"), **OTHER).hash() == made.hash()

    def test_it_is_sha256_of_sorted_json(self):
        protocol = Protocol(name="ein Name mit ß", max_changed=0.1)
        content = {"protocol": protocol.described(), "resources": {"a": "1", "b": "ü"}}
        text = json.dumps(content, sort_keys=True, ensure_ascii=False)
        expected = hashlib.sha256(text.encode("utf-8")).hexdigest()[:12]
        assert protocol.hash({"b": "ü", "a": "1"}) == expected

    @pytest.mark.slow  # the test above holds it, unless Python's own hash were in it
    def test_another_process_agrees(self):
        code = (
            "from nlp_adv.attacks.words.protocols import PROTOCOLS\n"
            "for p in PROTOCOLS.values(): print(p.hash(), p.hash({'b': '2', 'a': '1'}))"
        )
        output = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": "77"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        here = [f"{p.hash()} {p.hash({'a': '1', 'b': '2'})}" for p in PROTOCOLS.values()]
        assert output.splitlines() == here

    def test_named_ones_differ(self):
        assert len({protocol.hash() for protocol in PROTOCOLS.values()}) == len(PROTOCOLS)
        assert all(protocol_named(name).name == name for name in PROTOCOLS)
        with pytest.raises(UserError, match="default"):
            protocol_named("textfoller")


class TestBudget:
    @pytest.mark.parametrize(
        ("limits", "words", "budget"),
        [
            ({}, 10, math.inf),
            ({"queries": 30}, 10, 30),
            ({"queries_per_word": 5}, 10, 50),
            ({"queries": 30, "queries_per_word": 5}, 10, 30),
            ({"queries": 30, "queries_per_word": 5}, 4, 20),
            ({"queries_per_word": 5}, 1, 5),
        ],
    )
    def test_the_smaller_limit(self, limits, words, budget):
        assert Protocol(name="x", **limits).budget(words) == budget

    @given(st.integers(1, 40), st.integers(0, 3))
    def test_the_original_can_always_be_asked(self, per_word, words):
        assert Protocol(name="x", queries_per_word=per_word).budget(words) >= 1

    @given(st.integers(1, 100), st.integers(1, 8), st.integers(0, 300))
    def test_changes(self, percent, least, words):
        protocol = Protocol(name="x", max_changed=percent / 100, min_changed=least)
        share = Fraction(percent * words, 100)
        changes = protocol.changes(words)
        assert 0 <= changes <= words
        if changes < words:
            assert changes >= least
        if least < changes:  # the nearest number of words to ρ·n
            assert abs(changes - share) <= Fraction(1, 2)
        assert changes >= min(words, share - Fraction(1, 2))

    def test_cosine(self):
        none = Protocol(name="x", short=5, min_similarity_short=0.3)
        assert [none.cosine(words) for words in (0, 9)] == [None, None]
        one = Protocol(name="x", min_similarity=0.8)
        assert [one.cosine(words) for words in (0, 9)] == [0.8, 0.8]
        two = Protocol(name="x", min_similarity=0.8, short=5, min_similarity_short=0.3)
        assert [two.cosine(words) for words in (0, 4, 5)] == [0.3, 0.3, 0.8]
        long = Protocol(name="x", min_similarity=0.8, short=5)
        assert [long.cosine(words) for words in (4, 5)] == [None, 0.8]

    def test_no_limit(self):
        assert [Protocol(name="x").changes(words) for words in (0, 1, 7)] == [0, 1, 7]


@pytest.mark.parametrize(
    "numbers",
    [
        {"max_changed": 0.0},
        {"max_changed": 1.01},
        {"max_changed": math.nan},
        {"min_changed": 0},
        {"candidates": 0},
        {"queries": 0},
        {"queries_per_word": -1},
    ],
    ids=str,
)
def test_refusals(numbers):
    with pytest.raises(UserError, match=r"\."):
        Protocol(name="x", **numbers)
