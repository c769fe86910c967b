"""The flags of `nlp-adv attack` and `nlp-adv evaluate` that do not depend on the kind of data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from nlp_adv.cli.arguments import ModelArguments, flag
from nlp_adv.cli.modality import About
from nlp_adv.errors import UserError


@dataclass
class VictimArguments(ModelArguments):
    """The attacked model and the data."""

    model_name_or_path: str = flag(
        "Attack this classifier: a folder with a saved one, or a name on the Hub.", ""
    )
    dataset_name: str | None = flag(
        "Attack these data: a name on the Hub, a saved data set, or a folder of files."
    )
    dataset_config_name: str | None = flag("Take this configuration of a data set on the Hub.")
    split: str | None = flag(
        "Attack this split of a data set; without the flag test, where it has labels."
    )
    hub_dataset_id: str | None = flag(
        "OWNER/NAME of the data on the Hub, to write .eval_results/nlp_adv.yaml for a model's page "
        "there; a --dataset_name on the Hub is its own."
    )
    device: str | None = flag(
        "Run the model here: cuda, cpu, …; without the flag on an accelerator, if there is one."
    )

    def __post_init__(self) -> None:
        from nlp_adv.report.hub import is_hub_name

        if self.hub_dataset_id is not None and not is_hub_name(self.hub_dataset_id):
            raise UserError(
                f"--hub_dataset_id is OWNER/NAME, such as stanfordnlp/sst2, not "
                f"{self.hub_dataset_id!r}."
            )


@dataclass
class AttackArguments:
    """What is tried on it."""

    attacks: list[str] = field(default_factory=list, metadata={"help": "Try these attacks."})
    target: str | None = flag(
        "Attack towards this class, a name or a number; without the flag towards any wrong answer."
    )
    max_examples: int | None = flag(
        "Attack a random draw of so many examples; all without the flag."
    )
    seed: int = flag("Seed the draw and the attacks with this number.", 0)
    output_dir: str = flag("Write records.jsonl and the report into this folder.", "")


class AttackFlags(ABC):
    """Which flags there are for one kind of data; --help needs no more than this."""

    modality: ClassVar[About]
    other: ClassVar[About]
    data_usage: ClassVar[str]  # the flag that names the data

    @classmethod
    @abstractmethod
    def kinds(cls, command: str) -> tuple[type, ...]:
        """The flags of a command."""

    @classmethod
    def elsewhere(cls) -> str:
        """Where the flags of the other kind of data are; "" where the command has one kind."""
        return (
            f"These are the flags for {cls.modality}; --modality {cls.other} --help lists those "
            f"for {cls.other}."
        )


def chosen_split(splits: Iterable[str], wanted: str | None, usual: Sequence[str]) -> str:
    """The split that is attacked.

    Raises:
        UserError: it is not there.
    """
    there = list(splits)
    name = wanted or next((one for one in usual if one in there), "")
    if name not in there:
        raise UserError(f"There is no split {name!r}; --split can be {', '.join(there)}.")
    return name


def class_number(text: str | None, names: Sequence[str]) -> int | None:
    """The class that `--target` names.

    Raises:
        UserError: there is none.
    """
    if text is None:
        return None
    if text in names:
        return names.index(text)
    if text.isdecimal() and int(text) < len(names):
        return int(text)
    shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
    raise UserError(f"There is no class {text!r}; --target can be a number or {shown}.")


def shown_name(name: str) -> str:
    """Of a data set: its folder's, or as it is called on the Hub."""
    return Path(name).resolve().name if Path(name).is_dir() else name
