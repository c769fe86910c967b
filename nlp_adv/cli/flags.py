"""Flags on a command line: read, named, and refused in one sentence."""

from __future__ import annotations

import argparse
import difflib
import json
import re
from typing import Any, NoReturn

from transformers import HfArgumentParser

from nlp_adv.cli.settings import flags_of
from nlp_adv.errors import UserError


class PlainParser(argparse.ArgumentParser):
    """argparse, whose complaints are UserErrors of one sentence."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Refuse a command line.

        Raises:
            UserError: always.
        """
        raise UserError(complaint(message))


class FlagParser(HfArgumentParser):
    """The flags of dataclasses, read strictly.

    Args:
        kinds: the dataclasses.
        **kwargs: of argparse.
    """

    def __init__(self, kinds: Any, **kwargs: Any) -> None:
        file = "A .json or .yaml file of flags may stand among them; flags beside it win over it."
        kwargs["epilog"] = " ".join([*filter(None, [kwargs.get("epilog")]), file])
        super().__init__(kinds, allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Refuse a command line.

        Raises:
            UserError: always.
        """
        raise UserError(complaint(message))

    def read(self, argv: list[str]) -> tuple[list[Any], list[str]]:
        """The dataclasses, and the words that belong to none of them.

        Raises:
            UserError: a value that argparse, TrainingArguments or a method refuses.
        """
        try:
            *parsed, unknown = self.parse_args_into_dataclasses(
                argv, look_for_args_file=False, return_remaining_strings=True
            )
        except json.JSONDecodeError as error:  # of a flag that takes an object
            place = next((n for n, word in enumerate(argv) if word.endswith(error.doc)), 0)
            flag = argv[place].split("=")[0] if "=" in argv[place] else argv[place - 1]
            raise UserError(f"{flag}: {error.doc!r} is no JSON ({error.msg}).") from error
        except (ValueError, ImportError) as error:
            raise UserError(" ".join(str(error).split())) from error
        return parsed, unknown

    def unknown(self, word: str) -> UserError:
        """What to say of a word that is left over."""
        known = [name for action in self._actions for name in action.option_strings]
        flag = word.split("=")[0]
        close = difflib.get_close_matches(flag, known, n=1)
        way_out = f"did you mean {close[0]}?" if close else "see --help."
        return UserError(f"There is no flag {flag}; {way_out}")


def complaint(message: str) -> str:
    """What argparse says, as a sentence that begins with the flag."""
    message = re.sub(r"^argument (--[\w-]+)(/--[\w-]+)*:", r"\1:", " ".join(message.split()))
    return message if message.endswith((".", "?")) else f"{message}."


def flag_names(argv: list[str]) -> set[str]:
    """Names of the flags on a command line, without dashes."""
    return {flag.lstrip("-").split("=")[0].replace("-", "_") for flag in argv if flag[:2] == "--"}


def value_of(flag: str, argv: list[str], default: str) -> str:
    """What one flag is on a command line, before the others are looked at.

    Raises:
        UserError: it is there without a value.
    """
    parser = PlainParser(add_help=False)
    parser.add_argument(f"--{flag}", default=default)
    return str(getattr(parser.parse_known_args(flags_of(argv))[0], flag))


def method_name(argv: list[str]) -> str:
    """What `--adv` is on a command line."""
    return value_of("adv", argv, "none")
