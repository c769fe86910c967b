"""Texts with several labels each: tags of their words, or any number of classes; or with none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from datasets import ClassLabel, Dataset, List, Value

from nlp_adv.data.class_names import number_in
from nlp_adv.data.sources import DataSource
from nlp_adv.data.text import (
    TextData,
    check_rows,
    find_columns,
    find_texts,
    limited,
    raw_splits,
    tokenized,
)
from nlp_adv.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NONE = -100  # the label of a token that has none
STARTS = "starts"  # the column of the places of words among the tokens
_WORDS = ("tokens", "words")
_TAGS = ("ner_tags", "tags", "labels", "label", "pos_tags", "chunk_tags")


def load_tagged(source: DataSource, names: Sequence[str] = ()) -> TextData:
    """Read and check words and their tags: two columns of lists, one tag a word.

    Tags are named by the data set's features, else by `names`, where they are numbers, else by
    themselves in alphabetical order.

    Args:
        source: where they are; the usual names of columns are found ("tokens", "ner_tags", …).
        names: of tags that are numbers, in their order.

    Raises:
        UserError: a column, a row or a tag is missing or wrong; the message says which.
    """
    raw = raw_splits(source)
    columns = raw["train"].column_names
    if len(source.text_columns) > 1:
        raise UserError("Words are tagged in one column; name one text column.")
    words = _column(columns, source.text_columns[:1], _WORDS, "words", "text_columns")
    given = [source.label_column] if source.label_column else []
    tags = _column(columns, given, _TAGS, "tags", "label_column")
    bare = {n: s for n, s in raw.items() if n.startswith("test") and tags not in s.column_names}
    for name, split in raw.items():
        check_rows(name, split, (words,) if name in bare else (words, tags), ())
        _check_lists(name, split, words, None if name in bare else tags)
    kept = {name: split for name, split in raw.items() if name not in bare}
    return _labelled(kept, (words,), tags, source, names, bare)


def load_multi_label(source: DataSource) -> TextData:
    """Read and check texts, or pairs, of any number of classes each: a column of lists.

    Raises:
        UserError: a column, a row or a label is missing or wrong; the message says which.
    """
    raw = raw_splits(source)
    texts, label = find_columns(raw["train"].column_names, source)
    bare = {n: s for n, s in raw.items() if n.startswith("test") and label not in s.column_names}
    for name, split in raw.items():
        check_rows(name, split, texts if name in bare else (*texts, label), texts)
        if name not in bare:
            _check_lists(name, split, label, None, empty=True)
    kept = {name: split for name, split in raw.items() if name not in bare}
    return _labelled(kept, texts, label, source, (), bare)


def load_plain(source: DataSource) -> TextData:
    """Read and check texts alone; a text that predicts its own words needs no label.

    Raises:
        UserError: a column or a row is missing or wrong; the message says which.
    """
    raw = raw_splits(source)
    texts = find_texts(raw["train"].column_names, source)
    if len(texts) > 1:
        raise UserError("A language model reads one text column; name it as text_columns.")
    for name, split in raw.items():
        check_rows(name, split, texts, texts)
    splits = {n: limited(split.select_columns(list(texts)), n, source) for n, split in raw.items()}
    return TextData(splits, texts, None)


def tokenized_tags(
    data: TextData, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> dict[str, Dataset]:
    """Tokenize words; the first token of each has the word's tag, all others −100.

    Args:
        data: of `load_tagged`.
        tokenizer: one that says which word a token comes from (a fast one).
        max_length: the most tokens a row, special tokens included; words beyond it have no tag.

    Returns:
        Per split, the tokenizer's columns, "labels" where there are tags, and "starts": of each
        word the place of its first token, −1 of a word that has none.

    Raises:
        UserError: the tokenizer does not say it.
    """
    if not tokenizer.is_fast:
        raise UserError(
            f"The tokenizer {type(tokenizer).__name__} does not say which word a token comes from; "
            f"tags of words need a fast one."
        )
    (column,) = data.text_columns

    def encode(batch: Mapping[str, list[Any]]) -> dict[str, Any]:
        found = tokenizer(
            batch[column], is_split_into_words=True, truncation=True, max_length=max_length
        )
        rows = [_starts(found.word_ids(row), words) for row, words in enumerate(batch[column])]
        columns = {**found, STARTS: rows}
        if "label" in batch:
            lengths = map(len, found["input_ids"])
            columns["labels"] = [
                _at_starts(tags, starts, length)
                for tags, starts, length in zip(batch["label"], rows, lengths, strict=True)
            ]
        return columns

    return {
        name: split.map(
            encode, batched=True, remove_columns=split.column_names, desc=f"Tokenizing {name}"
        )
        for name, split in data.splits.items()
    }


def tokenized_labels(
    data: TextData, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> dict[str, Dataset]:
    """Tokenize texts of `load_multi_label`; "labels" are 1.0 and 0.0, one for each class."""
    count = len(data.label_names or ())

    def yes_or_no(row: Mapping[str, Any]) -> dict[str, Any]:
        return {"labels": [float(number in row["labels"]) for number in range(count)]}

    return {
        name: split.map(yes_or_no, features=_with_floats(split))
        if "labels" in split.features
        else split
        for name, split in tokenized(data, tokenizer, max_length).items()
    }


def tokenized_words(
    data: TextData, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> dict[str, Dataset]:
    """Tokenize texts of `load_plain`; "labels" are the tokens themselves.

    Each row is a text of its own: an example of the data is an example of the attack.
    """
    return {
        name: split.add_column("labels", split["input_ids"][:])
        for name, split in tokenized(data, tokenizer, max_length).items()
    }


def _column(
    columns: Sequence[str], given: Iterable[str], usual: Sequence[str], what: str, option: str
) -> str:
    named = next(iter(given), None) or next((name for name in usual if name in columns), None)
    if named not in columns or named is None:
        listed = ", ".join(columns)
        found = f"There is no column {named!r}" if named else f"No column of {what} was found"
        raise UserError(f"{found}; the data has the columns {listed}: name one as {option}.")
    return named


def _check_lists(
    name: str, split: Dataset, column: str, beside: str | None, *, empty: bool = False
) -> None:
    """Lists in every row, as long as those beside them; words are strings."""
    others = split[beside][:] if beside else [None] * len(split)
    for row, (values, other) in enumerate(zip(split[column][:], others, strict=True), 1):
        where = f"Row {row} of the {name} split: {column!r}"
        if not isinstance(values, list) or not (values or empty):
            what = "an empty list" if values == [] else f"{values!r:.40}"
            raise UserError(f"{where} is {what}; write a list there, or remove the row.")
        if not empty and not all(isinstance(one, str) for one in values):
            raise UserError(f"{where} holds something else than words; write strings there.")
        if beside and (not isinstance(other, list) or len(other) != len(values)):
            count = len(other) if isinstance(other, list) else "no"
            raise UserError(f"{where} has {len(values)} words and {beside!r} {count} tags.")


def _labelled(
    kept: dict[str, Dataset],
    texts: tuple[str, ...],
    column: str,
    source: DataSource,
    given: Sequence[str],
    bare: Mapping[str, Dataset],
) -> TextData:
    """Numbers for the labels of all splits, in lists."""
    names, number = _reading(kept["train"], column, given)
    splits = {}
    for name, split in kept.items():
        rows = []
        for row, values in enumerate(split[column][:], 1):
            numbers = [number(value) for value in values]
            if None in numbers:
                wrong = values[numbers.index(None)]
                listed = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
                raise UserError(
                    f"Row {row} of the {name} split: the label {wrong!r} is none of {listed}; mend "
                    f"it, or add training rows that have it."
                )
            rows.append(numbers)
        feature = List(ClassLabel(names=list(names)))
        bare_rows = split.select_columns(list(texts))
        splits[name] = limited(bare_rows.add_column("label", rows, feature=feature), name, source)
    unlabelled = {name: split.select_columns(list(texts)) for name, split in bare.items()}
    return TextData(splits, texts, tuple(names), unlabelled)


def _reading(
    train: Dataset, column: str, given: Sequence[str]
) -> tuple[list[str], Callable[[Any], int | None]]:
    """The names of the labels, and the number of one as it stands in the column."""
    feature = getattr(train.features[column], "feature", None)
    values = {value for row in train[column][:] for value in row}
    if not values:
        raise UserError(f"No training row has a label in {column!r}; there is nothing to learn.")
    numeric = all(isinstance(value, int) and not isinstance(value, bool) for value in values)
    names = list(feature.names) if isinstance(feature, ClassLabel) else list(given)
    if numeric and names:
        return names, lambda value: value if value in range(len(names)) else None
    if not names:
        spelt = [number_in(value) for value in values]
        key: Any = None if None in spelt else float
        names = sorted(map(str, values), key=key)
    if len(names) < 2:
        raise UserError(f"All labels are {names[0]!r}; give at least two classes.")
    places = {name: place for place, name in enumerate(names)}
    return names, lambda value: places.get(str(value))


def _starts(word_ids: Sequence[int | None], words: Sequence[str]) -> list[int]:
    first: dict[int, int] = {}
    for place, word in enumerate(word_ids):
        if word is not None:
            first.setdefault(word, place)
    return [first.get(word, -1) for word in range(len(words))]


def _at_starts(tags: Sequence[int], starts: Sequence[int], length: int) -> list[int]:
    labels = [NONE] * length
    for tag, place in zip(tags, starts, strict=True):
        if place >= 0:
            labels[place] = tag
    return labels


def _with_floats(split: Dataset) -> Any:
    features = split.features.copy()
    features["labels"] = List(Value("float32"))
    return features
