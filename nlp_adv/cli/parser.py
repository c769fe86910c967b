"""The flags of dataclasses: read strictly, and listed so that people can read them."""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import fields
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any, NoReturn, cast

from transformers import HfArgumentParser

from nlp_adv.cli.flags import complaint, unknown_flag
from nlp_adv.cli.settings import flags_of
from nlp_adv.cli.themes import is_trainers, names_of_trainers, theme_of, themes
from nlp_adv.errors import UserError

if TYPE_CHECKING:
    from nlp_adv.methods import Modality

_METHOD = "Adversarial training: the method, its ball and its beginning"
_SINGLE = "Adversarial training: settings of single methods"
_HELP = "This list"
# What these mean here; to the Trainer they mean nothing.
_OURS = {
    "do_train": "Train; false scores the model as it is. Default: true.",
    "do_eval": "Score all splits but the training split. Default: true.",
    "do_predict": "Write the answers to the test split, with or without labels, to "
    "predict_results_NAME.txt. Default: false.",
}
_LONGEST_LIST = 60  # characters of choices that are still listed
_KINDS = {"int": "INTEGER", "str": "TEXT", "dict": "JSON", "string_to_bool": "true|false"}


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
        self._trainers = names_of_trainers(self.dataclass_types)
        self._adversarial: tuple[type, ...] = ()
        shown: dict[str, str] = {}
        if presets is not None:  # the flags of an attack's help need neither of these
            from nlp_adv.cli.presets import presets as of_methods
            from nlp_adv.training.arguments import AdversarialArguments

            self._adversarial, shown = (AdversarialArguments,), of_methods(presets)
        for action in self._actions:
            if action.type is float:
                action.type, action.metavar = _number, "NUMBER"
            text = self._help_of(action, shown.get(action.dest))
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
        return unknown_flag(word, known)

    def format_help(self) -> str:
        """The flags in groups: adversarial training first, the Trainer's own by theme last."""
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, [])
        for title, actions in self._groups().items():
            formatter.start_section(title)
            formatter.add_arguments(actions)
            formatter.end_section()
        formatter.add_text(self.epilog)
        return formatter.format_help()

    def _help_of(self, action: argparse.Action, preset: str | None) -> str | None:
        """What a flag is for and what it is when it is left unset."""
        text = (action.help or "").strip()
        if action.dest == "help":
            return "Show these flags and exit."
        if action.option_strings[0].startswith("--no_"):
            return f"Turns --{action.dest} off."
        if action.dest in _OURS:
            return _OURS[action.dest]
        if action.dest in self._trainers:  # paragraphs, which the documentation of transformers has
            text = re.split(r"(?<=[.])\s", " ".join(text.split()))[0]
            text = text if text.endswith(".") else f"{text}."
        if preset is not None:
            return f"{text} Preset: {preset}."
        unsaid: tuple[Any, ...] = (None, "", [], {})
        return text if action.default in unsaid else f"{text} Default: {_written(action.default)}."

    def _groups(self) -> dict[str, list[argparse.Action]]:
        """The method and what all methods have; what single ones have; the others by their class.

        The fields of adversarial training are in one class with the Trainer's own, or alone.
        """
        groups: dict[str, list[argparse.Action]] = {_METHOD: [], _SINGLE: []}
        title_of = {"help": _HELP} | {name: theme_of(name) for name in self._trainers}
        shared = {name for one in self._adversarial for name in ("adv", *one.__annotations__)}
        for kind in self.dataclass_types:
            if not issubclass(kind, self._adversarial) and not is_trainers(kind):
                title = str(kind.__doc__).split("\n")[0].rstrip(".")
                title_of |= {one.name: title for one in fields(cast(Any, kind))}
                groups[title] = []
        groups |= {title: [] for title in (*themes(), _HELP)}
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
        taken = self._format_args(action, _KINDS.get(getattr(action.type, "__name__", ""), "TEXT"))
        if action.nargs == "?":
            taken = "[true|false]"
        choices = "{" + ",".join(map(str, action.choices or ())) + "}"
        if action.choices and len(choices) > _LONGEST_LIST:
            taken = "NAME"
        return " ".join(filter(None, [action.option_strings[0], taken]))


def _number(text: str) -> float:
    if "/" not in text:
        return float(text)
    from nlp_adv.sites.normalisation import parse_epsilon

    return parse_epsilon(text)


_number.__name__ = "float"  # argparse says: invalid float value


def _written(value: Any) -> str:
    """A value as it is typed."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return " ".join(map(_written, value))
    value = getattr(value, "value", value)  # of an Enum
    return f"{value:.6g}" if isinstance(value, float) else str(value)
