"""Candidates from a file: {word: [candidates]}.

The neighbour lists of Jia, Raghunathan, Göksel and Liang, "Certified Robustness to Adversarial Word
Substitutions", EMNLP 2019, https://aclanthology.org/D19-1423, are such a file: up to 8 neighbours a
word in the counter-fitted embedding of Mrkšić et al., NAACL 2016.
"""

from __future__ import annotations

import gzip
import json
import random
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nlp_adv.attacks.words.candidates.base import fingerprint_of, written_as
from nlp_adv.errors import UserError
from nlp_adv.unpacking import open_unpacked

LARGEST = 2**28  # bytes: 65,000 words with 50 scored neighbours each take 70 million
_SHAPE = 'one JSON object such as {"film": ["movie", "picture"]} or {"film": [["movie", 0.9]]}'


class CandidateTable:
    """Words and their candidates, looked up as they are written and then in lower case.

    The order of a list is its ranking; scores in it are not looked at.

    Args:
        path: .json or .json.gz, a word → a list of strings or of [string, number] pairs.

    Raises:
        UserError: the file is missing, damaged or empty, or of another shape.

    Cost: the file is held in memory; a look-up a word.
    """

    name: str
    fingerprint: str  # of the words and candidates: packing, layout and scores do not change it

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        packed = path.suffix == ".gz"
        name = (path.with_suffix("") if packed else path).stem
        self._fill(name, f"Candidate file {path}", _parsed(path))

    @classmethod
    def from_mapping(
        cls, mapping: Mapping[str, Sequence[str | tuple[str, float]]], name: str = "table"
    ) -> CandidateTable:
        """The same from a mapping at hand.

        Raises:
            UserError: it is empty, or of another shape.
        """
        table = cls.__new__(cls)
        table._fill(name, f"The mapping {name}", dict(mapping))
        return table

    def candidates(self, word: str, rng: random.Random) -> list[str]:
        """The word's list, in its order; empty for words that the table has not."""
        found = self._table.get(word) or self._table.get(word.lower(), [])
        return written_as(word, found)

    def _fill(self, name: str, what: str, content: Any) -> None:
        if not isinstance(content, dict):
            raise UserError(f"{what} is no object; write {_SHAPE}.")
        self.name = name
        self._table = {word: _checked(what, word, found) for word, found in content.items()}
        if not any(self._table.values()):
            raise UserError(f"{what} has no candidates; write {_SHAPE}.")
        self.fingerprint = fingerprint_of(self._table)


def _checked(what: str, word: Any, found: Any) -> list[str]:
    """The strings of one list.

    Raises:
        UserError: it holds something else.
    """
    words = [_string(entry) for entry in found] if isinstance(found, list | tuple) else [None]
    strings = [one for one in words if one is not None and one.strip()]
    if not isinstance(word, str) or len(strings) < len(words):
        raise UserError(
            f"{what}, word {word!r}: expected a list of words or of [word, score] pairs; write "
            f"{_SHAPE}."
        )
    return strings


def _string(entry: Any) -> str | None:
    if isinstance(entry, list | tuple) and len(entry) == 2 and isinstance(entry[1], int | float):
        entry = entry[0]
    return entry if isinstance(entry, str) else None


def _parsed(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        UserError: it cannot be read, or is no JSON.
    """
    try:
        with open_unpacked(path, packed=path.suffix == ".gz", most=LARGEST) as file:
            text = file.read().decode("utf-8-sig")
    except (FileNotFoundError, IsADirectoryError) as error:
        what = "is a folder" if isinstance(error, IsADirectoryError) else "does not exist"
        raise UserError(f"Candidate file {path} {what}; check the path.") from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise UserError(
            f"Candidate file {path}: the gzip data is damaged or cut off; fetch or pack it again."
        ) from None
    except OSError as error:
        raise UserError(
            f"Candidate file {path} cannot be read ({error.strerror}); check it."
        ) from error
    except UnicodeDecodeError:
        raise UserError(f"Candidate file {path} is not UTF-8; save it as UTF-8.") from None
    if not text.strip():
        raise UserError(f"Candidate file {path} is empty; write {_SHAPE}.")
    try:
        return json.loads(text)
    except RecursionError:
        raise UserError(f"Candidate file {path} is nested too deeply; write {_SHAPE}.") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"Candidate file {path}, line {error.lineno}: bad JSON ({error.msg}); write {_SHAPE}."
        ) from None
