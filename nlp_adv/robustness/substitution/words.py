"""A text as words and what stands between them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

# Letters and digits, with apostrophes and hyphens inside: don't, well-made, 1990s.
_WORD = re.compile(r"\w+(?:['’\-]\w+)*")


@dataclass(frozen=True)
class Words:
    """gaps[0] + words[0] + gaps[1] + … + words[-1] + gaps[-1] is the text, exactly.

    Args:
        words: n of them.
        gaps: n + 1, what stands before, between and after them.
    """

    words: tuple[str, ...]
    gaps: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Words:
        """Take a text apart."""
        words, gaps, end = [], [], 0
        for match in _WORD.finditer(text):
            words.append(match.group())
            gaps.append(text[end : match.start()])
            end = match.end()
        return cls(tuple(words), (*gaps, text[end:]))

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def text(self) -> str:
        """The whole text."""
        return "".join(gap + word for gap, word in zip(self.gaps, (*self.words, ""), strict=True))

    def replaced(self, changes: Mapping[int, str]) -> Words:
        """The same text with other words in some places; "" takes a word out, its gap stays."""
        words = tuple(changes.get(place, word) for place, word in enumerate(self.words))
        return Words(words, self.gaps)

    def changed(self, other: Words) -> tuple[int, ...]:
        """Places in which two texts of as many words differ."""
        pairs = zip(self.words, other.words, strict=True)
        return tuple(place for place, (mine, yours) in enumerate(pairs) if mine != yours)


def in_the_case_of(word: str, candidate: str) -> str:
    """The candidate written as the word is: UPPER, Title or as it comes."""
    if len(word) > 1 and word.isupper():
        return candidate.upper()
    if word[:1].isupper():
        return candidate[:1].upper() + candidate[1:]
    return candidate
