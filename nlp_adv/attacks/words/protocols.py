"""Protocols: what an attack may do, written down, named, versioned and hashed.

Published accuracies under one attack differ by 30 points between codes that call it by the same
name. Numbers are therefore compared only where the hashes of their protocols agree.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from nlp_adv.attacks.words.protected import settled_phrases
from nlp_adv.attacks.words.stop_words import StopWords, settled
from nlp_adv.errors import UserError, no_such

Part = Literal["first", "second"]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Budget, constraints and counting, the same for all attacks of a table.

    Args:
        name, version: a change of any number is a new version.
        max_changed: ρ, the largest share of a text's words that may differ, rounded to the nearest
            number of words; 1 is no limit. Here and below, a text's words are those that the model
            reads: what lies behind its longest input is neither counted nor changed.
        min_changed: words that may differ in any text, however short, where ρ would allow fewer.
        queries: the most queries an example, or None.
        queries_per_word: the same, times the number of words of the text, or None.
        candidates: the most candidates a word.
        min_words: shorter texts are left as they are (and count as failed).
        min_length: shorter words are not touched, in characters.
        stop_words: words that are not touched: the name of a list ("english" of this package,
            "scikit-learn", "none"), words, or a file with a word a line, which is kept as its
            words. True and False mean "none" and "english".
        protected: words and phrases that are not touched either, in whatever case; or files of
            them, which are kept as their words.
        repeat: whether a changed word may be changed again.
        same_part_of_speech: whether a candidate must have the word's part of speech in its place.
        nouns_for_verbs: whether nouns and verbs count as one part of speech then.
        min_similarity: the least cosine of a sentence encoder's outputs, or None for no such
            constraint.
        short, min_similarity_short: texts of fewer words than `short` have this least cosine; −1
            is no limit.
        similarity_window: words around the change that are encoded, or None for the whole text.
        similarity: "lazy" tests the best candidate first and the others only while it fails;
            "eager" tests all before the model sees any. They differ in the queries counted, and
            where the best candidate overall is refused.
        count: "asked" counts every candidate that the model is asked about; "uncached" only those
            that are not asked twice, as always in a text that is cut.
        part: the attacked text of a pair.
        source: where the numbers come from.
    """

    name: str
    version: int = 1
    max_changed: float = 1.0
    min_changed: int = 1
    queries: int | None = None
    queries_per_word: int | None = None
    candidates: int = 50
    min_words: int = 1
    min_length: int = 2
    stop_words: StopWords = "english"
    protected: str | Sequence[str] = ()
    repeat: bool = False
    same_part_of_speech: bool = False
    nouns_for_verbs: bool = False
    min_similarity: float | None = None
    short: int = 0
    min_similarity_short: float = -1.0
    similarity_window: int | None = None
    similarity: Literal["lazy", "eager"] = "lazy"
    count: Literal["asked", "uncached"] = "asked"
    part: Part = "second"
    source: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.max_changed <= 1:
            raise UserError(f"max_changed is {self.max_changed}; it must be above 0 and at most 1.")
        if self.candidates < 1 or self.min_changed < 1:
            raise UserError("candidates and min_changed must be at least 1.")
        for budget in (self.queries, self.queries_per_word):
            if budget is not None and budget < 1:
                raise UserError(f"A query budget of {budget} leaves nothing to ask.")
        object.__setattr__(self, "stop_words", settled(self.stop_words))
        object.__setattr__(self, "protected", settled_phrases(self.protected))

    def budget(self, words: int) -> float:
        """The most queries for a text of so many words; inf without a limit."""
        # A text without words is asked about, too: once, as it is.
        limits = [self.queries, self.queries_per_word and self.queries_per_word * max(1, words)]
        return min((float(limit) for limit in limits if limit is not None), default=float("inf"))

    def changes(self, words: int) -> int:
        """The most words of a text that may differ."""
        return min(words, max(self.min_changed, round(self.max_changed * words)))

    def cosine(self, words: int) -> float | None:
        """The least similarity in a text of so many words; None where nothing is compared."""
        if words >= self.short or self.min_similarity is None:
            return self.min_similarity
        return self.min_similarity_short if self.min_similarity_short > -1 else None

    def hash(self, resources: Mapping[str, str] | None = None) -> str:
        """12 hexadecimal digits of SHA-256 over all numbers and the resources in use.

        Args:
            resources: name → fingerprint of what the numbers also depend on: candidate files,
                sentence encoder, tagger.
        """
        content = {
            "protocol": self.described(),
            "resources": dict(sorted((resources or {}).items())),
        }
        canonical = json.dumps(content, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    def described(self) -> dict[str, Any]:
        """All fields, for the report and the hash.

        Without protected words that field is left out: protocols of before it keep their hashes.
        """
        return {key: value for key, value in asdict(self).items() if key != "protected" or value}


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="default",
            version=2,
            max_changed=0.3,
            queries_per_word=50,
            source="needs no encoder and no tagger: a budget, a limit on words, stop words kept",
        ),
        Protocol(
            name="textfooler2020",
            version=2,
            candidates=50,
            same_part_of_speech=True,
            nouns_for_verbs=True,
            # The code asks for 1 − arccos(cosine) ≥ 0.7, in texts below 15 words for 0.1.
            min_similarity=round(math.cos(0.3), 6),
            short=15,
            min_similarity_short=round(math.cos(0.9), 6),
            similarity_window=15,
            similarity="eager",
            source="jind11/TextFooler at 6a56cb1, its defaults on the command line, but with this "
            "package's own stop words instead of its 266 (give them as a file: stop_words)",
        ),
        Protocol(
            name="li2021",
            version=2,
            max_changed=0.3,
            queries_per_word=50,
            candidates=50,
            min_words=5,
            # An angle of at most 0.5, which is an angular similarity of 1 − 0.5/π = 0.8408.
            min_similarity=round(math.cos(0.5), 6),
            short=15,  # shorter texts are not compared
            similarity_window=15,
            similarity="eager",
            source="Li et al., EMNLP 2021, as RockyLzy/TextDefender at 06a5068 has it for AG News, "
            "but with this package's own stop words",
        ),
        Protocol(
            name="a2t",
            version=2,
            max_changed=0.1,
            min_changed=4,
            candidates=20,
            same_part_of_speech=True,
            min_similarity=0.9,
            source="Yoo and Qi, Findings of EMNLP 2021, as QData/TextAttack-A2T documents it, but "
            "with this package's own stop words",
        ),
    )
}


def protocol_named(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
        UserError: there is none.
    """
    if name not in PROTOCOLS:
        raise no_such("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]
