"""Flags on a command line: read, named, and refused in one sentence."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Sequence
from typing import Any, NoReturn

from nlp_adv.cli.settings import flags_of
from nlp_adv.errors import UserError, meant

# As argparse says it; the quotes of the choices are gone in later versions of Python.
_CHOICE = re.compile(r"^(--[\w-]+): invalid choice: '(.*)' \(choose from (.*)\)$")


class PlainParser(argparse.ArgumentParser):
    """argparse, whose complaints are UserErrors of one sentence."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)
        for action in self._actions:
            if action.dest == "help":
                action.help = "Show these flags and exit."

    def error(self, message: str) -> NoReturn:
        """Refuse a command line.

        Raises:
            UserError: always.
        """
        if words := re.fullmatch(r"unrecognized arguments: (\S+).*", message, re.DOTALL):
            known = [name for action in self._actions for name in action.option_strings]
            raise unknown_flag(words[1], known)
        raise UserError(complaint(message))


def complaint(message: str) -> str:
    """What argparse says, as a sentence that begins with the flag."""
    message = re.sub(r"^argument (--[\w-]+)(/--[\w-]+)*:", r"\1:", " ".join(message.split()))
    if found := _CHOICE.search(message):
        flag, given, choices = found.groups()
        there = [choice.strip("'") for choice in choices.split(", ")]
        near = meant(given, there)
        way_out = f"{near} It" if near else "it"
        return f"{flag} cannot be {given!r}; {way_out} can be {', '.join(there)}."
    return message if message.endswith((".", "?")) else f"{message}."


def unknown_flag(word: str, known: Sequence[str]) -> UserError:
    """What to say of a word that is left over."""
    flag = word.split("=")[0]
    return UserError(f"There is no flag {flag}; {meant(flag, known) or 'see --help.'}")


def flag_names(argv: list[str]) -> set[str]:
    """Names of the flags on a command line, without dashes."""
    return {flag.lstrip("-").split("=")[0].replace("-", "_") for flag in argv if flag[:2] == "--"}


def by_name(words: Sequence[str]) -> dict[str, list[str]]:
    """Each flag with its values, the last where it is there twice.

    Words before the first flag stand under "".
    """
    flags: dict[str, list[str]] = {"": []}
    values = flags[""]
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            values = flags[name.replace("-", "_")] = [value] if equals else []
        else:
            values.append(word)
    return flags


def values_of(argv: list[str], names: Sequence[str]) -> dict[str, str | None]:
    """What some flags are on a command line, before the others are looked at; None where unset.

    Raises:
        UserError: one is there without a value.
    """
    parser = PlainParser(add_help=False)
    for name in names:
        parser.add_argument(*{f"--{name}": 0, f"--{name.replace('_', '-')}": 0})
    return vars(parser.parse_known_args(flags_of(argv))[0])


def command_line(command: str, argv: Sequence[str]) -> str:
    """What was typed, but for tokens."""
    words = [re.sub(r"^(--(hub[_-])?token=).*", r"\1…", word) for word in argv]
    for place, word in enumerate(words[:-1]):
        if re.fullmatch(r"--(hub[_-])?token", word):
            words[place + 1] = "…"
    return shlex.join(["nlp-adv", command, *words])
