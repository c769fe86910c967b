"""Two texts as one: what stayed, what was taken out, what was put in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby
from typing import Literal

from nlp_adv.attacks.words.words import Words, characters, runs_on

Kind = Literal["same", "removed", "added", "cut"]


@dataclass(frozen=True)
class Piece:
    """A stretch of one text or of both.

    Args:
        kind: "same" stands in both texts, "removed" in the first only, "added" in the second only;
            "cut" stands in both and is not shown.
        text: never empty.
    """

    kind: Kind
    text: str


def word_diff(first: str, second: str) -> list[Piece]:
    """The pieces of two texts, in order.

    Same and removed pieces together are the first text; same and added ones the second.

    **Cost:** linear for texts of as many words, as substitutions leave them; otherwise that of
    difflib, quadratic at worst.
    """
    segmenter = characters if runs_on(first) else None
    one, two = Words.of(first, segmenter), Words.of(second, segmenter)
    pieces = _in_place(one, two) if len(one) == len(two) else _aligned(one, two)
    merged = []
    for kind, run in groupby((piece for piece in pieces if piece.text), lambda piece: piece.kind):
        merged.append(Piece(kind, "".join(piece.text for piece in run)))
    return merged


def shortened(pieces: Sequence[Piece], around: int = 120) -> list[Piece]:
    """The same with long unchanged stretches cut to what is nearest to a change.

    Args:
        pieces: of two texts.
        around: characters kept on the side of a change and at the two ends of the texts, or a few
            less, to end between words.
    """
    kept: list[Piece] = []
    for piece in pieces:
        text = piece.text
        if piece.kind != "same" or len(text) <= 3 * around:
            kept.append(piece)
            continue
        start = text.rfind(" ", 0, around) + 1 or around
        end = max(text.find(" ", -around), len(text) - around)
        parts = (Piece("same", text[:start]), Piece("cut", text[start:end]))
        kept += [*parts, Piece("same", text[end:])]
    return kept


def _in_place(one: Words, two: Words) -> Iterator[Piece]:
    """Word by word: an alignment could pair a new word with an equal one somewhere else."""
    for mine, yours in zip(_tokens(one), _tokens(two), strict=True):
        if mine == yours:
            yield Piece("same", mine)
        else:
            yield Piece("removed", mine)
            yield Piece("added", yours)


def _aligned(one: Words, two: Words) -> Iterator[Piece]:
    mine, yours = _tokens(one), _tokens(two)
    matcher = SequenceMatcher(None, mine, yours, autojunk=False)
    for tag, start, end, other_start, other_end in matcher.get_opcodes():
        if tag == "equal":
            yield Piece("same", "".join(mine[start:end]))
        else:
            yield Piece("removed", "".join(mine[start:end]))
            yield Piece("added", "".join(yours[other_start:other_end]))


def _tokens(text: Words) -> list[str]:
    """Gaps and words in turn, a gap first and last."""
    return [token for pair in zip(text.gaps, (*text.words, ""), strict=True) for token in pair]
