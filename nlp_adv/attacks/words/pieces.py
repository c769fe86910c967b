"""Words and tokens: the pieces of text that tokens are made of, and the tokens of each word."""

from __future__ import annotations

from collections.abc import Sequence

from nlp_adv.attacks.words.words import Words


def chunks_of(words: Words) -> list[str]:
    """Each word with the gap before it, and the last gap: byte-level tokens begin with a space.

    Where a word was taken out, the gaps on its two sides are one.
    """
    chunks, gap = [], ""
    for before, word in zip(words.gaps, words.words, strict=False):
        gap += before
        if word:
            chunks.append(gap + word)
            gap = ""
    last = gap + words.gaps[-1]
    return [*chunks, last] if last else chunks


def spans_of(words: Words, offsets: Sequence[tuple[int, int] | None]) -> list[range]:
    """For each word the places of its tokens, from the characters of each token."""
    tokens = [(place, *span) for place, span in enumerate(offsets) if span is not None]
    spans, first, end = [], 0, 0
    for gap, word in zip(words.gaps, words.words, strict=False):
        begin = end + len(gap)
        end = begin + len(word)
        # A token may begin with the space before its word; one of spaces alone is no part.
        while first < len(tokens) and tokens[first][2] <= begin:
            first += 1
        last = first
        while last < len(tokens) and tokens[last][1] < end:
            last += 1
        spans.append(range(tokens[first][0], tokens[last - 1][0] + 1) if last > first else range(0))
    return spans
