"""Letters of the world's scripts: which ones stand beside a letter, and which marks belong to it.

A misspelling of a word takes letters of its own script: a Latin letter in a Cyrillic word is
another kind of edit, a look-alike. A letter and its marks (accents, vowel signs and points, the
sign that joins consonants) are edited as one: a mark without its letter would hang on the one
before.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from string import ascii_lowercase

# The basic letters by the first word of their Unicode name; ends included. Letters outside these
# ranges (ѓ, ἀ, پ) are edited all the same, into basic ones.
_RANGES = {
    "CYRILLIC": "ая",
    "GREEK": "αω",
    "ARMENIAN": "աֆ",
    "HEBREW": "את",
    "ARABIC": "\u0627\u064a",
    "SYRIAC": "\u0710\u072c",
    "DEVANAGARI": "\u0905\u0939",
    "BENGALI": "\u0985\u09b9",
    "GURMUKHI": "\u0a05\u0a39",
    "GUJARATI": "\u0a85\u0ab9",
    "ORIYA": "\u0b05\u0b39",
    "TAMIL": "\u0b85\u0bb9",
    "TELUGU": "\u0c05\u0c39",
    "KANNADA": "\u0c85\u0cb9",
    "MALAYALAM": "\u0d05\u0d39",
    "SINHALA": "\u0d85\u0dc6",
    "THAI": "\u0e01\u0e2e",
    "LAO": "\u0e81\u0eae",
    "MYANMAR": "\u1000\u1021",
    "GEORGIAN": "აჰ",
    "KHMER": "\u1780\u17a2",
    "HIRAGANA": "あん",
    "KATAKANA": "アン",
}
# A final form, which has no place inside a word, and letters of a few languages among Arabic's.
_SKIPPED = "ς\u063b\u063c\u063d\u063e\u063f"
_CONTROLS = "\u00ad\u200c\u200d"  # inside words: soft hyphen, joiners
_SYLLABLES, _VOWELS, _FINALS = 0xAC00, 21, 28  # of Hangul


def script_of(letter: str) -> str:
    """The first word of its name in Unicode: LATIN, CYRILLIC, CJK, …; "" of what is no letter."""
    return unicodedata.name(letter, "").partition(" ")[0] if letter.isalpha() else ""


@lru_cache(maxsize=4096)
def letters_for(letter: str, word: str = "") -> str:
    """The letters that may be written in its place, in its case, itself among them or not.

    What is no letter takes those of the word's first one. Hangul's are the syllables that differ in
    one part; Chinese characters have none, since any of thousands would do.
    """
    script = script_of(letter)
    if not script:
        first = next((one for one in word if one.isalpha()), "")
        if not first or not letter:
            return letters_for(first) if first else ascii_lowercase
        return letters_for(first.upper() if letter.isupper() else first.lower())
    if script == "HANGUL":
        return _syllables(letter)
    if script == "CJK":
        return ""
    found = ascii_lowercase
    if script in _RANGES:
        start, end = map(ord, _RANGES[script])
        letters = (chr(code) for code in range(start, end + 1))
        kinds = ("Ll", "Lo")
        found = "".join(
            one for one in letters if unicodedata.category(one) in kinds and one not in _SKIPPED
        )
    return found.upper() if letter.isupper() else found


def units_of(word: str) -> list[tuple[int, int]]:
    """Where each letter begins, and where the marks behind it end."""
    if word.isascii():
        return [(place, place + 1) for place in range(len(word))]
    starts = [place for place, c in enumerate(word) if place == 0 or not _belongs(c)]
    return list(zip(starts, [*starts[1:], len(word)], strict=True))


def _belongs(character: str) -> bool:
    """Whether a character is part of the letter before it."""
    return unicodedata.category(character).startswith("M") or character in _CONTROLS


def _syllables(letter: str) -> str:
    code = ord(letter) - _SYLLABLES
    if not 0 <= code < 11172:
        return ""
    initial, rest = divmod(code, _VOWELS * _FINALS)
    vowel, final = divmod(rest, _FINALS)
    parts = (
        *((one, vowel, final) for one in range(19)),
        *((initial, one, final) for one in range(_VOWELS)),
        *((initial, vowel, one) for one in range(_FINALS)),
    )
    codes = ((one * _VOWELS + two) * _FINALS + three for one, two, three in parts)
    return "".join(dict.fromkeys(chr(_SYLLABLES + code) for code in codes))
