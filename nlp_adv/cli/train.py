"""`nlp-adv train`: fine-tune a sentence or sentence-pair model and show what an attack leaves."""

import copy
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

from nlp_adv.cli.arguments import DataArguments, ModelArguments, TrainArguments, parse
from nlp_adv.cli.report import RunResult, measure, print_report, write_report
from nlp_adv.errors import UserError
from nlp_adv.methods import METHODS, describe, floor_cost
from nlp_adv.text import demo
from nlp_adv.text.data import TextData, count_overlap, load_text_data, tokenized
from nlp_adv.text.embeddings import find_embedding
from nlp_adv.training.arguments import AdversarialTrainingArguments
from nlp_adv.training.metrics import compute_metrics_for
from nlp_adv.training.trainer import AdversarialTrainer

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


def demo_flags(adv: str) -> list[str]:
    """The demo's defaults, found by measurement; flags that the user gives go before them."""
    settings = _DEMO_RUN | (_DEMO_START if adv != "none" else {})
    if adv in METHODS and hasattr(METHODS[adv].preset(), "ball"):
        settings |= _DEMO_BALL
    return [part for name, value in settings.items() for part in (f"--{name}", value)]


def main(argv: list[str]) -> None:
    """Run the command.

    Raises:
        UserError: anything that the user can mend, before a file is written.
    """
    arguments = parse(argv, demo_flags)
    training = arguments.training
    _check_output_folder(arguments)
    set_seed(training.seed)
    with training.main_process_first():
        task = _load(arguments)
    _check_before_training(arguments, task)
    result = _train(task, training)
    results = [result]
    if arguments.report.compare_plain and training.adv != "none":
        results.insert(0, _train(task, _plain(training)))
    if arguments.report.attack_epsilons:
        for one in results:
            measure(one, task.attacked(arguments.report.attack_examples), arguments.report)
    if training.process_index == 0:
        write_report(training.output_dir, results, arguments.report, demo=arguments.demo)
        print_report(results, arguments.report, demo=arguments.demo)


@dataclass
class _Task:
    """Everything a run needs but its arguments."""

    data: TextData
    splits: dict[str, Dataset]
    tokenizer: PreTrainedTokenizerBase
    task_name: str | None
    new_model: Any

    @property
    def evaluated(self) -> list[str]:
        """Splits that are scored, the one that the report is about last."""
        return [name for name in self.splits if name != "train"]

    def attacked(self, examples: int) -> Dataset:
        """The first rows of the last split: the test split where there is one."""
        split = self.splits[self.evaluated[-1]]
        return split.select(range(min(examples, len(split))))


def _load(arguments: TrainArguments) -> _Task:
    if arguments.demo:
        return _load_demo(arguments)
    model, data = arguments.model, load_text_data(arguments.data.source(arguments.training.seed))
    _say_what_is_odd(data)
    tokenizer = _tokenizer(model)
    splits = tokenized(data, tokenizer, _max_length(arguments.data, tokenizer))
    task = arguments.data.task_name
    return _Task(data, splits, tokenizer, task, lambda: _pretrained(model, data, tokenizer))


def _load_demo(arguments: TrainArguments) -> _Task:
    seed = arguments.training.seed
    splits = demo.demo_dataset()
    limits = arguments.data.max_train_samples, arguments.data.max_eval_samples
    for name, split in splits.items():
        limit = limits[name != "train"]
        if limit is not None:
            splits[name] = split.select(range(min(limit, len(split))))
    names = tuple(splits["train"].features["label"].names)
    data = TextData(dict(splits), ("text",), names)
    tokenizer = demo.demo_tokenizer(splits["train"]["text"])
    encoded = tokenized(data, tokenizer, _max_length(arguments.data, tokenizer))
    return _Task(
        data, encoded, tokenizer, None, lambda: demo.demo_model(tokenizer, len(names), seed)
    )


def _say_what_is_odd(data: TextData) -> None:
    for name, count in count_overlap(data).items():
        if count:
            print(
                f"Warning: {count} of {len(data.splits[name])} {name} texts also occur in the "
                f"training data; scores on them are too good.",
                file=sys.stderr,
            )
    for name in data.unlabelled:
        print(f"Note: the {name} split has no labels and is left out.", file=sys.stderr)


def _tokenizer(model: ModelArguments) -> PreTrainedTokenizerBase:
    name = model.tokenizer_name or model.model_name_or_path
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            name, cache_dir=model.cache_dir, revision=model.model_revision
        )
    except (OSError, ValueError) as error:
        raise _not_found("tokenizer", name, error) from error
    if tokenizer.pad_token is None:  # decoder-only models come without one
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _pretrained(
    model: ModelArguments, data: TextData, tokenizer: PreTrainedTokenizerBase
) -> PreTrainedModel:
    names = data.label_names
    labels: dict[str, Any] = {"num_labels": 1, "problem_type": "regression"}
    if names is not None:
        labels = {
            "num_labels": len(names),
            "id2label": dict(enumerate(names)),
            "label2id": {name: index for index, name in enumerate(names)},
            "problem_type": "single_label_classification",
        }
    source = {"cache_dir": model.cache_dir, "revision": model.model_revision}
    try:
        name = str(model.config_name or model.model_name_or_path)
        config = AutoConfig.from_pretrained(name, **source, **labels)
        name = str(model.model_name_or_path)
        loaded: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
            name, config=config, **source
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise _not_found("model", name, error) from error
    if loaded.config.pad_token_id is None:
        loaded.config.pad_token_id = tokenizer.pad_token_id
    return loaded


def _not_found(what: str, name: str | None, error: Exception) -> UserError:
    if Path(str(name)).is_dir():
        reason = " ".join(str(error).split())
        return UserError(f"The folder {name} holds no {what} for text classification: {reason}")
    return UserError(
        f"The {what} {name!r} is no folder here and could not be loaded from the Hub; check the "
        f"name and the network, or give the folder of a saved model."
    )


def _max_length(data: DataArguments, tokenizer: PreTrainedTokenizerBase) -> int:
    if data.max_seq_length < 1:
        raise UserError(f"--max_seq_length is {data.max_seq_length}; give at least 1.")
    return int(min(data.max_seq_length, tokenizer.model_max_length))


def _check_output_folder(arguments: TrainArguments) -> None:
    folder = Path(str(arguments.training.output_dir))
    resume = arguments.training.resume_from_checkpoint
    if resume in ("true", "True", "last"):
        arguments.training.resume_from_checkpoint = get_last_checkpoint(str(folder))  # type: ignore[no-untyped-call]
        resume = arguments.training.resume_from_checkpoint
        if resume is None:
            raise UserError(f"There is no checkpoint in {folder} to resume from.")
    if resume is not None and not Path(resume).is_dir():
        raise UserError(f"There is no checkpoint {resume} to resume from.")
    if folder.is_file():
        raise UserError(f"--output_dir {folder} is a file; name a folder.")
    taken = folder.is_dir() and any(folder.iterdir())
    if taken and resume is None and not arguments.report.overwrite_output_dir:
        raise UserError(
            f"{folder} is not empty; it may hold another run. Name a new --output_dir, continue "
            f"that run with --resume_from_checkpoint last, or pass --overwrite_output_dir true."
        )


def _check_before_training(arguments: TrainArguments, task: _Task) -> None:
    training = arguments.training
    if not task.evaluated and (training.eval_strategy != "no" or arguments.report.attack_epsilons):
        raise UserError(
            "There is nothing to evaluate on: give a validation or test split, or leave out "
            "--eval_strategy and --attack_epsilons."
        )
    if training.eval_strategy != "no" and "validation" not in task.splits:
        raise UserError("--eval_strategy needs a validation split (--validation_file).")
    if task.data.label_names is None and arguments.report.attack_epsilons:
        raise UserError("--attack_epsilons measures accuracy; regression has none.")
    if training.adv != "none":
        find_embedding(task.new_model(), training.adv_embedding)


def _train(task: _Task, training: AdversarialTrainingArguments) -> RunResult:
    method = training.adversarial_schedule().method
    if training.process_index == 0:
        numbers = {k: v for k, v in describe(method).items() if k != "method"}
        shown = ", ".join(f"{key} {value}" for key, value in numbers.items())
        print(
            f"\nTraining with --adv {method.name}{f' ({shown})' if shown else ''}: a step costs "
            f"at least {floor_cost(method):.3g} ordinary ones. Writing to {training.output_dir}.",
            file=sys.stderr,
        )
    set_seed(training.seed)  # the same head and the same order of batches in every run
    model = task.new_model()
    try:
        trainer = AdversarialTrainer(
            model=model,
            args=training,
            train_dataset=task.splits["train"],
            eval_dataset=task.splits.get("validation"),
            data_collator=DataCollatorWithPadding(task.tokenizer),
            processing_class=task.tokenizer,
            compute_metrics=compute_metrics_for(task.task_name, task.data.label_names),
        )
    except ValueError as error:
        raise UserError(" ".join(str(error).split())) from error
    outcome = trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    trainer.save_model()
    trainer.save_state()
    metrics: dict[str, float] = {}
    for name in task.evaluated:
        scores = trainer.evaluate(task.splits[name], metric_key_prefix=name)
        trainer.save_metrics(name, scores)
        metrics |= scores
    trainer.create_model_card(tasks="text-classification")
    # Mixed precision wraps the model's forward; attacks look at it in its own precision.
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    return RunResult(
        method=method,
        model=model,
        tokenizer=task.tokenizer,
        seconds=outcome.metrics["train_runtime"],
        split=task.evaluated[-1] if task.evaluated else None,
        metrics=metrics,
    )


def _plain(training: AdversarialTrainingArguments) -> AdversarialTrainingArguments:
    """The same run without attack, in a folder inside the run's."""
    plain = copy.copy(training)
    for name in vars(training):
        if name.startswith("adv_") and name not in ("adv_seed", "adv_mend_loss_scaling"):
            setattr(plain, name, AdversarialTrainingArguments.__dataclass_fields__[name].default)
    plain.adv = "none"
    plain.output_dir = str(Path(str(training.output_dir)) / "plain")
    plain.resume_from_checkpoint = None
    plain.push_to_hub = False
    return plain
