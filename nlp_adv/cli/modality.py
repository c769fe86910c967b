"""Which kind of input a command is about: `--modality text`, the default, or `--modality image`."""

import argparse
import re
from typing import get_args

from nlp_adv.cli.arguments import flags_of_file
from nlp_adv.errors import UserError
from nlp_adv.images.pixels import parse_epsilon
from nlp_adv.methods import Modality

_FRACTION = re.compile(r"\d+(\.\d*)?/\d+(\.\d*)?")


def modality(argv: list[str]) -> Modality:
    """What `--modality` is on a command line.

    Raises:
        UserError: something else than text or image.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--modality", default="text")
    found: Modality = parser.parse_known_args(flags_of_file(argv))[0].modality
    if found not in get_args(Modality):
        raise UserError(f"--modality is text or image, not {found!r}.")
    return found


def with_numbers(argv: list[str]) -> list[str]:
    """The command line with fractions as numbers: 8/255 is how radii in pixels are written."""
    return [str(parse_epsilon(part)) if _FRACTION.fullmatch(part) else part for part in argv]
