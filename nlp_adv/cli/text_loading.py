"""Texts, tokenizer and model of `nlp-adv train`, from flags or made for the demo."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, cast

from datasets import List
from transformers import (
    AutoConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from nlp_adv.cli.loading import (
    load,
    load_classifier_of,
    say_new_head,
)
from nlp_adv.data import text_demo as demo
from nlp_adv.data.class_names import are_placeholders, classes_of
from nlp_adv.data.labels import in_classes_of
from nlp_adv.data.text import (
    DataSource,
    TextData,
    as_text,
    check_rows,
    count_overlap,
    in_classes,
    tokenized,
    unreadable_rows,
)
from nlp_adv.data.vocabulary import check_vocabulary
from nlp_adv.errors import UserError

if TYPE_CHECKING:
    from nlp_adv.cli.arguments import TrainArguments
    from nlp_adv.cli.text_task import TextTask


from nlp_adv.cli.text_arguments import TextModelArguments


def source_of(arguments: TrainArguments) -> DataSource:
    """Where the texts are that flags name."""
    source: DataSource = arguments.data.source(arguments.training.seed, arguments.model.token)
    return source


def load_parts(arguments: TrainArguments) -> dict[str, Any]:
    """Read or generate the texts, check them and tokenize them: what a `TextTask` is made of.

    Raises:
        UserError: texts or tokenizer cannot be had.
    """
    if arguments.demo:
        return _demo(arguments)
    model, training = arguments.model, arguments.training
    kind = cast("type[TextTask]", arguments.kind)
    data = kind.read(arguments)
    _say_what_is_odd(data, predicted=training.do_predict)
    if data.label_names is not None:
        config = _config(model)
        data = _as_the_model_has_them(data, data.label_names, config)
        if model.ignore_mismatched_sizes:
            say_new_head(config, model.model_name_or_path, len(data.label_names or ()))
    name = str(model.tokenizer_name or model.model_name_or_path)
    tokenizer = kind.load_tokenizer(name, model.hub(name))
    texts = (as_text(one) for column in data.text_columns for one in data.splits["train"][column])
    check_vocabulary(tokenizer, texts, name)
    length = _max_length(arguments.data.max_seq_length, tokenizer)
    splits = kind.tokenized(data, tokenizer, length)
    _say_what_is_unreadable(unreadable_rows(data, splits, tokenizer), data)
    parts: dict[str, Any] = {
        "splits": splits,
        "texts": data.splits["train"] if kind.problem == "single_label_classification" else None,
        "processor": tokenizer,
        "label_names": data.label_names,
        "new_model": lambda: _pretrained(arguments, data, tokenizer),
        "task_name": arguments.data.task_name,
    }
    if training.do_predict:
        parts["predicted"] = _predicted(parts, data, length, kind)
    return parts


def _demo(arguments: TrainArguments) -> dict[str, Any]:
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

    return {
        "splits": encoded,
        "texts": splits["train"],
        "processor": tokenizer,
        "label_names": names,
        "new_model": new,
        "predicted": predicted,
    }


def _predicted(
    parts: dict[str, Any], data: TextData, length: int, kind: type[TextTask]
) -> dict[str, Any]:
    """The test splits, those without labels as well, by the names that run_glue gives them."""
    for name, rows in data.unlabelled.items():
        texts = [one for one in data.text_columns if not isinstance(rows.features.get(one), List)]
        check_rows(name, rows, data.text_columns, texts)
    bare = TextData(dict(data.unlabelled), data.text_columns, None)
    tests = {name: split for name, split in parts["splits"].items() if name.startswith("test")}
    tests |= kind.tokenized(bare, parts["processor"], length)
    task = parts["task_name"]
    if task is None:
        return tests
    names = {"test": task, "test_mismatched": f"{task}-mm"}
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
    arguments: TrainArguments, data: TextData, tokenizer: PreTrainedTokenizerBase
) -> PreTrainedModel:
    model, kind = arguments.model, cast("type[TextTask]", arguments.kind)
    names, name = data.label_names, str(model.model_name_or_path)
    labels: dict[str, Any] = {"num_labels": 1, "problem_type": "regression"}
    if kind.problem is None and names is None:
        labels = {}
    elif names is not None:
        labels = {
            "num_labels": len(names),
            "id2label": dict(enumerate(names)),
            "label2id": {label: index for index, label in enumerate(names)},
            "problem_type": kind.problem,
        }
    loaded = load_classifier_of(
        kind.auto,
        "model",
        name,
        model.hub(name),
        trained=not arguments.trains,
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
