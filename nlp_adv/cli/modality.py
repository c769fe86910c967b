"""Which kind of input a command is about: `--modality text`, the default, or `--modality image`."""

import re
from typing import cast, get_args

from nlp_adv.cli.flags import value_of
from nlp_adv.errors import UserError
from nlp_adv.methods import Modality
from nlp_adv.sites.normalisation import parse_epsilon

# A word, or what follows the = of a flag.
_FRACTION = re.compile(r"(--[\w-]+=)?(\d+(?:\.\d*)?/\d+(?:\.\d*)?)")


def modality(argv: list[str]) -> Modality:
    """What `--modality` is on a command line.

    Raises:
        UserError: something else than text or image.
    """
    found = value_of("modality", argv, "text")
    if found not in get_args(Modality):
        raise UserError(f"--modality is text or image, not {found!r}.")
    return cast(Modality, found)


def with_numbers(argv: list[str]) -> list[str]:
    """The command line with fractions as numbers: 8/255 is how radii in pixels are written."""
    words = []
    for word in argv:
        found = _FRACTION.fullmatch(word)
        words.append(f"{found[1] or ''}{parse_epsilon(found[2])}" if found else word)
    return words
