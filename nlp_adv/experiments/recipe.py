"""Recipe files: which methods are trained how, and what is then tried on them."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nlp_adv.errors import UserError
from nlp_adv.folders import unusable_as_name
from nlp_adv.report import PublishedValue
from nlp_adv.yaml_file import read_yaml

_OF_THE_DATA = ("dataset_name", "dataset_config_name", "task_name", "text_columns", "label_column")
_OF_ANY_DATA = ("max_seq_length", "token", "trust_remote_code")
INHERITED = (*_OF_THE_DATA, "test_file", *_OF_ANY_DATA)
# Where a cell is read and written: a recipe's own value would be another cell's, or outside.
_PLACES = ("output_dir", "overwrite_output_dir", "resume_from_checkpoint", "keep_at")


@dataclass(frozen=True)
class Control:
    """A model that is not trained for itself: another one's, less trained or made sharper.

    Args:
        of: the method whose models are taken.
        logits_times: what their logits are multiplied by.
        at: the share of their training after which they are taken; None at its end.

    Raises:
        ValueError: it would be the other model itself, or a number is none of these.
    """

    of: str
    logits_times: float = 1.0
    at: float | None = None

    def __post_init__(self) -> None:
        if not 0 < float(self.logits_times) < math.inf:
            raise ValueError(f"logits_times must be above 0 and finite, not {self.logits_times}")
        if self.at is None and self.logits_times == 1:
            raise ValueError(f"a control of {self.of} needs logits_times or at")
        if self.at is not None and not 0 < float(self.at) < 1:
            raise ValueError(f"at is a share between 0 and 1, not {self.at}")


@dataclass(frozen=True)
class Recipe:
    """What `nlp-adv compare` runs.

    Args:
        title: of the report.
        train: flags of `nlp-adv train` that all methods share.
        attack: flags of `nlp-adv evaluate`.
        methods: name → its own flags of `nlp-adv train`, or a control; the first is the baseline.
        seeds: of the training.
        published: numbers of the literature to stand beside ours.
        primary: method and attack of the comparisons that the recipe is run for; all others are
            looks at the data.
    """

    title: str
    train: Mapping[str, Any]
    attack: Mapping[str, Any]
    methods: Mapping[str, Mapping[str, Any] | Control]
    seeds: tuple[int, ...]
    published: tuple[PublishedValue, ...] = field(default=())
    primary: tuple[tuple[str, str], ...] = ()

    def train_flags(self, method: str, seed: int, folder: Path) -> list[str]:
        """The command line after `nlp-adv train`."""
        own = self.methods[method]
        assert not isinstance(own, Control)
        places = {"seed": seed, "output_dir": str(folder), "overwrite_output_dir": True}
        kept = {"keep_at": self.kept_of(method)} if self.kept_of(method) else {}
        return as_flags({**self.train, **own, **kept, **places})

    def kept_of(self, method: str) -> list[float]:
        """The shares of a method's training whose models are controls."""
        controls = [one for one in self.methods.values() if isinstance(one, Control)]
        return sorted({one.at for one in controls if one.of == method and one.at is not None})

    def attack_flags(self, model: Path, folder: Path) -> list[str]:
        """The command line after `nlp-adv evaluate`."""
        inherited = {key: self.train[key] for key in INHERITED if key in self.train}
        sources = ("test_file", "dataset_name", "task_name")
        if any(key in self.attack for key in sources):  # other texts than those of the training
            inherited = {k: v for k, v in inherited.items() if k in _OF_ANY_DATA}
        places = {"model_name_or_path": str(model), "output_dir": str(folder)}
        return as_flags({**inherited, **self.attack, **places})


def read_recipe(
    path: Path, overrides: Mapping[str, Any], attack_flags: Container[str] = ()
) -> Recipe:
    """A recipe from a YAML file.

    Args:
        path: the file.
        overrides: flags from the command line, which win over the file's; train.NAME and
            attack.NAME say whose they are where both commands have them.
        attack_flags: names that are flags of `nlp-adv evaluate` where nothing is said.

    Raises:
        UserError: the file cannot be read or lacks something.
    """
    content = read_yaml(path, "recipe")
    known = {"title", "train", "attack", "methods", "seeds", "published", "primary"}
    if not isinstance(content, dict) or not {"title", "methods", "seeds"} <= set(content) <= known:
        raise UserError(
            f"The recipe {path} must hold title, methods and seeds, and may hold train, attack, "
            f"published and primary."
        )
    try:
        train, attack = (_flags(content.get(name) or {}, name) for name in ("train", "attack"))
        methods = {name: _method(own or {}, name) for name, own in content["methods"].items()}
        _check_trust(train, attack, *methods.values())
        published = tuple(PublishedValue(**one) for one in content.get("published") or ())
        primary = _primary(content.get("primary") or [], list(methods))
        seeds = _seeds(content["seeds"])
        _check_names(methods)
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"The recipe {path} is not in order: {error}.") from error
    for key, value in overrides.items():
        section, _, name = key.rpartition(".")
        if section not in ("", "train", "attack"):
            raise UserError(f"--{key}: a recipe has the sections train and attack.")
        to_attack = section == "attack" or (not section and name in attack_flags)
        try:
            given = _flags({name: value}, "attack" if to_attack else "train")
        except ValueError as error:
            raise UserError(f"--{key}: {error}.") from error
        (attack if to_attack else train).update(given)
    if not methods or not seeds:
        raise UserError(f"The recipe {path} names no method or no seed.")
    for name, own in methods.items():
        if isinstance(own, Control) and not isinstance(methods.get(own.of), Mapping):
            raise UserError(f"{path}: the control {name} is of {own.of!r}, which is not trained.")
    return Recipe(content["title"], train, attack, methods, seeds, published, primary)


def _check_trust(*sections: Any) -> None:
    """A recipe comes from anywhere, and must not decide whose code is run."""
    if any(isinstance(one, Mapping) and "trust_remote_code" in one for one in sections):
        raise ValueError("trust_remote_code is for the command line, not for a recipe")


def _flags(settings: Any, section: str) -> dict[str, Any]:
    """A section's flags, with underscores, and none of those that say where a cell is written."""
    if not isinstance(settings, dict):
        raise TypeError(f"{section} needs flags by name, not {settings!r}")
    flags: dict[str, Any] = {}
    for key, value in settings.items():
        # "output_dir=elsewhere" would be a flag with its value.
        if not isinstance(key, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", key):
            raise ValueError(f"{key!r} in {section} is no name of a flag")
        name = key.replace("-", "_")
        if name in flags:
            raise ValueError(f"{section} has {name} twice")
        if name in _PLACES or (name == "seed" and section != "attack"):
            raise ValueError(f"{section} cannot set {name}, which each cell has of its own")
        flags[name] = value
    return flags


def _method(own: Any, name: Any) -> Mapping[str, Any] | Control:
    section = f"the method {name}"
    if isinstance(own, dict) and "of" in own:
        return Control(**own)
    return _flags(own, section)


def _primary(given: Any, methods: Sequence[str]) -> tuple[tuple[str, str], ...]:
    if not all(isinstance(one, dict) and set(one) == {"method", "attack"} for one in given):
        raise ValueError("a primary comparison has a method and an attack")
    pairs = tuple((str(one["method"]), str(one["attack"])) for one in given)
    for place, (method, attack) in enumerate(pairs):
        if method not in methods[1:]:
            raise ValueError(
                f"the primary comparison of {method!r} needs a method of the recipe other than its "
                f"first, with which all are compared"
            )
        if (method, attack) in pairs[:place]:
            raise ValueError(f"the primary comparison of {method} under {attack} is there twice")
    return pairs


def _check_names(methods: Mapping[Any, Any]) -> None:
    """Each method has folders of its own, inside the output folder."""
    seen: dict[str, str] = {}
    for name in methods:
        wrong = unusable_as_name(name)
        if wrong is not None:
            raise ValueError(f"the method's name {name!r} {wrong}")
        # Some file systems take the two for one.
        other = seen.setdefault(unicodedata.normalize("NFKC", name).casefold(), name)
        if other != name:
            raise ValueError(f"the methods {other!r} and {name!r} would share a folder")


def _seeds(given: Any) -> tuple[int, ...]:
    if not isinstance(given, list):
        raise TypeError(f"seeds must be a list, not {given!r}")
    return checked_seeds([int(seed) for seed in given])


def checked_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    """The seeds of the training.

    Raises:
        ValueError: one is out of range, or there twice: a cell counts once.
    """
    for place, seed in enumerate(seeds):
        if not 0 <= seed < 2**32:
            raise ValueError(f"the seed {seed} is not between 0 and 2³² − 1")
        if seed in seeds[:place]:
            raise ValueError(f"the seed {seed} is there twice")
    return tuple(seeds)


def as_flags(settings: Mapping[str, Any]) -> list[str]:
    """A mapping as a command line; lists are several values, None is left out."""
    flags: list[str] = []
    for key, value in settings.items():
        values = value if isinstance(value, list | tuple) else [value]
        if value is not None:
            flags += [f"--{key}", *map(str, values)]
    return flags
