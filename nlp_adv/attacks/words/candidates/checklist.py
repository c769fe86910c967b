"""What may change in a text without changing what it says: names, places, numbers, contractions.

The kinds are those of Ribeiro, Wu, Guestrin and Singh, "Beyond Accuracy: Behavioral Testing of NLP
Models with CheckList", ACL 2020, https://aclanthology.org/2020.acl-main.442. Names are among the
most frequent of births in the United States over the last hundred years (Social Security
Administration, public domain), places are states of the United Nations and capitals of such states;
contractions are those of English with one reading.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from nlp_adv.attacks.words.candidates.base import fingerprint_of, written_as

_MEN = """
James Michael Robert John David William Richard Joseph Thomas Christopher Charles Daniel Matthew
Anthony Steven Andrew Paul Joshua Kenneth Kevin
"""
_WOMEN = """
Mary Patricia Jennifer Linda Elizabeth Barbara Susan Jessica Karen Sarah Lisa Nancy Sandra Ashley
Emily Kimberly Betty Margaret Donna Michelle
"""
_COUNTRIES = """
Argentina Australia Austria Belgium Brazil Canada Chile Colombia Denmark Egypt Ethiopia Finland
France Germany Ghana Greece Hungary India Indonesia Iran Iraq Ireland Italy Japan Kenya Malaysia
Mexico Morocco Nepal Nigeria Norway Pakistan Peru Poland Portugal Romania Spain Sweden Switzerland
Thailand Uganda Ukraine Vietnam
"""
_CAPITALS = """
Accra Ankara Athens Baghdad Bangkok Beijing Berlin Bern Brussels Bucharest Budapest Cairo Canberra
Copenhagen Damascus Dublin Hanoi Havana Helsinki Jakarta Kampala Kathmandu Kyiv Lima Lisbon London
Madrid Manila Moscow Nairobi Oslo Ottawa Paris Prague Rabat Rome Santiago Seoul Stockholm Tehran
Tokyo Vienna Warsaw
"""
_NUMBERS = "two three four five six seven eight nine ten eleven twelve"
GROUPS = tuple(tuple(part.split()) for part in (_MEN, _WOMEN, _COUNTRIES, _CAPITALS, _NUMBERS))

_AUXILIARIES = "is are was were has have had do does did could should would might must need"
_PRONOUNS = "I we you they he she it that there who what"
CONTRACTIONS: dict[str, str] = {
    **{f"{verb} not": f"{verb}n't" for verb in _AUXILIARIES.split()},
    **{f"{who} will": f"{who}'ll" for who in _PRONOUNS.split()},
    **{f"{who} are": f"{who}'re" for who in ("we", "you", "they")},
    **{f"{who} have": f"{who}'ve" for who in ("I", "we", "you", "they")},
    "I am": "I'm",
    "cannot": "can't",
    "will not": "won't",
}
# "it's" may be "it has", so it is only ever made, never taken apart.
_ONLY_SHORTER = {f"{who} is": f"{who}'s" for who in ("he", "she", "it", "that", "there", "what")}
_SHORT = {long.lower(): short for long, short in (CONTRACTIONS | _ONLY_SHORTER).items()}
_LONG = {short.lower(): long for long, short in CONTRACTIONS.items()}


@dataclass(frozen=True)
class CheckListEdits:
    """Another name, place or number of the same kind, and contractions written the other way.

    Args:
        each: candidates drawn a word.
        groups: words any of which may take the place of another one of the same group.
        share: by which a number in digits may differ at most, up or down.

    Deviations: the authors find names and places with a tagger of entities and draw from longer
    lists; here a word is one if it stands in a list and is written as there.
    """

    each: int = 5
    groups: tuple[tuple[str, ...], ...] = GROUPS
    share: float = 0.2

    name: ClassVar[str] = "checklist edits"

    @property
    def fingerprint(self) -> str:
        """Of the rule: its version, numbers and lists."""
        contractions = [CONTRACTIONS, _ONLY_SHORTER]
        return fingerprint_of([self.name, 1, self.each, self.share, self.groups, contractions])

    def candidates(self, word: str, rng: random.Random) -> list[str]:
        """What one word may become."""
        found: list[str] = []
        for group in self.groups:
            others = [one for one in group if one != word]
            if len(others) < len(group):
                found += rng.sample(others, min(self.each, len(others)))
        if word.isascii() and word.isdecimal():
            found += self._numbers(word, rng)
        long = _LONG.get(_straight(word).lower())
        return found + (written_as(word, [long]) if long else [])

    def pair(self, first: str, second: str) -> str | None:
        """What two words become when they are drawn together; None for others."""
        short = _SHORT.get(f"{first} {second}".lower())
        found = written_as(first, [short]) if short else []
        return found[0] if found else None

    def _numbers(self, digits: str, rng: random.Random) -> list[str]:
        """As many digits, not far away."""
        value, size = int(digits), len(digits)
        reach = max(1, int(self.share * value))
        least = max(value - reach, 10 ** (size - 1) if size > 1 else 0)
        near = [n for n in range(least, min(value + reach, 10**size - 1) + 1) if n != value]
        return [f"{n:0{size}d}" for n in rng.sample(near, min(self.each, len(near)))]


def _straight(word: str) -> str:
    return word.replace("’", "'")
