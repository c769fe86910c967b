"""Words: a text taken apart and put together."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlp_adv.robustness.substitution.words import Words, in_the_case_of

# Letters, marks that join words, marks that part them, spaces, other scripts, a combining accent.
TEXTS = st.one_of(st.text(), st.text(alphabet="aB1é日'’-_.,! \t\n\u00a0\u0301😀"))


@given(TEXTS)
def test_a_text_is_its_gaps_and_words(text):
    words = Words.of(text)
    assert words.text == text
    assert len(words.gaps) == len(words) + 1
    assert all(gap for gap in words.gaps[1:-1])
    assert all(words.words)
    # A gap holds no letter and no digit, a word no space.
    assert not any(c.isalnum() for gap in words.gaps for c in gap)
    assert not any(c.isspace() for word in words.words for c in word)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("...!?", []),
        ("one", ["one"]),
        ("I don't, you don’t.", ["I", "don't", "you", "don’t"]),
        ("well-made 1990s 'quoted' words-", ["well-made", "1990s", "quoted", "words"]),
        ("a -- b", ["a", "b"]),
        ("naïve Straße", ["naïve", "Straße"]),
    ],
)
def test_what_a_word_is(text, words):
    assert list(Words.of(text).words) == words


@given(st.data())
def test_replaced_and_changed(data):
    words = Words.of(data.draw(TEXTS))
    places = st.integers(0, max(0, len(words) - 1))
    changes = data.draw(st.dictionaries(places, st.sampled_from(["", "x", "two words", "a"])))
    changes = {place: word for place, word in changes.items() if place < len(words)}
    other = words.replaced(changes)
    assert other.gaps == words.gaps
    expected = list(words.words)
    for place, word in changes.items():
        expected[place] = word
    assert list(other.words) == expected
    pieces = [piece for pair in zip(words.gaps, [*expected, ""], strict=True) for piece in pair]
    assert other.text == "".join(pieces)
    really = [place for place in sorted(changes) if changes[place] != words.words[place]]
    assert list(words.changed(other)) == list(other.changed(words)) == really


def test_texts_of_other_lengths_cannot_be_compared():
    with pytest.raises(ValueError, match="zip"):
        Words.of("a b").changed(Words.of("a b c"))


@pytest.mark.parametrize(
    ("word", "candidate", "written"),
    [
        ("film", "movie", "movie"),
        ("Film", "movie", "Movie"),
        ("FILM", "movie", "MOVIE"),
        ("A", "one", "One"),  # a single capital is a title, not a shout
        ("film", "Paris", "Paris"),
        ("iPhone", "phone", "phone"),
        ("Film", "", ""),
        ("", "movie", "movie"),
        ("1990S", "eighties", "EIGHTIES"),
    ],
)
def test_case(word, candidate, written):
    assert in_the_case_of(word, candidate) == written
