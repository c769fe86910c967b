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

    config_name: str | None = flag("Take its configuration from here, where it is somewhere else.")
    tokenizer_name: str | None = flag("Take its tokenizer from here, where it is somewhere else.")
    ignore_mismatched_sizes: bool = flag(
        "Let a head for other labels than the data's begin anew; without the flag it is an error.",
        False,
    )


@dataclass
class TextDataArguments(LimitArguments):
    """Which sentences; exactly one of a task, a data set or files."""

    task: str = flag(
        "Train for classification of texts or pairs; token-classification of words, such as "
        "entities (columns tokens and ner_tags); multi-label, any number of classes a text (a "
        "column of lists); or causal-lm, a language model of the texts.",
        "classification",
    )
    task_name: str | None = flag(f"Train on this GLUE task: {', '.join(GLUE_TASKS)}.")
    dataset_name: str | None = flag(
        "Or on this data set: a name on the Hub, a saved one, or a folder of train, validation, "
        "test (csv, tsv, json, jsonl, their .gz, or parquet)."
    )
    dataset_config_name: str | None = flag("Take this configuration of a data set on the Hub.")
    train_file: str | None = flag("Or on the rows of this file.")
    validation_file: str | None = flag("Validate on the rows of this file.")
    test_file: str | None = flag("Test on the rows of this file.")
    text_columns: list[str] = field(
        default_factory=list,
        metadata={"help": "Read this column, or two for pairs; the usual names are found."},
    )
    label_column: str | None = flag("Read labels from this column; the usual names are found.")
    regression: bool | None = flag(
        "Take labels for scores, or for classes; without the flag they decide."
    )
    label_names_file: str | None = flag(
        "Read the names of tags that are numbers in the data from this JSON list, in their order; "
        "for token-classification."
    )
    max_seq_length: int = flag("Cut inputs to so many tokens.", 128)

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
