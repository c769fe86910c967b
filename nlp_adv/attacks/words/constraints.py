"""What an attack may change, and into what: the free constraints first, a sentence encoder last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from nlp_adv.attacks.words.own_functions import OwnFunction, called, name_of
from nlp_adv.attacks.words.protected import protected_places
from nlp_adv.attacks.words.protocols import Protocol
from nlp_adv.attacks.words.stop_words import is_stop_word, words_of
from nlp_adv.attacks.words.words import Words
from nlp_adv.errors import UserError

Tagger = Callable[[list[str]], list[str]]  # words of a text → their parts of speech
CONTEXT = 4  # words on each side that a tagger sees


@dataclass
class Constraints:
    """A protocol's constraints with what they need.

    Args:
        protocol: the numbers.
        tagger: parts of speech, as universal tags (NOUN, VERB, …).
        own: constraints of one's own, each a function of the original text and a list of changed
            ones that says of each whether it may be tried.

    Raises:
        UserError: the protocol asks for a tagger and there is none.
    """

    protocol: Protocol
    tagger: Tagger | None = None
    own: Sequence[OwnFunction] = ()
    _tag: Callable[[tuple[str, ...], int], str] = field(init=False)
    _stop_words: frozenset[str] = field(init=False)
    _protected: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        if self.protocol.same_part_of_speech and self.tagger is None:
            raise UserError(
                f"The protocol {self.protocol.name} compares parts of speech: give a tagger "
                f"(--tagger nltk), or choose another protocol."
            )
        self._protected = frozenset(self.protocol.protected)
        self._stop_words = words_of(self.protocol.stop_words)  # type: ignore[arg-type]
        self._tag = lru_cache(maxsize=100_000)(self._tagged)

    def places(self, words: Words) -> list[int]:
        """Where a text may be changed: words of letters, long enough, not stopped or protected."""
        free = self.unprotected(words)
        return [place for place in sorted(free) if self._is_free(words, place)]

    def unprotected(self, words: Words) -> set[int]:
        """All places but those of protected words; none where a text is too short to be changed."""
        if len(words) < self.protocol.min_words:
            return set()
        return {*range(len(words))} - protected_places(words, self._protected)

    def permitted(self, original: Words, variants: Sequence[Words]) -> list[Words]:
        """The variants that the user's own constraints let pass, before the model sees any."""
        left = list(variants)
        for constraint in self.own:
            allowed = constraint.allows(original.text, [words.text for words in left])
            left = [words for words, may in zip(left, allowed, strict=True) if may]
        return left

    def allowed(
        self, original: Words, current: Words, place: int, candidates: Sequence[str]
    ) -> list[str]:
        """Candidates for a place that break no constraint, as many as the protocol takes.

        The word itself, what was there before the attack and repetitions are left out.
        """
        changed = set(original.changed(current))
        if place in changed and not self.protocol.repeat:
            return []
        if place not in changed and len(changed) >= self.protocol.changes(len(original)):
            return []
        word = original.words[place]
        known = {word, current.words[place], ""}
        distinct = [one for one in dict.fromkeys(candidates) if one not in known]
        distinct = distinct[: self.protocol.candidates]
        if not self.protocol.same_part_of_speech:
            return distinct
        tag = self._tag(*_around(original, place, word))
        return [one for one in distinct if self._tag(*_around(current, place, one)) == tag]

    def window(self, words: Words, place: int) -> str:
        """The text around a place that a sentence encoder compares."""
        width = self.protocol.similarity_window
        if width is None or len(words) <= width:
            return words.text
        start = min(max(0, place - width // 2), len(words) - width)
        end = start + width
        return Words(words.words[start:end], ("", *words.gaps[start + 1 : end], "")).text

    def _is_free(self, words: Words, place: int) -> bool:
        word = words.words[place]
        if len(word) < self.protocol.min_length or not any(c.isalpha() for c in word):
            return False
        return not is_stop_word(words, place, self._stop_words)

    def _tagged(self, words: tuple[str, ...], place: int) -> str:
        assert self.tagger is not None
        who = f"The tagger {name_of(self.tagger)}"
        tags = called(who, lambda some: self.tagger(list(some[0])), [words])  # type: ignore[misc]
        if len(tags) != len(words) or not all(isinstance(tag, str) for tag in tags):
            raise UserError(
                f"{who} returned {tags!r:.60} for the {len(words)} words {' '.join(words)!r:.60}; "
                f"it must return a part of speech for each."
            )
        tag = tags[place].upper()
        return "NOUN" if self.protocol.nouns_for_verbs and tag == "VERB" else tag


def _around(words: Words, place: int, word: str) -> tuple[tuple[str, ...], int]:
    start = max(0, place - CONTEXT)
    before = words.words[start:place]
    return (*before, word, *words.words[place + 1 : place + 1 + CONTEXT]), len(before)
