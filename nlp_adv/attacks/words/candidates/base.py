"""What a source of candidates is, and what all sources share."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable
from typing import Any, Protocol

from nlp_adv.attacks.words.words import in_the_case_of


class Source(Protocol):
    """From a word, whatever stands around it, to what may stand in its place."""

    @property
    def name(self) -> str:
        """For reports."""
        ...

    @property
    def fingerprint(self) -> str:
        """12 hexadecimal digits: equal ones make equal candidates. Part of a protocol's hash."""
        ...

    def candidates(self, word: str, rng: random.Random) -> list[str]:
        """Best first, no two alike and never the word itself, written as the word is.

        The list depends on the word and the state of rng only.
        """
        ...


def written_as(word: str, candidates: Iterable[str]) -> list[str]:
    """Candidates in the case of the word; each once, and not the word, in whatever case."""
    distinct: dict[str, str] = {}  # spelling without case → the first candidate so spelt
    for written in (in_the_case_of(word, candidate) for candidate in candidates):
        distinct.setdefault(written.casefold(), written)
    distinct.pop(word.casefold(), None)
    return list(distinct.values())


def fingerprint_of(content: Any) -> str:
    """12 hexadecimal digits of SHA-256 over anything that JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
