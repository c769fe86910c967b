"""The flags of dataclasses: read strictly, and listed so that people can read them."""

from __future__ import annotations

import argparse
import difflib
import json
import re
from collections import defaultdict
from contextlib import suppress
from dataclasses import fields
from shutil import get_terminal_size
from typing import Any, NoReturn, cast

from transformers import HfArgumentParser, TrainingArguments

from nlp_adv.cli.flags import complaint
from nlp_adv.cli.settings import flags_of
from nlp_adv.errors import UserError
from nlp_adv.methods import Modality, all_methods, build, describe
from nlp_adv.sites.normalisation import parse_epsilon
from nlp_adv.training.arguments import AdversarialArguments

_TRAINERS = {one.name for one in fields(TrainingArguments)}
_METHOD = "Adversarial training: the method, its ball and its beginning"
_SINGLE = "Adversarial training: settings of single methods"
_TRAINER = "The Trainer's own, in short (transformers.TrainingArguments)"
# What these mean here; to the Trainer they mean nothing.
_OURS = {
    "do_train": "Train; false scores the model as it is. Default: true.",
    "do_eval": "Score all splits but the training split. Default: true.",
    "do_predict": "Write the answers to the test split, with or without labels, to "
    "predict_results_NAME.txt. Default: false.",
}
_LONGEST_LIST = 60  # characters of choices that are still listed
_KINDS = {int: "INTEGER", str: "TEXT", dict: "JSON"}


class FlagParser(HfArgumentParser):
    """The flags of dataclasses, read strictly.

    Numbers may be written as fractions, as radii in pixels are: 8/255.

    Args:
        kinds: the dataclasses; the first line of each one's docstring is the title of its flags.
        presets: of adversarial training, whose presets stand in the help: "text" or "image".
        **kwargs: of argparse.
    """

    def __init__(self, kinds: Any, *, presets: Modality | None = None, **kwargs: Any) -> None:
        file = "A .json or .yaml file of flags may stand among them; flags beside it win over it."
        kwargs["epilog"] = " ".join([*filter(None, [kwargs.get("epilog")]), file])
        super().__init__(kinds, allow_abbrev=False, formatter_class=_Lines, **kwargs)
        shown = {} if presets is None else _presets(presets)
        for action in self._actions:
            if action.type is float:
                action.type, action.metavar = _number, "NUMBER"
            text = _help_of(action, shown.get(action.dest))
            action.help = text and text.replace("%", "%%")

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

    def read_all(self, argv: list[str]) -> list[Any]:
        """The dataclasses of a command line, or of a file of flags on it.

        Raises:
            UserError: as `read` does, or a flag that is none of theirs.
        """
        parsed, unknown = self.read(flags_of(argv))
        if unknown:
            raise self.unknown(unknown[0])
        return parsed

    def unknown(self, word: str) -> UserError:
        """What to say of a word that is left over."""
        known = [name for action in self._actions for name in action.option_strings]
        flag = word.split("=")[0]
        close = difflib.get_close_matches(flag, known, n=1)
        way_out = f"did you mean {close[0]}?" if close else "see --help."
        return UserError(f"There is no flag {flag}; {way_out}")

    def format_help(self) -> str:
        """The flags in groups: adversarial training first, the Trainer's own last."""
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, [])
        for title, actions in self._groups().items():
            formatter.start_section(title)
            formatter.add_arguments(actions)
            formatter.end_section()
        formatter.add_text(self.epilog)
        return formatter.format_help()

    def _groups(self) -> dict[str, list[argparse.Action]]:
        """The method and what all methods have; what single ones have; the others by their class.

        The fields of adversarial training are in one class with the Trainer's own, or alone.
        """
        groups: dict[str, list[argparse.Action]] = {_METHOD: [], _SINGLE: []}
        title_of = {"help": _TRAINER} | dict.fromkeys(_TRAINERS, _TRAINER)
        for kind in self.dataclass_types:
            if not issubclass(kind, TrainingArguments | AdversarialArguments):
                title = str(kind.__doc__).split("\n")[0].rstrip(".")
                title_of |= {one.name: title for one in fields(cast(Any, kind))}
                groups[title] = []
        shared = {"adv", *AdversarialArguments.__annotations__}
        groups[_TRAINER] = []
        for action in self._actions:
            ours = _METHOD if action.dest in shared else _SINGLE
            groups[title_of.get(action.dest, ours)].append(action)
        groups[_METHOD].sort(key=lambda action: action.dest != "adv")
        return {title: actions for title, actions in groups.items() if actions}


class _Lines(argparse.HelpFormatter):
    """One spelling of each flag, and a word for what it takes in place of its name in capitals."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=36, width=min(100, get_terminal_size().columns))

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.dest == "help":
            return super()._format_action_invocation(action)
        taken = self._format_args(action, _KINDS.get(cast(Any, action.type), "TEXT"))
        if action.nargs == "?":
            taken = "[true|false]"
        choices = "{" + ",".join(map(str, action.choices or ())) + "}"
        if action.choices and len(choices) > _LONGEST_LIST:
            taken = "NAME"
        return " ".join(filter(None, [action.option_strings[0], taken]))


def _number(text: str) -> float:
    return parse_epsilon(text) if "/" in text else float(text)


_number.__name__ = "float"  # argparse says: invalid float value


def _help_of(action: argparse.Action, preset: str | None) -> str | None:
    """What a flag is for and what it is when it is left unset."""
    text = (action.help or "").strip()
    if action.dest == "help":
        return text
    if action.option_strings[0].startswith("--no_"):
        return f"Turns --{action.dest} off."
    if action.dest in _OURS:
        return _OURS[action.dest]
    if action.dest in _TRAINERS:  # whole paragraphs, which the documentation of transformers has
        text = re.split(r"(?<=[.])\s", " ".join(text.split()))[0]
    if preset is not None:
        return f"{text} Preset: {preset}."
    unsaid: tuple[Any, ...] = (None, "", [], {})
    return text if action.default in unsaid else f"{text} Default: {_written(action.default)}."


def _written(value: Any) -> str:
    """A value as it is typed."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return " ".join(map(_written, value))
    value = getattr(value, "value", value)  # of an Enum
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _presets(modality: Modality) -> dict[str, str]:
    """What each field of the methods is where its flag is unset: "3; tavat 2, vat 1"."""
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in all_methods():
        with suppress(ValueError):  # a method of words alone has no preset for images
            settings = describe(build(name, modality=modality))
            for key, value in settings.items() if len(settings) > 1 else ():
                if key != "method":
                    shown = f"{value:.3g}" if isinstance(value, float) else _written(value)
                    found[f"adv_{key}"][shown].append(name)
    texts = {}
    for flag, values in found.items():
        usual, *others = sorted(values, key=lambda value: -len(values[value]))
        apart = [f"{name} {value}" for value in others for name in values[value]]
        texts[flag] = "; ".join([usual, *filter(None, [", ".join(apart)])])
    return texts
