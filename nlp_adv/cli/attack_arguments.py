"""The flags of `nlp-adv attack` and `nlp-adv evaluate` that do not depend on the kind of data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nlp_adv.cli.arguments import ModelArguments, flag
from nlp_adv.errors import UserError
from nlp_adv.report.hub import is_hub_name


@dataclass
class VictimArguments(ModelArguments):
    """The attacked model and the data."""

    model_name_or_path: str = flag("A folder with a saved classifier, or a name on the Hub.", "")
    dataset_name: str | None = flag("A name on the Hub, a saved data set, or a folder of files.")
    dataset_config_name: str | None = flag("Configuration of a data set on the Hub.")
    split: str | None = flag("Of a data set with several: test where it has labels, by default.")
    hub_dataset_id: str | None = flag(
        "OWNER/NAME of the data on the Hub, to write .eval_results/nlp_adv.yaml for a model's page "
        "there; a --dataset_name on the Hub is its own."
    )
    device: str | None = flag("Where the model runs: cuda, cpu, …; an accelerator if there is one.")

    def __post_init__(self) -> None:
        if self.hub_dataset_id is not None and not is_hub_name(self.hub_dataset_id):
            raise UserError(
                f"--hub_dataset_id is OWNER/NAME, such as stanfordnlp/sst2, not "
                f"{self.hub_dataset_id!r}."
            )


@dataclass
class AttackArguments:
    """What is tried on it."""

    attacks: list[str] = field(default_factory=list, metadata={"help": "Their names."})
    target: str | None = flag(
        "Attack towards this class, a name or a number; any wrong answer without."
    )
    max_examples: int | None = flag("Attack a random draw of so many.")
    seed: int = flag("Of the draw and of the attacks.", 0)
    output_dir: str = flag("Where records.jsonl and the report go.", "")


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
