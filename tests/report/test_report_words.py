"""A diff is both texts, exactly."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from nlp_adv.attacks.words.words import Words
from nlp_adv.report.word_diff import Piece, shortened, word_diff

TOKENS = st.sampled_from(
    ["a", "b", "film", "movie", "don't", " ", "  ", ", ", "—", "é", "\u200b", "<b>"]
)
TEXTS = st.one_of(st.text(max_size=40), st.lists(TOKENS, max_size=25).map("".join))


def first(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces if piece.kind != "added")


def second(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces if piece.kind != "removed")


@given(TEXTS, TEXTS)
@example("", "")
@example("a b c", "b c")
@example("one two", "one  two")
def test_the_pieces_are_both_texts(one, two):
    pieces = word_diff(one, two)
    assert first(pieces) == one
    assert second(pieces) == two
    assert all(piece.text for piece in pieces)
    assert all(a.kind != b.kind for a, b in pairwise(pieces))


@given(TEXTS)
def test_a_text_does_not_differ_from_itself(text):
    assert {piece.kind for piece in word_diff(text, text)} <= {"same"}


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=12), st.data())
def test_substituted_words_are_marked_where_they_stand(words, data):
    """An alignment would shift "a b" → "b a" into one word taken out and put in again."""
    new = [data.draw(st.sampled_from([word, "a", "z"])) for word in words]
    pieces = word_diff(" ".join(words), " ".join(new))
    changed = Words(tuple(words), ()).changed(Words(tuple(new), ()))
    assert [p.text for p in pieces if p.kind == "removed"] == [words[i] for i in changed]
    assert [p.text for p in pieces if p.kind == "added"] == [new[i] for i in changed]


def test_known_diffs():
    assert word_diff("A good film.", "A decent film!") == [
        Piece("same", "A "), Piece("removed", "good"), Piece("added", "decent"),
        Piece("same", " film"), Piece("removed", "."), Piece("added", "!"),
    ]  # fmt: skip
    # As many words, though what stands between them changed too: still each in its place.
    assert word_diff("b a.", "a b!") == [
        Piece("removed", "b"), Piece("added", "a"), Piece("same", " "), Piece("removed", "a"),
        Piece("added", "b"), Piece("removed", "."), Piece("added", "!"),
    ]  # fmt: skip
    assert word_diff("well made film", "well film") == [
        Piece("same", "well"), Piece("removed", " made"), Piece("same", " film"),
    ]  # fmt: skip
    assert word_diff("film", "fi lm") == [Piece("removed", "film"), Piece("added", "fi lm")]


@given(TEXTS, TEXTS, st.integers(1, 5))
def test_shortening_hides_no_change(one, two, around):
    pieces = word_diff(one, two)
    kept = shortened(pieces, around)
    assert first(kept) == one
    assert second(kept) == two
    changes = [piece for piece in pieces if piece.kind in ("removed", "added")]
    assert [piece for piece in kept if piece.kind in ("removed", "added")] == changes
    assert all(len(piece.text) <= 3 * around for piece in kept if piece.kind == "same")


def test_a_long_text_is_cut_around_its_change():
    pieces = shortened(word_diff("some " * 200 + "good end", "some " * 200 + "bad end"), 12)
    assert [piece.kind for piece in pieces] == ["same", "cut", "same", "removed", "added", "same"]
    assert pieces[0].text == "some some "
    assert pieces[2].text == " some some "
