"""The flags of `nlp-adv train` on texts, beside those of every kind of data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nlp_adv.attacks import Ladder
from nlp_adv.cli.arguments import LimitArguments, ModelArguments, ReportArguments, flag
from nlp_adv.data.text import (
    GLUE_TASKS,
    DataSource,
)
from nlp_adv.robustness.embedding import embedding_pgd

if TYPE_CHECKING:
    pass


@dataclass
class TextModelArguments(ModelArguments):
    """Which model; without one and without data, the demo's."""

    config_name: str | None = flag("Its configuration, where it is somewhere else.")
    tokenizer_name: str | None = flag("Its tokenizer, where it is somewhere else.")
    ignore_mismatched_sizes: bool = flag(
        "A head for other labels than the data's begins anew; without, it is an error.", False
    )


@dataclass
class TextDataArguments(LimitArguments):
    """Which sentences; exactly one of a task, a data set or files."""

    task: str = flag(
        "classification of texts or pairs; token-classification of words, such as named entities "
        "(columns tokens and ner_tags); multi-label, any number of classes a text (a column of "
        "lists); or causal-lm, a language model of the texts.",
        "classification",
    )
    task_name: str | None = flag(f"A GLUE task: {', '.join(GLUE_TASKS)}.")
    dataset_name: str | None = flag(
        "A name on the Hub, a saved data set, or a folder with train, validation and test files "
        "(csv, tsv, json, jsonl, their .gz, or parquet)."
    )
    dataset_config_name: str | None = flag("Configuration of a data set on the Hub.")
    train_file: str | None = flag("Training rows.")
    validation_file: str | None = flag("Validation rows.")
    test_file: str | None = flag("Test rows.")
    text_columns: list[str] = field(
        default_factory=list,
        metadata={"help": "The text column, or two for pairs; the usual names are found."},
    )
    label_column: str | None = flag("The label column; the usual names are found.")
    regression: bool | None = flag("Whether labels are scores; decided from them where unset.")
    label_names_file: str | None = flag(
        "A JSON list of the names of tags that are numbers in the data, in their order; for "
        "token-classification."
    )
    max_seq_length: int = flag("Longest input in tokens; longer ones are cut.", 128)

    def source(self, seed: int, token: str | None) -> DataSource:
        """What `load_text_data` reads."""
        beside = ("max_seq_length", "task", "label_names_file")
        own = {key: value for key, value in vars(self).items() if key not in beside}
        own["text_columns"] = tuple(self.text_columns)
        return DataSource(**own, seed=seed, token=token)


@dataclass
class TextReportArguments(ReportArguments):
    """What is measured, and where it may be written."""

    attack_epsilons: list[float] = field(
        default_factory=list,
        metadata={
            "help": "Measure accuracy under a 20-step L2 PGD on the embeddings at these radii, as "
            "shares of the norm of a whole text's embeddings. One token may get all of it: at ε "
            "it moves by √tokens·ε of one token's norm, so the same ε is more in longer texts."
        },
    )

    def attack(self, epsilons: Sequence[float]) -> Ladder:
        """PGD on the embeddings, in units of their norm."""
        return embedding_pgd(tuple(epsilons), steps=self.attack_steps)
