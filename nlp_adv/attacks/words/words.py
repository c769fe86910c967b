"""A text as words and what stands between them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from nlp_adv.attacks.words.own_functions import called, name_of
from nlp_adv.errors import UserError

# A text → its words in their order, or where each begins and ends.
Segmenter = Callable[[str], Sequence[str] | Sequence[tuple[int, int]]]

_MAY_BE_MARKS = (*range(0x300, 0x20000), *range(0xE0100, 0xE01F0))  # all there are lie in these


def _ranges(codes: Iterable[int]) -> str:
    """Code points as the inside of a character class."""
    runs: list[list[int]] = []
    for code in codes:
        if runs and code == runs[-1][1] + 1:
            runs[-1][1] = code
        else:
            runs.append([code, code])
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in runs)


# Python's \w leaves out marks (vowel signs, accents, points), which are parts of words.
_LETTER = rf"[\w{_ranges(c for c in _MAY_BE_MARKS if unicodedata.category(chr(c))[0] == 'M')}]"
# What joins two parts of one word: apostrophes, hyphens, the middle dot of Catalan, Hebrew's maqaf,
# geresh and gershayim, the soft hyphen, and the joiners of Persian and of Indic scripts.
_JOINT = "['’‘＇`\\-‐‑·\u05be\u05f3\u05f4\u00ad\u200c\u200d]"
# Letters, digits and marks, with joints inside: don't, well-made, 1990s, फिल्म.
_WORD = re.compile(rf"\w{_LETTER}*(?:{_JOINT}{_LETTER}+)*")
# Scripts whose words are not parted by spaces: Thai, Lao, Tibetan, Myanmar, Khmer, Japanese and
# Chinese. (Korean has spaces.)
_RUN_ON = re.compile(
    "[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\ua9e0-\ua9ff\uaa60-\uaa7f\uf900-\ufaff\uff66-\uff9f"
    "\U0001b000-\U0001b16f\U00020000-\U0003ffff]"
)


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
    def of(cls, text: str, segmenter: Segmenter | None = None) -> Words:
        """Take a text apart.

        Args:
            text: any.
            segmenter: finds the words where spaces do not part them; without one, a word is a run
                of letters, digits and their marks.

        Raises:
            UserError: the segmenter returns what the text does not hold in that order.
        """
        words, gaps, end = [], [], 0
        for start, word in _found(text, segmenter):
            words.append(word)
            gaps.append(text[end:start])
            end = start + len(word)
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

    def closed(self) -> Words:
        """The same text without the spaces that words taken out have left: "a  c ." is "a c."."""
        gaps = list(self.gaps)
        for place, word in enumerate(self.words):
            if word:
                continue
            before, after = gaps[place], gaps[place + 1]
            # Without spaces between words there is none to take away.
            kept = before if not after and place + 1 < len(self) else before.rstrip() + after
            at_start = not before and not any(self.words[:place]) and not any(gaps[:place])
            gaps[place], gaps[place + 1] = "", after.lstrip() if at_start else kept
        return Words(self.words, tuple(gaps))

    def changed(self, other: Words) -> tuple[int, ...]:
        """Places in which two texts of as many words differ."""
        pairs = zip(self.words, other.words, strict=True)
        return tuple(place for place, (mine, yours) in enumerate(pairs) if mine != yours)

    def only(self, places: range) -> Words:
        """The same text, of whose words those in a stretch count; all before and after is gap."""
        before = "".join(map("".join, zip(self.gaps, self.words[: places.start], strict=False)))
        behind = "".join(
            map("".join, zip(self.words[places.stop :], self.gaps[places.stop + 1 :], strict=True))
        )
        gaps = list(self.gaps[places.start : places.stop + 1])
        gaps[0] = before + gaps[0]
        gaps[-1] += behind
        return Words(self.words[places.start : places.stop], tuple(gaps))


def runs_on(text: str) -> bool:
    """Whether at least half of a text's letters are of scripts that part no words by spaces."""
    letters = sum(character.isalpha() for character in text)
    return letters > 0 and 2 * len(_RUN_ON.findall(text)) >= letters


def characters(text: str) -> list[str]:
    """A segmenter: each character of a script without spaces is a word, with its marks."""
    found: list[str] = []
    for match in _WORD.finditer(text):
        start = len(found)
        for character in match.group():
            alone = _RUN_ON.fullmatch(character) and character.isalpha()
            if alone or len(found) == start or _ends_a_run(found[-1], character):
                found.append(character)
            else:
                found[-1] += character
    return found


def _ends_a_run(word: str, character: str) -> bool:
    """Whether a Latin word or a number begins behind a character that is a word of its own."""
    return bool(_RUN_ON.match(word)) and character.isalnum()


def _found(text: str, segmenter: Segmenter | None) -> Iterator[tuple[int, str]]:
    """Where each word begins, and the word."""
    if segmenter is None:
        yield from ((match.start(), match.group()) for match in _WORD.finditer(text))
        return
    end = 0
    who = f"The segmenter {name_of(segmenter)}"
    found = called(who, lambda some: segmenter(some[0]), [text])
    if isinstance(found, str) or not isinstance(found, Iterable):
        raise UserError(f"{who} returned {found!r:.60}; it must return a list of words.")
    for part in found:
        if isinstance(part, tuple) and all(isinstance(one, int) for one in part):
            start, word = _at(text, part, end, who)
        else:
            start, word = text.find(part, end) if isinstance(part, str) else -1, str(part)
        if start < 0:
            raise UserError(
                f"{who} returned {part!r}, which the text {text!r:.60} has not there; "
                "it must return the parts of the text in their order, as they are written."
            )
        end = start + len(word)
        # Spaces and punctuation are gaps, as they are without a segmenter.
        if any(character.isalnum() for character in word):
            yield start, word


def _at(text: str, span: tuple[int, ...], end: int, who: str) -> tuple[int, str]:
    """Where a word begins, and the word, from where it begins and ends."""
    if len(span) != 2 or not end <= span[0] < span[1] <= len(text):
        raise UserError(
            f"{who} returned {span} behind character {end} of {text!r:.60}, which has {len(text)}; "
            f"a span is (start, end), behind the one before it and inside the text."
        )
    return span[0], text[slice(*span)]


def in_the_case_of(word: str, candidate: str) -> str:
    """The candidate written as the word is: UPPER, Title or as it comes."""
    if len(word) > 1 and word.isupper():
        return candidate.upper()
    if word[:1].isupper():
        return candidate[:1].upper() + candidate[1:]
    return candidate
