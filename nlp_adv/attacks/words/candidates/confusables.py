"""Characters that look like Latin letters, and keys that lie beside each other."""

from __future__ import annotations

# None of these becomes its letter again when a tokenizer lower-cases, strips accents or normalises
# to NFKC; full-width and mathematical letters, which would, are therefore not among them.
LOOK_ALIKES: dict[str, str] = {
    "a": "@\N{CYRILLIC SMALL LETTER A}\N{LATIN SMALL LETTER ALPHA}",
    "b": "6\N{CYRILLIC SMALL LETTER SOFT SIGN}",
    "c": "\N{CYRILLIC SMALL LETTER ES}\N{GREEK LUNATE SIGMA SYMBOL}",
    "d": "\N{CYRILLIC SMALL LETTER KOMI DE}",
    "e": "3\N{CYRILLIC SMALL LETTER IE}",
    "f": "\N{LATIN SMALL LETTER F WITH HOOK}",
    "g": "9\N{LATIN SMALL LETTER SCRIPT G}",
    "h": "\N{CYRILLIC SMALL LETTER SHHA}",
    "i": "1\N{CYRILLIC SMALL LETTER BYELORUSSIAN-UKRAINIAN I}\N{GREEK SMALL LETTER IOTA}",
    "j": "\N{CYRILLIC SMALL LETTER JE}",
    "k": "\N{CYRILLIC SMALL LETTER KA}\N{GREEK SMALL LETTER KAPPA}",
    "l": "1\N{CYRILLIC SMALL LETTER PALOCHKA}",
    "m": "\N{CYRILLIC SMALL LETTER EM}",
    "n": "\N{ARMENIAN SMALL LETTER VO}\N{CYRILLIC SMALL LETTER PE}",
    "o": "0\N{CYRILLIC SMALL LETTER O}\N{GREEK SMALL LETTER OMICRON}",
    "p": "\N{CYRILLIC SMALL LETTER ER}\N{GREEK SMALL LETTER RHO}",
    "q": "9\N{CYRILLIC SMALL LETTER QA}",
    "r": "\N{CYRILLIC SMALL LETTER GHE}",
    "s": "$5\N{CYRILLIC SMALL LETTER DZE}",
    "t": "7\N{CYRILLIC SMALL LETTER TE}\N{GREEK SMALL LETTER TAU}",
    "u": "\N{GREEK SMALL LETTER UPSILON}\N{ARMENIAN SMALL LETTER SEH}",
    "v": "\N{GREEK SMALL LETTER NU}\N{CYRILLIC SMALL LETTER IZHITSA}",
    "w": "\N{CYRILLIC SMALL LETTER WE}\N{GREEK SMALL LETTER OMEGA}",
    "x": "\N{CYRILLIC SMALL LETTER HA}\N{GREEK SMALL LETTER CHI}",
    "y": "\N{CYRILLIC SMALL LETTER U}\N{GREEK SMALL LETTER GAMMA}",
    "z": "2\N{LATIN LETTER SMALL CAPITAL Z}",
    "A": "4\N{CYRILLIC CAPITAL LETTER A}\N{GREEK CAPITAL LETTER ALPHA}",
    "B": "8\N{CYRILLIC CAPITAL LETTER VE}\N{GREEK CAPITAL LETTER BETA}",
    "C": "\N{CYRILLIC CAPITAL LETTER ES}",
    "D": "\N{CHEROKEE LETTER A}",
    "E": "3\N{CYRILLIC CAPITAL LETTER IE}\N{GREEK CAPITAL LETTER EPSILON}",
    "F": "\N{GREEK LETTER DIGAMMA}",
    "G": "6\N{CYRILLIC CAPITAL LETTER KOMI SJE}",
    "H": "\N{CYRILLIC CAPITAL LETTER EN}\N{GREEK CAPITAL LETTER ETA}",
    "I": "1\N{CYRILLIC CAPITAL LETTER BYELORUSSIAN-UKRAINIAN I}\N{GREEK CAPITAL LETTER IOTA}",
    "J": "\N{CYRILLIC CAPITAL LETTER JE}",
    "K": "\N{CYRILLIC CAPITAL LETTER KA}\N{GREEK CAPITAL LETTER KAPPA}",
    "L": "\N{CHEROKEE LETTER TLE}",
    "M": "\N{CYRILLIC CAPITAL LETTER EM}\N{GREEK CAPITAL LETTER MU}",
    "N": "\N{GREEK CAPITAL LETTER NU}",
    "O": "0\N{CYRILLIC CAPITAL LETTER O}\N{GREEK CAPITAL LETTER OMICRON}",
    "P": "\N{CYRILLIC CAPITAL LETTER ER}\N{GREEK CAPITAL LETTER RHO}",
    "Q": "\N{CYRILLIC CAPITAL LETTER QA}",
    "R": "\N{CHEROKEE LETTER E}",
    "S": "$5\N{CYRILLIC CAPITAL LETTER DZE}",
    "T": "7\N{CYRILLIC CAPITAL LETTER TE}\N{GREEK CAPITAL LETTER TAU}",
    "U": "\N{ARMENIAN CAPITAL LETTER SEH}",
    "V": "\N{CYRILLIC CAPITAL LETTER IZHITSA}",
    "W": "\N{CYRILLIC CAPITAL LETTER WE}",
    "X": "\N{CYRILLIC CAPITAL LETTER HA}\N{GREEK CAPITAL LETTER CHI}",
    "Y": "\N{GREEK CAPITAL LETTER UPSILON}\N{CYRILLIC CAPITAL LETTER STRAIGHT U}",
    "Z": "2\N{GREEK CAPITAL LETTER ZETA}",
}

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
# Each row of a QWERTY keyboard stands a little to the right of the one above it, so a key touches
# two keys of each: (rows down, keys to the right).
_TOUCHING = ((0, -1), (0, 1), (-1, 0), (-1, 1), (1, -1), (1, 0))


def _adjacent(row: int, column: int) -> str:
    places = ((row + down, column + right) for down, right in _TOUCHING)
    return "".join(_ROWS[r][c] for r, c in places if 0 <= r < len(_ROWS) and 0 <= c < len(_ROWS[r]))


_LOWER = {key: _adjacent(r, c) for r, row in enumerate(_ROWS) for c, key in enumerate(row)}
ADJACENT_KEYS: dict[str, str] = _LOWER | {key.upper(): by.upper() for key, by in _LOWER.items()}
