"""Misspellings: words that differ from a word by one edit of its characters."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from nlp_adv.attacks.words.candidates.base import Source, fingerprint_of
from nlp_adv.attacks.words.candidates.confusables import ADJACENT_KEYS, LOOK_ALIKES
from nlp_adv.attacks.words.candidates.scripts import letters_for, units_of
from nlp_adv.errors import UserError

Edit = tuple[int, int, str]  # (start, end, text): word[:start] + text + word[end:]


def edited(word: str, edit: Edit) -> str:
    """The word after an edit."""
    start, end, text = edit
    return word[:start] + text + word[end:]


def swaps(word: str, first: int, last: int) -> list[Edit]:
    """Two unequal neighbours among the letters first to last − 1 change places."""
    units = units_of(word)[first:last]
    pairs = ((a, b, word[a:m], word[m:b]) for (a, m), (_, b) in pairwise(units))
    return [(start, end, two + one) for start, end, one, two in pairs if one != two]


def deletions(word: str, first: int, last: int) -> list[Edit]:
    """A letter of those from first to last − 1 goes; of a run of equal ones, the last."""
    units = units_of(word)[first:last]
    after = [*(word[start:end] for start, end in units[1:]), None]
    pairs = zip(units, after, strict=False)
    return [(start, end, "") for (start, end), other in pairs if word[start:end] != other]


def insertions(word: str) -> list[Edit]:
    """A letter of the script comes in anywhere; into a run of itself, at the end of it."""
    units = units_of(word)
    # At the end it is of the last letter's script, and small but in words of capitals.
    places = [*units, (len(word), len(word))]
    found: list[Edit] = []
    for number, (start, _) in enumerate(places):
        beside = word[start] if start < len(word) else word[units[-1][0]] if word else ""
        letters = letters_for(beside.lower() or "a", word.lower())
        letters = letters.upper() if word.isupper() else letters
        there = word[start : places[number][1]]
        found += [(start, start, letter) for letter in letters if letter != there]
    return found


def random_letters(word: str) -> list[Edit]:
    """A letter becomes another one of its script, in its case; its marks stay."""
    return [
        (start, start + 1, new)
        for start, _ in units_of(word)
        for new in letters_for(word[start], word)
        if new != word[start]
    ]


def from_table(word: str, table: Mapping[str, str]) -> list[Edit]:
    """A character becomes one of those that a table has for it."""
    return [(i, i + 1, new) for i, old in enumerate(word) for new in table.get(old, "")]


def spaces(word: str) -> list[Edit]:
    """A space comes in somewhere inside, between two letters."""
    return [(start, start, " ") for start, _ in units_of(word)[1:]]


@dataclass(frozen=True)
class DeepWordBugEdits:
    """Swap, substitution, deletion and insertion of a letter, each at random.

    Gao, Lanchantin, Soffa and Qi, "Black-box Generation of Adversarial Text Sequences to Evade Deep
    Learning Classifiers", IEEE S&P Workshops 2018, https://arxiv.org/abs/1801.04354. Any place
    of the word may be edited, its first and last letter too, as in the released code.

    Args:
        per_kind: edits drawn of each kind, all equally likely, none twice.

    Deviations: an edit always changes the word, which in the released code it need not do. New
    letters are of the script of the letter that they replace, and in its case; inserted ones are
    capitals in words of capitals. A letter and its marks are one. Words of one letter have no
    candidates.

    Cost: at most 4 · per_kind candidates a word.
    """

    per_kind: int = 1

    name: ClassVar[str] = "deepwordbug edits"

    def __post_init__(self) -> None:
        _check_count("per_kind", self.per_kind)

    @property
    def fingerprint(self) -> str:
        """Of the rule: its version and number of draws."""
        return fingerprint_of([self.name, 2, self.per_kind])

    def candidates(self, word: str, rng: random.Random) -> list[str]:
        """A swap, a substitution, a deletion and an insertion, per_kind times."""
        size = len(units_of(word))
        if size < 2:
            return []
        kinds = (
            swaps(word, 0, size),
            random_letters(word),
            deletions(word, 0, size),
            insertions(word),
        )
        return [new for kind in kinds for new in _drawn(word, kind, self.per_kind, rng)]


@dataclass(frozen=True)
class TextBuggerEdits:
    """The five bugs: a space inside, a deletion, a swap, a misprinted character, another word.

    Li, Ji, Du, Li and Wang, "TextBugger: Generating Adversarial Text Against Real-world
    Applications", NDSS 2019, https://arxiv.org/abs/1812.05271. Deletions and swaps leave the first
    and the last character as they are; misprints (Sub-C) may be anywhere.

    Args:
        neighbours: word → neighbours, nearest first (Sub-W); without it there are four bugs.
        per_kind: edits drawn of each kind, all equally likely, none twice.
        nearest: neighbours taken.
        longest_split: longer words get no space, as it might split them into two words; in
            characters.

    Deviations: a look-alike and an adjacent key, either of which is the paper's misprint, count as
    two kinds: both are tried. Of look-alikes the paper names 0, 1 and @; `confusables.py` has
    more. The paper's neighbours are those of GloVe vectors.

    Cost: at most 5 · per_kind + nearest candidates a word.
    """

    neighbours: Source | None = None
    per_kind: int = 1
    nearest: int = 5
    longest_split: int = 5

    name: ClassVar[str] = "textbugger edits"

    def __post_init__(self) -> None:
        _check_count("per_kind", self.per_kind)
        _check_count("nearest", self.nearest)

    @property
    def fingerprint(self) -> str:
        """Of the rule: its version, numbers and tables, and of the neighbours."""
        words = self.neighbours.fingerprint if self.neighbours else None
        numbers = [self.per_kind, self.nearest, self.longest_split]
        return fingerprint_of([self.name, 2, numbers, LOOK_ALIKES, ADJACENT_KEYS, words])

    def candidates(self, word: str, rng: random.Random) -> list[str]:
        """Edits of each kind, per_kind times, and then the neighbours."""
        size = len(units_of(word))
        kinds = (
            spaces(word) if size <= self.longest_split else [],
            deletions(word, 1, size - 1),
            swaps(word, 1, size - 1),
            from_table(word, LOOK_ALIKES),
            from_table(word, ADJACENT_KEYS),
        )
        found = [new for kind in kinds for new in _drawn(word, kind, self.per_kind, rng)]
        if self.neighbours is not None:
            found += self.neighbours.candidates(word, rng)[: self.nearest]
        return list(dict.fromkeys(found))  # a swap can spell a neighbour


def _drawn(word: str, edits: list[Edit], count: int, rng: random.Random) -> list[str]:
    """Some of the edits, or all where there are fewer."""
    return [edited(word, edit) for edit in rng.sample(edits, min(count, len(edits)))]


def _check_count(name: str, count: int) -> None:
    if count < 1:
        raise UserError(f"{name} is {count}; it must be at least 1.")
