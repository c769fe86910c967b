"""`nlp-adv augment`: its flags; the run itself takes seconds longer to import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nlp_adv.cli import attack
from nlp_adv.cli.arguments import flag
from nlp_adv.cli.text_attack_arguments import TextAttackArguments, TextFlags, TextVictimArguments
from nlp_adv.robustness.processes import launched


@dataclass
class AugmentVictimArguments(TextVictimArguments):
    """The attacked model and the texts."""

    train_file: str | None = flag(
        "Attack the labelled texts of this file: csv, tsv, json, jsonl, their .gz, parquet."
    )
    test_file: str | None = flag(
        "This flag of attack is refused here: what is trained on is attacked."
    )
    split: str | None = flag("Attack this split of a data set; without the flag train.")


@dataclass
class AugmentArguments:
    """What is written."""

    keep: Literal["fooled", "changed"] = flag(
        "Keep, with fooled, the texts that changed a right answer; with changed, the last try at "
        "the others too.",
        "fooled",
    )
    originals: bool = flag("Write the rows that were there as well.", True)


class AugmentFlags(TextFlags):
    """Those of `attack`, and what is written."""

    data_usage = "--train_file FILE"

    @classmethod
    def kinds(cls, command: str) -> tuple[type, ...]:
        """The classes."""
        return (AugmentVictimArguments, TextAttackArguments, AugmentArguments)

    @classmethod
    def elsewhere(cls) -> str:
        """Images are augmented while they are trained on."""
        return ""


def main(argv: list[str]) -> None:
    """Run the command."""
    attack.run("augment", argv, launched())
