"""Recipe files: which methods are trained how, and what is then tried on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from nlp_adv.cli.attack_arguments import AttackArguments, EmbeddingArguments, VictimArguments
from nlp_adv.errors import UserError
from nlp_adv.robustness.report import PublishedValue

_OF_THE_DATA = ("dataset_name", "dataset_config_name", "task_name", "text_columns", "label_column")
_INHERITED = (*_OF_THE_DATA, "test_file", "max_seq_length")
ATTACK_FLAGS = {
    one.name
    for kind in (VictimArguments, AttackArguments, EmbeddingArguments)
    for one in fields(kind)
} - {*_INHERITED, "model_name_or_path", "model_revision", "cache_dir", "tokenizer_name"}


@dataclass(frozen=True)
class Control:
    """A model that is not trained: another one's, its logits multiplied.

    Args:
        of: the method whose models are taken.
        logits_times: the factor.
    """

    of: str
    logits_times: float


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
    """

    title: str
    train: Mapping[str, Any]
    attack: Mapping[str, Any]
    methods: Mapping[str, Mapping[str, Any] | Control]
    seeds: tuple[int, ...]
    published: tuple[PublishedValue, ...] = field(default=())

    def train_flags(self, method: str, seed: int, folder: Path) -> list[str]:
        """The command line after `nlp-adv train`."""
        own = self.methods[method]
        assert not isinstance(own, Control)
        places = {"seed": seed, "output_dir": str(folder), "overwrite_output_dir": True}
        return as_flags({**self.train, **own, **places})

    def attack_flags(self, model: Path, folder: Path) -> list[str]:
        """The command line after `nlp-adv evaluate`."""
        inherited = {key: self.train[key] for key in _INHERITED if key in self.train}
        sources = ("test_file", "dataset_name", "task_name")
        if any(key in self.attack for key in sources):  # other texts than those of the training
            inherited = {k: v for k, v in inherited.items() if k == "max_seq_length"}
        places = {"model_name_or_path": str(model), "output_dir": str(folder)}
        return as_flags({**inherited, **self.attack, **places})


def read_recipe(path: Path, overrides: Mapping[str, Any]) -> Recipe:
    """A recipe from a YAML file.

    Args:
        path: the file.
        overrides: flags from the command line, which win over the file's; train.NAME and
            attack.NAME say whose they are where both commands have them.

    Raises:
        UserError: the file cannot be read or lacks something.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The recipe {path} cannot be read: {error}.") from error
    except yaml.YAMLError as error:
        raise UserError(f"The recipe {path} is no YAML: {' '.join(str(error).split())}.") from error
    known = {"title", "train", "attack", "methods", "seeds", "published"}
    if not isinstance(content, dict) or not {"title", "methods", "seeds"} <= set(content) <= known:
        raise UserError(
            f"The recipe {path} must hold title, methods and seeds, and may hold train, attack and "
            f"published."
        )
    train, attack = dict(content.get("train") or {}), dict(content.get("attack") or {})
    for key, value in overrides.items():
        section, _, name = key.rpartition(".")
        if section not in ("", "train", "attack"):
            raise UserError(f"--{key}: a recipe has the sections train and attack.")
        to_attack = section == "attack" or (not section and name in ATTACK_FLAGS)
        (attack if to_attack else train)[name] = value
    try:
        methods = {name: _method(own or {}) for name, own in content["methods"].items()}
        published = tuple(PublishedValue(**one) for one in content.get("published") or ())
        seeds = tuple(int(seed) for seed in content["seeds"])
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"The recipe {path} is not in order: {error}.") from error
    if not methods or not seeds:
        raise UserError(f"The recipe {path} names no method or no seed.")
    for name, own in methods.items():
        if isinstance(own, Control) and not isinstance(methods.get(own.of), Mapping):
            raise UserError(f"{path}: the control {name} is of {own.of!r}, which is not trained.")
    return Recipe(content["title"], train, attack, methods, seeds, published)


def _method(own: Any) -> Mapping[str, Any] | Control:
    if not isinstance(own, dict):
        raise TypeError(f"a method needs flags by name, not {own!r}")
    return Control(**own) if "logits_times" in own else own


def as_flags(settings: Mapping[str, Any]) -> list[str]:
    """A mapping as a command line; lists are several values, None is left out."""
    flags: list[str] = []
    for key, value in settings.items():
        values = value if isinstance(value, list | tuple) else [value]
        if value is not None:
            flags += [f"--{key}", *map(str, values)]
    return flags
