"""Sentences and pairs of them: what `nlp-adv train` must know of text."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow.compute  # type: ignore[import-untyped]
import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from nlp_adv.attacks import Ladder
from nlp_adv.cli.arguments import LimitArguments, ModelArguments, ReportArguments, flag
from nlp_adv.cli.loading import (
    check_embeddings,
    load,
    load_classifier_of,
    load_tokenizer,
    say_new_head,
)
from nlp_adv.cli.radius import radius_in_words
from nlp_adv.cli.task import Measured, Task, has_ball
from nlp_adv.data import text_demo as demo
from nlp_adv.data.class_names import are_placeholders, classes_of
from nlp_adv.data.files import cause
from nlp_adv.data.labels import in_classes_of
from nlp_adv.data.text import (
    GLUE_TASKS,
    DataSource,
    TextData,
    check_rows,
    count_overlap,
    in_classes,
    load_text_data,
    tokenized,
    unreadable_rows,
)
from nlp_adv.data.vocabulary import check_vocabulary
from nlp_adv.errors import UserError
from nlp_adv.methods import Method
from nlp_adv.perturbation.evaluating import evaluating
from nlp_adv.perturbation.units import token_share
from nlp_adv.robustness.embedding import STEP_SIZE, embedding_pgd, embedding_robustness
from nlp_adv.robustness.evaluator import embedding_evaluator
from nlp_adv.training.callbacks import Evaluator
from nlp_adv.training.inputs import check_site

if TYPE_CHECKING:
    from nlp_adv.cli.arguments import TrainArguments
    from nlp_adv.training.arguments import AdversarialTrainingArguments


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
    max_seq_length: int = flag("Longest input in tokens; longer ones are cut.", 128)

    def source(self, seed: int, token: str | None) -> DataSource:
        """What `load_text_data` reads."""
        own = {key: value for key, value in vars(self).items() if key != "max_seq_length"}
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


_DATA_FLAGS = {"task_name", "dataset_name", "train_file", "validation_file", "test_file"}
_NEED_DATA = {"text_columns", "label_column", "regression", "tokenizer_name"}
_DEMO_RUN = {
    "num_train_epochs": "4",
    "per_device_train_batch_size": "32",
    "per_device_eval_batch_size": "64",
    "learning_rate": "1.5e-3",
    "weight_decay": "0.01",
    "warmup_steps": "0.1",
    "logging_steps": "94",
    "save_strategy": "no",
    "attack_epsilons": "0.06",
    "compare_plain": "true",
}
# The demo trains from random weights, where an attack from the first step leaves a model that
# answers one class: two fifths of the run are ordinary, and ε then grows over three tenths.
_DEMO_START = {"adv_start_step": "0.4"}
_DEMO_BALL = {"adv_epsilon": "0.1", "adv_ramp_steps": "0.3"}


class TextTask(Task):
    """Sentences or pairs, tokenized; the attack of the table is PGD on the word embeddings."""

    modality, other = "text", "image"
    arguments = (TextModelArguments, TextDataArguments, TextReportArguments)
    examples = "rows"
    demo_note = (
        "The sentences are synthetic, made by this package; the numbers show the tool at work and "
        "say nothing about real text."
    )

    @classmethod
    def is_demo(cls, named: set[str]) -> bool:
        """Neither a model nor data is named."""
        is_demo = not named & {"model_name_or_path", *_DATA_FLAGS}
        if is_demo and named & _NEED_DATA:
            raise UserError(f"--{min(named & _NEED_DATA)} needs data: the demo brings its own.")
        if not is_demo and not ("model_name_or_path" in named and named & _DATA_FLAGS):
            raise UserError(
                "Name a model (--model_name_or_path) and data (--task_name, --dataset_name or "
                "--train_file), or neither for the demo."
            )
        return is_demo

    @classmethod
    def defaults(cls, adv: str, *, demo: bool) -> dict[str, str]:
        """Of the demo alone, found by measurement."""
        if not demo:
            return {}
        start = _DEMO_START if adv != "none" else {}
        return _DEMO_RUN | start | (_DEMO_BALL if has_ball(adv) else {})

    @classmethod
    def folder(cls, *, demo: bool) -> str:
        """Of a run."""
        return "demo" if demo else "run"

    @classmethod
    def load(cls, arguments: TrainArguments) -> TextTask:
        """Read or generate the texts, check them and tokenize them."""
        if arguments.demo:
            return _load_demo(arguments)
        model, training = arguments.model, arguments.training
        data = load_text_data(arguments.data.source(training.seed, model.token))
        _say_what_is_odd(data, predicted=training.do_predict)
        if data.label_names is not None:
            config = _config(model)
            data = _as_the_model_has_them(data, data.label_names, config)
            if model.ignore_mismatched_sizes:
                say_new_head(config, model.model_name_or_path, len(data.label_names or ()))
        name = str(model.tokenizer_name or model.model_name_or_path)
        tokenizer = load_tokenizer(name, model.hub(name))
        texts = (text for column in data.text_columns for text in data.splits["train"][column])
        check_vocabulary(tokenizer, texts, name)
        length = _max_length(arguments.data.max_seq_length, tokenizer)
        splits = tokenized(data, tokenizer, length)
        _say_what_is_unreadable(unreadable_rows(data, splits, tokenizer), data)
        task = cls(
            splits,
            tokenizer,
            data.label_names,
            lambda: _pretrained(model, data, tokenizer, trained=not arguments.trains),
            task_name=arguments.data.task_name,
        )
        if training.do_predict:
            task.predicted = _predicted(task, data, length)
        return task

    def labels(self, split: str) -> list[Any]:
        """Of the rows of a split."""
        return list(self.splits[split]["labels"])

    def check_fits(self, model: PreTrainedModel, arguments: TrainArguments) -> None:
        """An embedding for each token and each place of a text, and one to be perturbed."""
        report, training = arguments.report, arguments.training
        attacked = report.attack_epsilons or report.watch_epsilon is not None
        if attacked or (training.adv != "none" and arguments.trains):
            check_site(model, training)
        check_embeddings(model, self.processor)
        longest = max((_longest(split) for split in self.splits.values()), key=len)
        error = self._refusal(model, longest)
        # A model that takes no text at all here may still take one on its own device.
        if error is not None and self._refusal(model, longest[:1]) is None:
            raise UserError(
                f"The model has no place for a text of {len(longest)} tokens, the longest of the "
                f"data ({cause(error)}); pass a smaller --max_seq_length."
            ) from error

    def _refusal(self, model: PreTrainedModel, ids: list[int]) -> Exception | None:
        batch = self.processor.pad([{"input_ids": ids}], return_tensors="pt")
        try:
            with evaluating(model), torch.no_grad():
                model(**batch.to(model.device))
        except (IndexError, RuntimeError) as error:
            return error
        return None

    def measure(
        self,
        model: PreTrainedModel,
        split: str,
        report: Any,
        training: AdversarialTrainingArguments,
        *,
        progress: str | None,
    ) -> Measured:
        """Under PGD on the embeddings of the first rows."""
        attack: Ladder = report.attack(report.attack_epsilons)
        batches, name = self._batches(split, report.attack_examples), training.adv_embedding
        found = embedding_robustness(model, batches, attack, embedding=name, progress=progress)
        tokens = float(found.tokens.double().median())
        shares = {
            e: token_share(e, tokens, norm=attack.norm, per=attack.per) for e in attack.epsilons
        }
        shown = ", ".join(f"{100 * shares[e]:.2g} %" for e in sorted(shares))
        return Measured(
            found.examples,
            found.clean_accuracy,
            {epsilon: found.accuracy(epsilon) for epsilon in attack.epsilons},
            f"PGD: accuracy on its first {found.examples} rows, to be read beside the clean one of "
            f"these rows, under projected gradient ascent on the word embeddings, in steps from "
            f"{attack.attack.step_size:g}·ε down; ε is the L2 norm of a sentence's perturbation, "
            f"as a share of its embeddings' norm. One token may get all of it: {shown} of one "
            f"token's norm in a row of {tokens:g} tokens, the median; in longer texts the same ε "
            f"is more.",
            found.is_constant,
            {"share_of_a_token": {str(epsilon): share for epsilon, share in shares.items()}},
            found.doubts,
        )

    def evaluator(self, report: Any, training: AdversarialTrainingArguments) -> Evaluator:
        """PGD on the first validation rows."""
        batches = self._batches("validation", report.attack_examples)
        attack = report.attack([report.watch_epsilon])
        return embedding_evaluator(batches, attack, embedding=training.adv_embedding)

    def attack_in_json(self, report: Any) -> dict[str, Any]:
        """The attack of the table."""
        return {
            "kind": "embedding PGD on the logit margin",
            "norm": "l2",
            "per": "example",
            "unit": "relative",
            "steps": report.attack_steps,
            "step_size": STEP_SIZE,
            "epsilons": report.attack_epsilons,
        }

    def radius_in_words(
        self, method: Method, model: PreTrainedModel, training: AdversarialTrainingArguments
    ) -> str | None:
        """ε beside the norm of the embeddings."""
        return radius_in_words(method, model, self.processor, self.splits["train"], training)

    def for_trainer(self) -> dict[str, Any]:
        """With a collator that pads."""
        return super().for_trainer() | {"data_collator": DataCollatorWithPadding(self.processor)}

    def _batches(self, split: str, count: int) -> DataLoader[Any]:
        """The first rows as batches, like lengths together to spare padding."""
        rows = self.splits[split]
        rows = rows.select(range(min(count, len(rows))))
        lengths = [len(ids) for ids in rows["input_ids"]]
        rows = rows.select(sorted(range(len(rows)), key=lengths.__getitem__))
        collate = DataCollatorWithPadding(self.processor)
        return DataLoader(rows.with_format("torch"), batch_size=64, collate_fn=collate)


def _longest(split: Dataset) -> list[int]:
    """The token numbers of the longest row; Arrow looks for it without unpacking the others."""
    column: Any = split.with_format("arrow")[:]["input_ids"]
    lengths = pyarrow.compute.list_value_length(column).to_numpy()
    return list(split[int(lengths.argmax())]["input_ids"])


def _load_demo(arguments: TrainArguments) -> TextTask:
    seed, limits = arguments.training.seed, arguments.data
    splits = demo.demo_dataset()
    for name, split in splits.items():
        limit = limits.max_train_samples if name == "train" else limits.max_eval_samples
        splits[name] = split.select(range(min(limit or len(split), len(split))))
    names = tuple(splits["train"].features["label"].names)
    data = TextData(dict(splits), ("text",), names)
    tokenizer = demo.demo_tokenizer(splits["train"]["text"])
    length = _max_length(limits.max_seq_length, tokenizer)
    encoded = tokenized(data, tokenizer, length)
    predicted = {"test": encoded["test"]} if arguments.training.do_predict else {}

    def new() -> PreTrainedModel:
        return demo.demo_model(tokenizer, len(names), seed)

    return TextTask(encoded, tokenizer, names, new, predicted)


def _predicted(task: TextTask, data: TextData, length: int) -> dict[str, Any]:
    """The test splits, those without labels as well, by the names that run_glue gives them."""
    for name, rows in data.unlabelled.items():
        check_rows(name, rows, data.text_columns, data.text_columns)
    bare = TextData(dict(data.unlabelled), data.text_columns, None)
    tests = {name: split for name, split in task.splits.items() if name.startswith("test")}
    tests |= tokenized(bare, task.processor, length)
    if task.task_name is None:
        return tests
    names = {"test": task.task_name, "test_mismatched": f"{task.task_name}-mm"}
    return {names[key]: rows for key, rows in tests.items()}


def _say_what_is_odd(data: TextData, *, predicted: bool) -> None:
    for name, count in count_overlap(data).items():
        if count:
            print(
                f"Warning: {count} of {len(data.splits[name])} {name} texts also occur in the "
                f"training data; scores on them are too good.",
                file=sys.stderr,
            )
    for name in data.unlabelled:
        done = "is not scored" if predicted else "is left out"
        print(f"Note: the {name} split has no labels and {done}.", file=sys.stderr)


def _say_what_is_unreadable(rows: dict[str, list[int]], data: TextData) -> None:
    """Rows without a text are trained on, as elsewhere; a split of nothing else is a mistake."""
    for name, found in rows.items():
        count = len(data.splits[name])
        if len(found) == count:
            raise UserError(
                f"There is nothing to read in any row of the {name} split; check "
                f"{' and '.join(map(repr, data.text_columns))}, or name other --text_columns."
            )
        if found:
            print(
                f"Warning: {len(found)} of {count} {name} rows hold nothing to read (the first is "
                f"row {found[0] + 1} of those in use); a model can learn no more from them than "
                f"which label is frequent, so remove them.",
                file=sys.stderr,
            )


def _as_the_model_has_them(data: TextData, names: tuple[str, ...], config: Any) -> TextData:
    """The data with the model's class numbers and names, where it has classes of that kind."""
    numbers, own = in_classes_of(config, names)
    if own == names and not are_placeholders(known := classes_of(config)) and own != tuple(known):
        print(
            f"Note: the model's classes {', '.join(known)} become those of the data: "
            f"{', '.join(names)}.",
            file=sys.stderr,
        )
    return in_classes(data, numbers, own)


def _config(model: TextModelArguments, **labels: Any) -> Any:
    name = str(model.config_name or model.model_name_or_path)
    return load(AutoConfig, "configuration", name, model.hub(name), **labels)


def _pretrained(
    model: TextModelArguments, data: TextData, tokenizer: PreTrainedTokenizerBase, *, trained: bool
) -> PreTrainedModel:
    names, name = data.label_names, str(model.model_name_or_path)
    labels: dict[str, Any] = {"num_labels": 1, "problem_type": "regression"}
    if names is not None:
        labels = {
            "num_labels": len(names),
            "id2label": dict(enumerate(names)),
            "label2id": {label: index for index, label in enumerate(names)},
            "problem_type": "single_label_classification",
        }
    loaded = load_classifier_of(
        AutoModelForSequenceClassification,
        "model",
        name,
        model.hub(name),
        trained=trained,
        config=_config(model, **labels),
        ignore_mismatched_sizes=model.ignore_mismatched_sizes,
    )
    if loaded.config.pad_token_id is None:
        loaded.config.pad_token_id = tokenizer.pad_token_id
    return loaded


def _max_length(length: int, tokenizer: PreTrainedTokenizerBase) -> int:
    if length < 1:
        raise UserError(f"--max_seq_length is {length}; give at least 1.")
    return int(min(length, tokenizer.model_max_length))
