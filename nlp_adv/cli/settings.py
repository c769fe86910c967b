"""Configuration files: a .json or .yaml file of flags, with flags beside it that win over it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from nlp_adv.errors import UserError
from nlp_adv.yaml_file import Unrepeated

_YAML, _ENDINGS = (".yaml", ".yml"), (".json", ".yaml", ".yml")
# Their values are objects; transformers takes them as JSON.
_OBJECTS = (
    "accelerator_config",
    "activation_checkpointing_kwargs",
    "deepspeed",
    "fsdp_config",
    "gradient_checkpointing_kwargs",
    "lr_scheduler_kwargs",
)
# Flags whose value can be a file; after any other, such a word is the configuration file.
_OF_FILES = re.compile(
    r"--(\w+[_-](file|name|path|dir|config|kwargs|checkpoint|id)"
    r"|protocol|neighbours|wordnet|masked[_-]lm|encoder|tagger|(stop|protected)[_-]words|deepspeed|title)"
)


def flags_of(argv: list[str]) -> list[str]:
    """The command line with the flags of its configuration file in place of the file's name.

    The file may stand anywhere: it is the .json, .yaml or .yml word that is no flag's value, or
    follows `--config`. Its flags go first, so that those of the command line win, as argparse
    lets the last of a repeated flag win.

    Raises:
        UserError: the file is not there or does not hold flags, or there are two.
    """
    for word in argv:
        if "\0" in word:
            raise UserError(f"{word!r} holds a null character; leave it out.")
    places = [place for place, _ in enumerate(argv) if _is_file(argv, place)]
    if not places:
        return argv
    if len(places) > 1:
        names = " and ".join(argv[place].removeprefix("--config=") for place in places)
        raise UserError(f"There are several configuration files, {names}; give one.")
    place = places[0]
    name = argv[place].removeprefix("--config=")
    before = argv[: place - (place > 0 and argv[place - 1] == "--config")]
    return [*_flags_in(Path(name)), *before, *argv[place + 1 :]]


def _is_file(argv: list[str], place: int) -> bool:
    word, before = argv[place], argv[place - 1] if place else ""
    if word.startswith("--config=") or before == "--config":
        return True
    if word.startswith("--") or not word.endswith(_ENDINGS):
        return False
    return _OF_FILES.fullmatch(before) is None


def _flags_in(path: Path) -> list[str]:
    flags: list[str] = []
    names: set[str] = set()
    for key, value in read_settings(path).items():
        name = str(key).lstrip("-").replace("-", "_")
        if name in names:
            raise UserError(f"{path} names {name} twice; keep one.")
        names.add(name)
        flags += _as_flag(path, name, value)
    return flags


def _as_flag(path: Path, name: str, value: Any) -> list[str]:
    if value is None:  # left as it is by default
        return []
    if isinstance(value, dict) and name in _OBJECTS:
        return [f"--{name}={json.dumps(value)}"]
    values = value if isinstance(value, list) else [value]
    if any(isinstance(one, dict | list) or one is None for one in values) or not values:
        raise UserError(
            f"{path}: {name} is neither a value nor a list of values ({value}); write it as on the "
            f"command line."
        )
    words = [one if isinstance(one, str) else json.dumps(one) for one in values]
    if len(words) == 1 and (words[0][:1] in ("-", "") or words[0].endswith(_ENDINGS)):
        return [f"--{name}={words[0]}"]  # or it would be taken for a flag, or for another file
    return [f"--{name}", *words]


def read_settings(path: Path) -> dict[str, Any]:
    """The content of a .json or .yaml file that is one object.

    YAML's values stay as they are written, 1e-4 and no included, but for null, true and false.

    Raises:
        UserError: it cannot be read, is something else, or has a key twice.
    """
    kind = "YAML" if path.suffix in _YAML else "JSON"
    try:
        text = path.read_text(encoding="utf-8-sig")
        if kind == "YAML":
            content = _as_written(text)
        else:
            content = json.loads(text, object_pairs_hook=_without_repetition)
    except OSError as error:
        raise UserError(f"{path} cannot be read as {kind}: {error.strerror}.") from error
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as {kind}: {_reason(error)}.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold flags by name, such as adv: freelb in YAML.")
    return content


def _reason(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return " ".join(str(error).split()).rstrip(".")


def _as_written(text: str) -> Any:
    """YAML whose scalars are text, but for those inside an object: nobody else reads them."""
    content, typed = yaml.load(text, _AsWritten), yaml.load(text, Unrepeated)
    if not isinstance(content, dict):
        return content
    pairs = zip(content.items(), typed.values(), strict=True)
    return {key: other if isinstance(value, dict) else value for (key, value), other in pairs}


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key} is there twice")
        found[key] = value
    return found


class _AsWritten(Unrepeated):
    """Scalars as text, for argparse to read, but for null and for true, false, on and off."""


# A copy: the table is SafeLoader's own.
_AsWritten.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith((":null", ":merge"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_AsWritten.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("on|On|ON|off|Off|OFF"), list("oO")
)
