"""Synonyms from WordNet's own files, without NLTK.

Fellbaum (ed.), "WordNet: An Electronic Lexical Database", MIT Press 1998. The files are described
in the manual pages wndb(5WN), of index.*, data.* and *.exc, and morphy(7WN), of base forms.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from nlp_adv.attacks.words.candidates.base import fingerprint_of, written_as
from nlp_adv.errors import UserError

# morphy(7WN): suffix → what stands in its place in the base form.
_ENDINGS = {
    "noun": "s→ ses→s xes→x zes→z ches→ch shes→sh men→man ies→y",
    "verb": "s→ ies→y es→e es→ ed→e ed→ ing→e ing→",
    "adj": "er→ est→ er→e est→e",
    "adv": "",
}
_MARKER = re.compile(r"\((?:a|p|ip)\)$")  # where an adjective may stand
LARGEST = 2**27  # bytes of a file; the largest of WordNet 3.1 has 16 million
_Folder = Path | zipfile.Path


class WordNet:
    """The other words of a word's synsets.

    They come by part of speech (noun, verb, adjective, adverb), then by sense, the most frequent
    first, then as the synset has them. Where the index of a part of speech has no such word, its
    base forms are looked up instead, and the candidates are base forms, too: "movies" becomes
    "movie" or "film", not "films".

    Args:
        folder: holds index.noun, data.noun and so on; without it, where NLTK ($NLTK_DATA,
            ~/nltk_data, /usr/share/nltk_data; also the .zip as downloaded) and Debian
            (/usr/share/wordnet) put them.
        single_words: leave out lemmas of several words; they are written with spaces otherwise.

    Raises:
        UserError: WordNet is not there, or its files are damaged.

    Deviations: NLTK, and what is built on it, looks base forms up even where the index has the word
    (the noun "glasses" is also "glass" there), and detaches endings repeatedly.

    Cost: loads in half a second, and holds 60 MB.
    """

    name: ClassVar[str] = "wordnet"

    def __init__(self, folder: str | Path | None = None, *, single_words: bool = True) -> None:
        found = place_of(folder)
        self.single_words = single_words
        self._parts = {part: _Part.read(found, part) for part in _ENDINGS}
        files = [part.digest for part in self._parts.values()]
        self.fingerprint = fingerprint_of([self.name, 1, single_words, files])

    def candidates(self, word: str, rng: random.Random) -> list[str]:
        """Synonyms; empty for words that WordNet does not know."""
        lemmas = (
            lemma
            for part in self._parts.values()
            for form in part.forms(word.lower())
            for lemma in part.lemmas(form)
        )
        if self.single_words:
            return written_as(word, (lemma for lemma in lemmas if "_" not in lemma))
        return written_as(word, (lemma.replace("_", " ") for lemma in lemmas))

    def parts_of_speech(self, word: str) -> frozenset[str]:
        """Of "noun", "verb", "adj" and "adv" those that the word, or its base form, can be."""
        return frozenset(name for name, part in self._parts.items() if part.forms(word.lower()))


@dataclass
class _Part:
    """One part of speech.

    Args:
        name: noun, verb, adj or adv.
        index: lemma → the rest of its line.
        data: the file; an index points at bytes of it.
        exceptions: irregular form → base forms.
        digest: of all these files.
    """

    name: str
    index: dict[str, str]
    data: bytes
    exceptions: dict[str, list[str]]
    digest: str

    @classmethod
    def read(cls, folder: _Folder, name: str) -> _Part:
        """Read the files of one part of speech.

        Raises:
            UserError: one is not there, or is damaged.
        """
        files = [_bytes(folder, file) for file in (f"index.{name}", f"data.{name}", f"{name}.exc")]
        index, data, exceptions = files
        digest = hashlib.sha256(b"".join(hashlib.sha256(file).digest() for file in files))
        lines = _text(folder, f"index.{name}", index).splitlines()
        # The licence stands in lines that begin with a space.
        pairs = (line.split(" ", 1) for line in lines if line and line[0] != " ")
        forms = (line.split() for line in _text(folder, f"{name}.exc", exceptions).splitlines())
        try:
            known = {lemma: rest for lemma, rest in pairs}
        except ValueError:
            raise _damaged(str(folder / f"index.{name}")) from None
        irregular = {form[0]: form[1:] for form in forms if form}
        return cls(name, known, data, irregular, digest.hexdigest())

    def forms(self, word: str) -> list[str]:
        """The word if the index has it, or else its base forms: irregular ones, or else by rule."""
        if word in self.index:
            return [word]
        rules = (rule.partition("→") for rule in _ENDINGS[self.name].split())
        forms = self.exceptions.get(word) or [
            word.removesuffix(suffix) + ending
            for suffix, _, ending in rules
            if word.endswith(suffix)
        ]
        return [form for form in dict.fromkeys(forms) if form in self.index]

    def lemmas(self, lemma: str) -> Iterator[str]:
        """The words of the lemma's synsets, sense after sense."""
        try:
            _, senses, *rest = self.index[lemma].split()
            for offset in rest[-int(senses) :]:
                start = int(offset)
                line = self.data[start : self.data.index(b"\n", start)].decode()
                written, _, _, count, *words = line.split(" ")
                if written != offset:
                    raise ValueError(f"{offset} points at {written}")
                for word in words[: 2 * int(count, 16) : 2]:
                    yield _MARKER.sub("", word)
        except ValueError:
            raise _damaged(f"index.{self.name} or data.{self.name}") from None


def place_of(folder: str | Path | None = None) -> _Folder:
    """Where WordNet is.

    Raises:
        UserError: nowhere.
    """
    nltk = [Path(root) for root in os.environ.get("NLTK_DATA", "").split(os.pathsep) if root]
    nltk += [Path(os.path.expanduser("~"), "nltk_data"), Path("/usr/share/nltk_data")]
    places = [root / "corpora" / "wordnet" for root in nltk] + [Path("/usr/share/wordnet")]
    if folder is not None:
        places = [Path(folder)]
    for place in places:
        if (place / "index.noun").is_file():
            return place
        packed = Path(f"{place}.zip")
        if zipfile.is_zipfile(packed):
            return zipfile.Path(packed, "wordnet/")
    raise UserError(
        f"WordNet is not in {', '.join(map(str, places))}: install it (apt install wordnet-base, "
        f"or python -m nltk.downloader wordnet, or nlp-adv resources get wordnet), or give the "
        f"folder that has index.noun."
    )


def _bytes(folder: _Folder, file: str) -> bytes:
    try:
        with (folder / file).open("rb") as opened:
            content: bytes = opened.read(LARGEST + 1)
    except (OSError, KeyError, zipfile.BadZipFile, zlib.error):
        raise UserError(
            f"WordNet's file {folder / file} is missing or cannot be read; install WordNet again."
        ) from None
    if len(content) > LARGEST:
        raise _damaged(str(folder / file))
    return content


def _text(folder: _Folder, file: str, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise _damaged(str(folder / file)) from None


def _damaged(files: str) -> UserError:
    return UserError(f"WordNet's {files} is damaged; install WordNet again.")
