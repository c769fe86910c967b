"""What `nlp-adv train` trains: sentences, tokenizer and model, loaded or made for the demo."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute  # type: ignore[import-untyped]
import torch
from datasets import Dataset
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from nlp_adv.cli.arguments import DataArguments, ModelArguments, TrainArguments
from nlp_adv.data import text_demo as demo
from nlp_adv.data.class_names import are_placeholders, classes_of
from nlp_adv.data.files import cause
from nlp_adv.data.labels import in_classes_of
from nlp_adv.data.text import (
    TextData,
    count_overlap,
    in_classes,
    load_text_data,
    tokenized,
    unreadable_rows,
)
from nlp_adv.data.vocabulary import check_vocabulary
from nlp_adv.errors import UserError, foreign_code
from nlp_adv.perturbation.evaluating import evaluating


@dataclass
class Task:
    """Everything a run needs but its arguments."""

    data: TextData
    splits: dict[str, Dataset]
    tokenizer: PreTrainedTokenizerBase
    task_name: str | None
    new_model: Any

    @property
    def evaluated(self) -> list[str]:
        """Splits that are scored."""
        return [name for name in self.splits if name != "train"]

    @property
    def reported(self) -> str | None:
        """The split that the report is about: the test split where there is one."""
        return next((name for name in ("test", "validation") if name in self.splits), None)

    def attacked(self, examples: int, split_name: str | None = None) -> Dataset:
        """The first rows of that split, or of another one."""
        split = self.splits[split_name or str(self.reported)]
        return split.select(range(min(examples, len(split))))

    def check_fits(self, model: PreTrainedModel) -> None:
        """Make sure that the model has an embedding for each token and each place of a text.

        Raises:
            UserError: it has not.
        """
        check_embeddings(model, self.tokenizer)
        longest = max((_longest(split) for split in self.splits.values()), key=len)
        error = self._refusal(model, longest)
        # A model that takes no text at all here may still take one on its own device.
        if error is not None and self._refusal(model, longest[:1]) is None:
            raise UserError(
                f"The model has no place for a text of {len(longest)} tokens, the longest of the "
                f"data ({cause(error)}); pass a smaller --max_seq_length."
            ) from error

    def _refusal(self, model: PreTrainedModel, ids: list[int]) -> Exception | None:
        batch = self.tokenizer.pad([{"input_ids": ids}], return_tensors="pt")
        try:
            with evaluating(model), torch.no_grad():
                model(**batch.to(model.device))
        except (IndexError, RuntimeError) as error:
            return error
        return None


def _longest(split: Dataset) -> list[int]:
    """The token numbers of the longest row; Arrow looks for it without unpacking the others."""
    column: Any = split.with_format("arrow")[:]["input_ids"]
    lengths = pyarrow.compute.list_value_length(column).to_numpy()
    return list(split[int(lengths.argmax())]["input_ids"])


def load_task(arguments: TrainArguments) -> Task:
    """Read or generate the data and load the tokenizer; the model comes with each `new_model()`.

    Raises:
        UserError: data or tokenizer cannot be had.
    """
    if arguments.demo:
        return _load_demo(arguments)
    model, data = arguments.model, load_text_data(arguments.data.source(arguments.training.seed))
    _say_what_is_odd(data)
    if data.label_names is not None:
        data = _as_the_model_has_them(data, data.label_names, _config(model))
    tokenizer = _tokenizer(model)
    texts = (text for column in data.text_columns for text in data.splits["train"][column])
    check_vocabulary(tokenizer, texts, str(model.tokenizer_name or model.model_name_or_path))
    splits = tokenized(data, tokenizer, _max_length(arguments.data, tokenizer))
    _say_what_is_unreadable(unreadable_rows(data, splits, tokenizer), data)
    task = arguments.data.task_name
    return Task(data, splits, tokenizer, task, lambda: _pretrained(model, data, tokenizer))


def _load_demo(arguments: TrainArguments) -> Task:
    seed = arguments.training.seed
    splits = demo.demo_dataset()
    limits = arguments.data.max_train_samples, arguments.data.max_eval_samples
    for name, split in splits.items():
        limit = limits[name != "train"]
        if limit is not None and limit < 1:
            raise UserError("--max_train_samples and --max_eval_samples must be at least 1.")
        if limit is not None:
            splits[name] = split.select(range(min(limit, len(split))))
    names = tuple(splits["train"].features["label"].names)
    data = TextData(dict(splits), ("text",), names)
    tokenizer = demo.demo_tokenizer(splits["train"]["text"])
    encoded = tokenized(data, tokenizer, _max_length(arguments.data, tokenizer))
    return Task(
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


def _config(model: ModelArguments, **labels: Any) -> Any:
    name = str(model.config_name or model.model_name_or_path)
    try:
        return AutoConfig.from_pretrained(
            name,
            cache_dir=model.cache_dir,
            revision=model.model_revision,
            trust_remote_code=False,
            **labels,
        )
    except Exception as error:  # damaged files fail in any way
        raise not_found("configuration", name, error) from error


def _tokenizer(model: ModelArguments) -> PreTrainedTokenizerBase:
    name = model.tokenizer_name or model.model_name_or_path
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            name, cache_dir=model.cache_dir, revision=model.model_revision, trust_remote_code=False
        )
    except Exception as error:  # damaged files fail in any way
        raise not_found("tokenizer", name, error) from error
    return with_padding(tokenizer)


def with_padding(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer with a padding token; decoder-only models come without one.

    Raises:
        UserError: there is no token to take for it.
    """
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise UserError(
                f"The tokenizer {tokenizer.name_or_path} has neither a padding token nor an end "
                f"token, so texts of unlike length make no batch; save it with one: "
                f"tokenizer.pad_token = …"
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check_embeddings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Make sure that the model has an embedding for whatever the tokenizer makes of a text.

    Special tokens that were added and have no role, such as those for images, are left out.

    Raises:
        UserError: it has not.
    """
    rows = getattr(model.get_input_embeddings(), "num_embeddings", None)
    added = getattr(tokenizer, "added_tokens_decoder", {})
    used = set(tokenizer.special_tokens_map.values())
    idle = {n for n, token in added.items() if token.special and str(token) not in used}
    largest = max(set(tokenizer.get_vocab().values()) - idle, default=0)
    if rows is not None and largest >= rows:
        raise UserError(
            f"The tokenizer has tokens up to number {largest}, and the model has embeddings for "
            f"{rows}: they do not belong together; give the model's own (--tokenizer_name)."
        )


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
    config = _config(model, **labels)
    name = str(model.model_name_or_path)
    try:
        loaded: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
            name,
            config=config,
            cache_dir=model.cache_dir,
            revision=model.model_revision,
            trust_remote_code=False,
        )
    except Exception as error:  # damaged files fail in any way
        raise not_found("model", name, error) from error
    if loaded.config.pad_token_id is None:
        loaded.config.pad_token_id = tokenizer.pad_token_id
    return loaded


def not_found(what: str, name: str | None, error: Exception) -> UserError:
    """What to say when a model or a tokenizer cannot be loaded."""
    if "trust_remote_code" in str(error):
        return UserError(foreign_code(what, name))
    if "mismatch" in str(error):
        return UserError(
            f"The {what} {name!r} has a head for other labels than the data; give the folder or "
            f"name of the model without that head."
        )
    if Path(str(name)).is_dir():
        return UserError(f"The folder {name} holds no usable {what}: {cause(error)}.")
    return UserError(
        f"The {what} {name!r} is no folder here and could not be loaded from the Hub "
        f"({cause(error)}); check the name and the network, or give the folder of a saved model."
    )


def _max_length(data: DataArguments, tokenizer: PreTrainedTokenizerBase) -> int:
    if data.max_seq_length < 1:
        raise UserError(f"--max_seq_length is {data.max_seq_length}; give at least 1.")
    return int(min(data.max_seq_length, tokenizer.model_max_length))
