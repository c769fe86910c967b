"""Labelled text: checked, with numbers for labels, and tokenized."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from datasets import ClassLabel, Dataset, List, Value

from nlp_adv.data.blank import as_text, is_blank
from nlp_adv.data.labels import encode_labels, is_unlabelled
from nlp_adv.data.sources import GLUE_TASKS, DataSource, read_splits
from nlp_adv.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "GLUE_TASKS",
    "DataSource",
    "TextData",
    "as_text",
    "check_rows",
    "count_overlap",
    "find_columns",
    "in_classes",
    "is_blank",
    "load_text_data",
    "tokenized",
    "unreadable_rows",
]

_PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("question1", "question2"),
    ("question", "answer"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("sentence_A", "sentence_B"),
)
_SINGLES = ("text", "sentence", "content", "review", "document", "comment", "tweet", "question")
_LABELS = ("label", "labels", "target", "class", "category", "sentiment", "score", "rating")


@dataclass(frozen=True)
class TextData:
    """Labelled splits that have passed every check.

    Attributes:
        splits: ``train`` and those of ``validation``, ``validation_mismatched``, ``test`` and
            ``test_mismatched`` that the source has; nothing is held out of ``train``. Columns: the
            text columns and ``label`` (a class number, or a float for regression; a list of class
            numbers where a row has several).
        text_columns: One column, or two for pairs; of words, one that holds lists.
        label_names: The class names in the order of their numbers, or None for regression.
        unlabelled: Test splits without labels (no column, or all -1), their text columns alone.
    """

    splits: dict[str, Dataset]
    text_columns: tuple[str, ...]
    label_names: tuple[str, ...] | None
    unlabelled: Mapping[str, Dataset] = field(default_factory=dict)


def load_text_data(source: DataSource) -> TextData:
    """Read, check and label the splits of a source.

    Class numbers follow the train split: the declared names of a ``ClassLabel``, else numbers in
    numeric order, else words in alphabetical order. Numbers written as text count as numbers.

    Raises:
        UserError: The source, a column, a row or a label is missing or wrong.
    """
    raw = raw_splits(source)
    texts, label = find_columns(raw["train"].column_names, source)
    unlabelled = {
        name: split.select_columns([one for one in texts if one in split.column_names])
        for name, split in raw.items()
        if is_unlabelled(name, raw, label)
    }
    kept = {name: split for name, split in raw.items() if name not in unlabelled}
    for name, split in kept.items():
        check_rows(name, split, (*texts, label), texts)
    labels, names = encode_labels(kept, label, source)
    feature = Value("float32") if names is None else ClassLabel(names=list(names))
    splits = {
        name: limited(
            split.select_columns(list(texts)).add_column("label", labels[name], feature=feature),
            name,
            source,
        )
        for name, split in kept.items()
    }
    return TextData(splits, texts, names, unlabelled)


def raw_splits(source: DataSource) -> dict[str, Dataset]:
    """The splits of a source as they are, one for training among them.

    Raises:
        UserError: it is not there, or a limit leaves no row.
    """
    for option in ("max_train_samples", "max_eval_samples"):
        limit = getattr(source, option)
        if limit is not None and limit < 1:
            raise UserError(f"{option} is {limit}; give at least 1, or leave it out to keep all.")
    raw = read_splits(source)
    if "train" not in raw:
        raise UserError(
            f"There is no train split (found: {', '.join(raw) or 'none'}); name a train file or "
            "a data set that has that split."
        )
    return raw


def in_classes(data: TextData, numbers: Sequence[int], names: Sequence[str]) -> TextData:
    """The same data with other class numbers.

    Args:
        data: with classes.
        numbers: the new number of each class.
        names: of the new classes; there may be more than the data has.
    """
    feature: Any = ClassLabel(names=list(names))
    if isinstance(data.splits["train"].features["label"], List):
        feature = List(feature)

    def renumbered(label: Any) -> Any:
        return [numbers[one] for one in label] if isinstance(label, list) else numbers[label]

    splits = {
        name: split.remove_columns("label").add_column(
            "label", [renumbered(label) for label in split["label"][:]], feature=feature
        )
        for name, split in data.splits.items()
    }
    return replace(data, splits=splits, label_names=tuple(names))


def count_overlap(data: TextData) -> dict[str, int]:
    """Count, per evaluation split, the rows whose text also occurs in the train split.

    Texts are compared exactly after case folding and collapsing white space; of a pair, both
    texts must agree.
    """

    def keys(split: Dataset) -> Iterator[tuple[str, ...]]:
        columns = [split[column][:] for column in data.text_columns]
        for row in zip(*columns, strict=True):
            yield tuple(" ".join(as_text(part).casefold().split()) for part in row)

    seen = set(keys(data.splits["train"]))
    return {
        name: sum(key in seen for key in keys(split))
        for name, split in data.splits.items()
        if name != "train"
    }


def find_columns(columns: Sequence[str], source: DataSource) -> tuple[tuple[str, ...], str]:
    """Return the text columns and the label column: those that are named, else the usual ones.

    Raises:
        UserError: they are not there.
    """
    listed = ", ".join(columns)
    label = source.label_column or next((name for name in _LABELS if name in columns), None)
    if label is None:
        raise UserError(f"No label column found among {listed}; name it as label_column.")
    texts = find_texts(columns, source)
    if label not in columns:
        raise UserError(f"There is no column {label!r}; the data has the columns {listed}.")
    if len(texts) > 2 or len({*texts, label}) != len(texts) + 1:
        raise UserError("Name one or two different text columns, none of them the label column.")
    if "label" in texts:
        raise UserError("A text column cannot be called 'label'; rename it in the data.")
    return texts, label


def find_texts(columns: Sequence[str], source: DataSource) -> tuple[str, ...]:
    """The text columns: those that are named, else the usual ones.

    Raises:
        UserError: they are not there.
    """
    listed = ", ".join(columns)
    texts = source.text_columns or next(
        (names for names in (*_PAIRS, *((name,) for name in _SINGLES)) if {*names} <= {*columns}),
        (),
    )
    if not texts:
        raise UserError(f"No text column found among {listed}; name it as text_columns.")
    for name in texts:
        if name not in columns:
            raise UserError(f"There is no column {name!r}; the data has the columns {listed}.")
    return texts


def check_rows(
    name: str,
    split: Dataset,
    columns: Iterable[str],
    texts: Iterable[str],
    *,
    is_split: bool = True,
) -> None:
    """Make sure that a split has rows and columns, and text in every row.

    Args:
        name: of the split, or of the data as messages are to call it.
        split: the rows.
        columns: that must be there.
        texts: columns that must hold text.
        is_split: whether the name is a split's, such as "train".

    Raises:
        UserError: it has not; the message names the row.
    """
    where = f"the {name} split" if is_split else name
    begun = where[:1].upper() + where[1:] if is_split else where
    like = "give it the columns of the train split" if is_split else "name another"
    for column in columns:
        if column not in split.column_names:
            raise UserError(
                f"{begun} has no column {column!r}, only {', '.join(split.column_names)}; {like}."
            )
    if len(split) == 0:
        raise UserError(f"{begun} is empty; give it at least one row.")
    for column in texts:
        for row, text in enumerate(split[column][:], 1):
            if not isinstance(text, str):
                what = "missing" if text is None else f"not text but {type(text).__name__}"
                raise UserError(
                    f"Row {row} of {where}: {column!r} is {what}; write a string there or remove "
                    f"the row."
                )


def unreadable_rows(
    data: TextData, encoded: Mapping[str, Dataset], tokenizer: PreTrainedTokenizerBase
) -> dict[str, list[int]]:
    """Per split the rows, from 0, in which there is nothing to read.

    All their texts are blank, or the tokenizer makes no token of them. They are kept, as an
    ordinary training run keeps them, and whoever trains on them should know.

    Args:
        data: What `load_text_data` returned.
        encoded: What `tokenized` made of it.
        tokenizer: The same.
    """
    special = _special_tokens(data, tokenizer)
    found = {}
    for name, split in data.splits.items():
        texts = zip(*(split[column][:] for column in data.text_columns), strict=True)
        rows = enumerate(zip(texts, encoded[name]["input_ids"], strict=True))
        found[name] = [
            row for row, (parts, ids) in rows if len(ids) <= special or all(map(is_blank, parts))
        ]
    return found


def _special_tokens(data: TextData, tokenizer: PreTrainedTokenizerBase) -> int:
    return int(tokenizer.num_special_tokens_to_add(pair=len(data.text_columns) == 2))


def tokenized(
    data: TextData, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> dict[str, Dataset]:
    """Tokenize every split, cut to ``max_length`` tokens and not padded (a collator pads).

    Args:
        data: What `load_text_data` returned.
        tokenizer: Called on one text or on pairs.
        max_length: The most tokens per row, special tokens included.

    Returns:
        Per split, the tokenizer's columns (``input_ids``, …) and, where there are, ``labels``.

    Raises:
        UserError: the special tokens alone are as many.
    """
    special = _special_tokens(data, tokenizer)
    if max_length <= special:
        raise UserError(
            f"Texts are cut to {max_length} tokens, and {special} of them are special ones; allow "
            f"more (--max_seq_length)."
        )

    def encode(batch: Mapping[str, list[str]]) -> dict[str, Any]:
        texts = [batch[column] for column in data.text_columns]
        return dict(tokenizer(*texts, truncation=True, max_length=max_length))

    found = {
        name: split.map(
            encode,
            batched=True,
            remove_columns=list(data.text_columns),
            desc=f"Tokenizing {name}",
        )
        for name, split in data.splits.items()
    }
    return {
        name: split.rename_column("label", "labels") if "label" in split.column_names else split
        for name, split in found.items()
    }


def limited(split: Dataset, name: str, source: DataSource) -> Dataset:
    """The rows of a split that the source's limits leave."""
    limit = source.max_train_samples if name == "train" else source.max_eval_samples
    if limit is None or limit >= len(split):
        return split
    return (split.shuffle(source.seed) if name == "train" else split).select(range(limit))
