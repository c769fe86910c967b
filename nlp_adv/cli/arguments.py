"""The flags of `nlp-adv train`, beside those of TrainingArguments and of adversarial training."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from nlp_adv.cli.flags import FlagParser, flag_names, method_name
from nlp_adv.cli.numbers import check_numbers
from nlp_adv.cli.settings import flags_of
from nlp_adv.data.text import GLUE_TASKS, DataSource
from nlp_adv.errors import UserError
from nlp_adv.robustness.embedding import EmbeddingPGD
from nlp_adv.training.arguments import AdversarialTrainingArguments


def _flag(text: str, default: Any = None) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class ModelArguments:
    """Which model; without one and without data, the demo's."""

    model_name_or_path: str | None = _flag("A folder with a saved model, or a name on the Hub.")
    config_name: str | None = _flag("Its configuration, where it is somewhere else.")
    tokenizer_name: str | None = _flag("Its tokenizer, where it is somewhere else.")
    cache_dir: str | None = _flag("Where downloads from the Hub are kept.")
    model_revision: str = _flag("Branch, tag or commit on the Hub.", "main")


@dataclass
class DataArguments:
    """Which sentences; exactly one of a task, a data set or files."""

    task_name: str | None = _flag(f"A GLUE task: {', '.join(GLUE_TASKS)}.")
    dataset_name: str | None = _flag(
        "A name on the Hub, a saved data set, or a folder with train, validation and test files "
        "(csv, tsv, json, jsonl, their .gz, or parquet)."
    )
    dataset_config_name: str | None = _flag("Configuration of a data set on the Hub.")
    train_file: str | None = _flag("Training rows.")
    validation_file: str | None = _flag("Validation rows.")
    test_file: str | None = _flag("Test rows.")
    text_columns: list[str] = field(
        default_factory=list,
        metadata={"help": "The text column, or two for pairs; the usual names are found."},
    )
    label_column: str | None = _flag("The label column; the usual names are found.")
    regression: bool | None = _flag("Whether labels are scores; decided from them where unset.")
    max_seq_length: int = _flag("Longest input in tokens; longer ones are cut.", 128)
    max_train_samples: int | None = _flag("Train on a random draw of so many rows.")
    max_eval_samples: int | None = _flag("Evaluate on the first so many rows of each split.")

    def source(self, seed: int) -> DataSource:
        """What `load_text_data` reads."""
        return DataSource(
            task_name=self.task_name,
            dataset_name=self.dataset_name,
            dataset_config_name=self.dataset_config_name,
            train_file=self.train_file,
            validation_file=self.validation_file,
            test_file=self.test_file,
            text_columns=tuple(self.text_columns),
            label_column=self.label_column,
            regression=self.regression,
            max_train_samples=self.max_train_samples,
            max_eval_samples=self.max_eval_samples,
            seed=seed,
        )


@dataclass
class ReportArguments:
    """What is measured after training, and where it may be written.

    Raises:
        UserError: a setting of the attack that is out of range.
    """

    attack_epsilons: list[float] = field(
        default_factory=list,
        metadata={
            "help": "Measure accuracy under a 20-step L2 PGD on the embeddings at these radii, as "
            "shares of the norm of a whole text's embeddings. One token may get all of it: at ε "
            "it moves by √tokens·ε of one token's norm, so the same ε is more in longer texts."
        },
    )
    attack_steps: int = _flag("Steps of that attack.", 20)
    attack_examples: int = _flag("Attack the first so many rows of the evaluation split.", 500)
    watch_epsilon: float | None = _flag(
        "Measure accuracy under that attack at this radius at every evaluation; "
        "--metric_for_best_model robust_accuracy then keeps the most robust checkpoint."
    )
    compare_plain: bool = _flag(
        "Train without attack from the same initialisation as well, for the table.", False
    )
    overwrite_output_dir: bool = _flag("Write over another run in --output_dir.", False)

    def __post_init__(self) -> None:
        if self.attack_examples < 1:
            raise UserError(f"--attack_examples is {self.attack_examples}; give at least 1.")
        watched = [] if self.watch_epsilon is None else [self.watch_epsilon]
        for flag, epsilons in (
            ("attack_epsilons", self.attack_epsilons),
            ("watch_epsilon", watched),
        ):
            check_radii(flag, epsilons)
        self._attack([*self.attack_epsilons, *watched] or [1.0])  # the steps, also without radii

    def attack(self) -> EmbeddingPGD:
        """The attack that the report is about."""
        return self._attack(self.attack_epsilons)

    def watched(self) -> EmbeddingPGD:
        """The attack of every evaluation."""
        return self._attack([self.watch_epsilon])

    def _attack(self, epsilons: list[Any]) -> EmbeddingPGD:
        try:
            return EmbeddingPGD(tuple(epsilons), steps=self.attack_steps)
        except ValueError as error:
            raise UserError(
                f"--attack_epsilons, --watch_epsilon, --attack_steps: {error}"
            ) from error


class TrainArguments(NamedTuple):
    """All flags of `nlp-adv train`."""

    model: ModelArguments
    data: DataArguments
    report: ReportArguments
    training: AdversarialTrainingArguments
    demo: bool


_DATA_FLAGS = ("task_name", "dataset_name", "train_file", "validation_file", "test_file")


def parse(
    argv: list[str],
    demo_flags: Callable[[str], list[str]],
    *,
    command: str = "train",
    more: tuple[type, ...] = (),
) -> TrainArguments:
    """Flags, or a file of them, as dataclasses.

    Args:
        argv: the command line after the command.
        demo_flags: method → defaults of the demo, which runs when neither a model nor data is
            named.
        command: its name, for the help.
        more: dataclasses of further flags, which are taken here and read elsewhere.

    Raises:
        UserError: a value that TrainingArguments or a method refuses, or half of model and data.
    """
    parser = FlagParser(
        (*more, ModelArguments, DataArguments, ReportArguments, AdversarialTrainingArguments),
        prog=f"nlp-adv {command}",
        usage=f"nlp-adv {command} [flags]   (nlp-adv {command} --help lists them)",
    )
    argv = flags_of(argv)
    named = flag_names(argv)
    demo = not named & {"model_name_or_path", *_DATA_FLAGS}
    meaningless = named & {"text_columns", "label_column", "regression", "tokenizer_name"}
    if demo and meaningless:
        raise UserError(f"--{meaningless.pop()} needs data: the demo brings its own.")
    if not demo and not ("model_name_or_path" in named and named & set(_DATA_FLAGS)):
        raise UserError(
            "Name a model (--model_name_or_path) and data (--task_name, --dataset_name or "
            "--train_file), or neither for the demo."
        )
    # argparse lets the last of a repeated flag win, so defaults go first.
    defaults = [] if torch.accelerator.is_available() else ["--dataloader_pin_memory", "false"]
    parsed, unknown = parser.read(
        [*defaults, *(demo_flags(method_name(argv)) if demo else []), *argv]
    )
    if unknown:
        raise parser.unknown(unknown[0])
    model, data, report, training = parsed[len(more) :]
    check_numbers(training)
    if "output_dir" not in named:
        name = "demo" if demo else "run"
        training.output_dir = unused_folder(f"runs/{name}-{training.adv}")
    return TrainArguments(model, data, report, training, demo)


def check_radii(flag: str, epsilons: Sequence[float]) -> None:
    """Refuse radii that are none.

    Raises:
        UserError: one is not finite and above 0, or two are written alike.
    """
    for epsilon in epsilons:
        if not 0 < epsilon < math.inf:
            raise UserError(
                f"--{flag} is {epsilon:g}: a radius is a finite number above 0; accuracy without "
                f"attack is measured anyway."
            )
    named = [f"{epsilon:g}" for epsilon in epsilons]
    if len(set(named)) < len(named):
        raise UserError(f"--{flag} names a radius twice: {', '.join(named)}.")


def unused_folder(stem: str) -> str:
    """`stem`, or with the first number after it that gives a folder that is not there.

    Raises:
        UserError: several processes would each choose one.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("Several processes must share one folder: name it with --output_dir.")
    number, folder = 1, stem
    while Path(folder).exists():
        number, folder = number + 1, f"{stem}-{number + 1}"
    return folder
