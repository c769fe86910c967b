"""Protected words: what no attack may change, beside the stop words, such as names of products.

They may be phrases, and are found whatever a text's words are: "New York" is two words of a text,
and 电影 two characters where characters are words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from nlp_adv.attacks.words.stop_words import plain, read_words
from nlp_adv.attacks.words.words import Words
from nlp_adv.errors import UserError

_FILE = "list of protected words"


def settled_phrases(setting: str | Path | Sequence[str]) -> tuple[str, ...]:
    """Words and phrases as a protocol keeps and hashes them, in lower case.

    Args:
        setting: words, phrases, and files (.txt with one a line, .json with a list of them).

    Raises:
        UserError: a file cannot be read, or an entry holds no word.
    """
    entries = [setting] if isinstance(setting, str | Path) else setting
    if not isinstance(entries, Iterable):
        entries = [setting]
    found = set[str]()
    for entry in entries:
        is_file = isinstance(entry, Path) or str(entry).endswith((".txt", ".json"))
        phrases = read_words(Path(entry), _FILE) if is_file else [entry]
        for phrase in phrases if isinstance(phrases, list) else [phrases]:
            if not isinstance(phrase, str):
                raise UserError(
                    f"protected_words holds {phrase!r:.60}; give words, or a file with one a line."
                )
            words = Words.of(phrase)
            if not words.words and phrase.strip():
                raise UserError(f"The protected word {phrase!r:.60} holds no letter and no digit.")
            found |= {_inner(words, range(len(words)))} if words.words else set()
    return tuple(sorted(found))


def protected_places(words: Words, phrases: frozenset[str]) -> set[int]:
    """The places of a text that belong to one of the phrases, whatever their case."""
    longest = max(map(len, phrases), default=0)
    found = set[int]()
    for first in range(len(words)):
        length = 0
        for last in range(first, len(words)):
            length += len(words.words[last])
            if length > longest:
                break
            places = range(first, last + 1)
            if _inner(words, places) in phrases:
                found.update(places)
    return found


def _inner(words: Words, places: range) -> str:
    """The text from one word to another, with single spaces."""
    gaps = ("", *words.gaps[places.start + 1 : places.stop], "")
    text = Words(words.words[places.start : places.stop], gaps).text
    return plain(" ".join(text.split()))
