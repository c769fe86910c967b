"""Which places and candidates are allowed: words, parts of speech, sentence similarity."""

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from naive_search import WORD, Asker, from_source, greedy
from toy_attacks import (
    Greedy,
    Table,
    attack_named,
    bag_of_words,
    flips_of,
    neighbours,
    oracles,
)
from toy_victims import (
    FREE,
    SENTENCES,
    WORDS,
    attacked,
    engine_of,
    light,
    right_texts,
)

from nlp_adv.attacks.words.attacks import PWWS
from nlp_adv.attacks.words.constraints import Constraints
from nlp_adv.attacks.words.example import SimilarityRequest
from nlp_adv.attacks.words.language_models import Similarity
from nlp_adv.attacks.words.protocols import Protocol
from nlp_adv.attacks.words.words import Words

TEXT = Words.of("It is 1990, a well-made film (not dull), ok?")


def tags(words: list[str]) -> list[str]:
    """Parts of speech by the last letter."""
    kinds = {"g": "VERB", "s": "VERB", "e": "NOUN", "t": "NOUN", "l": "ADJ", "h": "ADJ"}
    return [kinds.get(word.lower()[-1:], "X") for word in words]


class TestPlaces:
    @pytest.mark.parametrize(
        ("numbers", "expected"),
        [
            ({}, ["well-made", "film", "dull", "ok"]),  # no stop words, no numbers
            ({"stop_words": "none"}, ["It", "is", "well-made", "film", "not", "dull", "ok"]),
            ({"stop_words": "none", "min_length": 1}, list(set(TEXT.words) - {"1990"})),
            ({"min_length": 4}, ["well-made", "film", "dull"]),
            ({"min_words": 9}, ["well-made", "film", "dull", "ok"]),
            ({"min_words": 10}, []),
        ],
    )
    def test_which(self, numbers, expected):
        constraints = Constraints(Protocol(name="x", **numbers))
        found = constraints.places(TEXT)
        assert sorted(TEXT.words[place] for place in found) == sorted(expected)
        assert found == sorted(found)

    def test_stop_words_of_ones_own(self):
        constraints = Constraints(Protocol(name="x", stop_words=["film"]))
        assert [TEXT.words[p] for p in constraints.places(TEXT)] == [
            *("It", "is", "well-made", "not", "dull", "ok")
        ]


class TestAllowed:
    CANDIDATES = ("film", "movie", "", "show", "movie", "drama", "Film")

    def test_not_the_word_nothing_empty_nothing_twice(self):
        constraints = Constraints(Protocol(name="x"))
        found = constraints.allowed(TEXT, TEXT, 5, self.CANDIDATES)
        assert found == ["movie", "show", "drama", "Film"]
        few = Constraints(Protocol(name="x", candidates=2))
        assert few.allowed(TEXT, TEXT, 5, self.CANDIDATES) == ["movie", "show"]

    def test_repeat(self):
        current = TEXT.replaced({5: "show"})
        once = Constraints(Protocol(name="x"))
        assert once.allowed(TEXT, current, 5, self.CANDIDATES) == []
        again = Constraints(Protocol(name="x", repeat=True))
        found = again.allowed(TEXT, current, 5, self.CANDIDATES)
        assert found == ["movie", "drama", "Film"]  # neither the word nor what stands there

    def test_no_more_words_than_the_share(self):
        constraints = Constraints(Protocol(name="x", max_changed=0.2, repeat=True))  # 2 of 9
        current = TEXT.replaced({5: "show"})
        assert constraints.allowed(TEXT, current, 7, ["a"]) == ["a"]
        current = current.replaced({7: "boring"})
        assert constraints.allowed(TEXT, current, 8, ["a"]) == []
        assert constraints.allowed(TEXT, current, 7, ["a"]) == ["a"]


class TestPartsOfSpeech:
    SAME = Protocol(name="same", same_part_of_speech=True)

    def test_the_tag_in_its_place(self):
        constraints = Constraints(self.SAME, tags)
        candidates = ["charming", "awful", "rich", "cat", "well"]
        assert constraints.allowed(TEXT, TEXT, 7, candidates) == ["awful", "rich", "well"]  # dull
        assert constraints.allowed(TEXT, TEXT, 1, candidates) == ["charming"]  # is

    def test_nouns_for_verbs(self):
        both = replace(self.SAME, nouns_for_verbs=True)
        constraints = Constraints(both, tags)
        assert constraints.allowed(TEXT, TEXT, 1, ["charming", "cat", "awful"]) == [
            *("charming", "cat")
        ]

    def test_what_the_tagger_sees(self):
        """Up to four words on each side, of the text as it is by now."""
        seen = []

        def tagger(words: list[str]) -> list[str]:
            seen.append(words)
            return ["X"] * len(words)

        words = Words.of(" ".join("abcdefghijklm"))
        current = words.replaced({4: "E"})
        constraints = Constraints(self.SAME, tagger)
        constraints.allowed(words, current, 6, ["other"])
        assert seen == [list("cdefghijk"), [*"cdE", "f", "other", *"hijk"]]
        seen.clear()
        constraints.allowed(words, words, 0, ["other"])
        constraints.allowed(words, words, 12, ["other"])
        assert seen == [
            *([*"abcde"], ["other", *"bcde"]),
            *([*"ijklm"], [*"ijkl", "other"]),
        ]

    @pytest.mark.parametrize("name", ["textfooler", "pwws", "hotflip", "bae"])
    def test_in_attacks(self, name):
        engine = engine_of(protocol=replace(self.SAME, stop_words="none"), tagger=tags)
        engine.oracles = oracles()
        changed = 0
        for record in attacked(engine, attack_named(name), right_texts(texts=SENTENCES[:6])):
            before, after = Words.of(record.original), Words.of(record.adversarial)
            for place in before.changed(after):
                assert tags([before.words[place]]) == tags([after.words[place]])
                changed += 1
        assert changed > 3


def naive_window(text: str, place: int, width: int | None) -> str:
    """`width` words with the place in the middle, or as near to it as the text allows."""
    found = list(re.finditer(WORD, text))
    if width is None or len(found) <= width:
        return text
    runs = [range(start, start + width) for start in range(len(found) - width + 1)]
    run = min(runs, key=lambda run: abs(run.start + width // 2 - place))
    return text[found[run[0]].start() : found[run[-1]].end()]


def cosine(first: str, second: str) -> float:
    a, b = bag_of_words([first, second])
    return float((a / np.linalg.norm(a)) @ (b / np.linalg.norm(b)))


class TestWindow:
    @given(
        st.lists(st.sampled_from(WORDS), min_size=1, max_size=12),
        st.integers(0, 11),
        st.none() | st.integers(1, 14),
    )
    def test_like_naive(self, words, place, width):
        text, place = "(" + ", ".join(words) + ".", min(place, len(words) - 1)
        constraints = Constraints(Protocol(name="x", similarity_window=width))
        window = constraints.window(Words.of(text), place)
        assert window == naive_window(text, place, width)
        assert words[place] in window


class TestSimilarity:
    @pytest.mark.parametrize("mode", ["lazy", "eager"])
    @pytest.mark.parametrize("width", [None, 5])
    @pytest.mark.parametrize("least", [0.55, 0.77, 0.93])
    def test_like_naive(self, mode, width, least):
        """Texts, outcomes and queries; the most similar of those that succeed is taken."""
        protocol = replace(FREE, min_similarity=least, similarity=mode, similarity_window=width)
        texts = right_texts(texts=SENTENCES[:6])
        engine = engine_of(protocol=protocol, oracles=oracles())
        source = neighbours(8)

        def compare(before: str, after: str, place: int) -> float:
            return cosine(naive_window(before, place, width), naive_window(after, place, width))

        for text, record in zip(texts, attacked(engine, Greedy(source), texts), strict=True):
            asker = Asker(light(), text.label, float("inf"))
            said = greedy(asker, text.text, from_source(source, None), protocol, "[UNK]", compare)
            assert record.adversarial == said.text
            assert record.queries == asker.queries
            assert (record.outcome == "fooled") == said.wrong

    def test_the_most_similar_of_those_that_succeed(self):
        """Whichever of them the encoder calls nearest, and not the one of the highest score."""
        (text,) = right_texts(light(2), ["it is boring"])
        words = [word for word in sorted(neighbours().lists) if word not in ("it", "is", "boring")]
        rows = engine_of().splicer.whole([(f"it is {word}", None) for word in words])
        answers = engine_of(light(2)).victim.logits(rows).argmax(1).tolist()
        wrong = [word for word, n in zip(words, answers, strict=True) if n != text.label]
        assert 2 < len(wrong) < len(words)
        protocol = replace(FREE, candidates=99, min_similarity=0.1)
        for nearest in wrong[:3]:

            def encoder(texts: list[str], nearest: str = nearest) -> np.ndarray:
                alike = [Words.of(one).words[2] in ("boring", nearest) for one in texts]
                return np.array([[1, 0 if one else 1] for one in alike])

            engine = engine_of(light(2), protocol, oracles={SimilarityRequest: Similarity(encoder)})
            (record,) = attacked(engine, Greedy(Table({"boring": words})), [text])
            assert record.adversarial == f"it is {nearest}"

    def test_lazy_asks_the_encoder_less_and_the_model_more(self):
        counts = {}
        for mode in ("lazy", "eager"):
            protocol = replace(FREE, min_similarity=0.9, similarity=mode)
            seen: list[str] = []

            def encoder(texts: list[str], seen: list[str] = seen) -> np.ndarray:
                seen.extend(texts)
                return bag_of_words(texts)

            oracle = {SimilarityRequest: Similarity(encoder)}
            engine = engine_of(protocol=protocol, oracles=oracle)
            records = attacked(engine, attack_named("textfooler"), right_texts(texts=SENTENCES[:5]))
            counts[mode] = (len(seen), sum(record.queries for record in records))
        assert counts["lazy"][0] < counts["eager"][0]
        assert counts["lazy"][1] > counts["eager"][1]

    @pytest.mark.parametrize("name", ["pwws", "hotflip"])
    def test_other_searches(self, name):
        """An encoder that refuses every strange word without an "a"."""
        known = {word for sentence in SENTENCES for word in Words.of(sentence).words}

        def strange(word: str) -> bool:
            return "a" not in word and word not in known

        def encoder(texts: list[str]) -> np.ndarray:
            refused = [any(map(strange, Words.of(text).words)) for text in texts]
            return np.array([[not one, one] for one in refused], dtype=float)

        protocol = replace(FREE, min_similarity=0.5, stop_words="none")
        table = Table({word.lower(): ["xoxo", "xaxa", "xuxu"] for word in WORDS})
        attack = PWWS(table) if name == "pwws" else flips_of(light(), tried=12)
        engine = engine_of(protocol=protocol, oracles={SimilarityRequest: Similarity(encoder)})
        words = []
        for record in attacked(engine, attack, right_texts(texts=SENTENCES[:6])):
            before, after = Words.of(record.original), Words.of(record.adversarial)
            words += [after.words[place] for place in before.changed(after)]
        assert len(words) > 2
        assert not any(map(strange, words))

    def test_cosines(self):
        """Of each text with the first of its request; a text without a direction is like none."""
        asked = []

        def encoder(texts: list[str]) -> list[list[float]]:
            asked.extend(texts)
            return [{"a": [3.0, 4.0], "b": [4.0, 3.0], "c": [0.0, 0.0]}[text] for text in texts]

        requests = [SimilarityRequest(["a", "b", "a", "c"]), SimilarityRequest(["b", "a"])]
        found = Similarity(encoder)(requests)
        assert found == [pytest.approx([0.96, 1.0, 0.0]), pytest.approx([0.96])]
        assert sorted(asked) == ["a", "b", "c"]
