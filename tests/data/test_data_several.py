"""Words with tags, texts with several classes, texts alone: read, checked, tokenized."""

import json

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from nlp_adv.data.several import (
    load_multi_label,
    load_plain,
    load_tagged,
    tokenized_labels,
    tokenized_tags,
    tokenized_words,
)
from nlp_adv.data.sources import DataSource
from nlp_adv.errors import UserError

NAMES = ["O", "B-x", "I-x"]
TAGGED = [
    {"tokens": ["an", "old", "ox"], "ner_tags": [0, 0, 1]},
    {"tokens": ["ox"], "ner_tags": [1]},
]


@pytest.fixture
def source(tmp_path):
    def of(rows: list[dict], **more) -> DataSource:
        files = {"train": rows} | {k: more.pop(k) for k in ("validation", "test") if k in more}
        for name, content in files.items():
            lines = "".join(json.dumps(row) + "\n" for row in content)
            (tmp_path / f"{name}.jsonl").write_text(lines)
        named = {f"{name}_file": str(tmp_path / f"{name}.jsonl") for name in files}
        return DataSource(**named, **more)

    return of


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """Letters are tokens; "~" is none."""
    letters = {letter: n for n, letter in enumerate("[]abcdefghijklmnopqrstuvwxyz")}
    inner = Tokenizer(models.BPE(letters, []))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[")


class TestTags:
    def test_numbers_are_named_by_a_list(self, source):
        data = load_tagged(source(TAGGED), NAMES)
        assert data.label_names == tuple(NAMES)
        assert data.splits["train"]["label"][:] == [[0, 0, 1], [1]]
        assert data.text_columns == ("tokens",)

    def test_numbers_without_names_are_their_own(self, source):
        assert load_tagged(source(TAGGED)).label_names == ("0", "1")

    def test_words_are_numbered_in_alphabetical_order(self, source):
        rows = [{"words": ["an", "ox"], "tags": ["O", "B-x"]}]
        data = load_tagged(source(rows))
        assert data.label_names == ("B-x", "O")
        assert data.splits["train"]["label"][:] == [[1, 0]]

    def test_a_data_set_names_them(self, tmp_path):
        features = Features(
            {"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=NAMES))}
        )
        saved = Dataset.from_list(TAGGED, features=features)
        DatasetDict({"train": saved}).save_to_disk(tmp_path / "saved")
        assert load_tagged(DataSource(dataset_name=str(tmp_path / "saved"))).label_names == (
            *NAMES,
        )

    def test_a_test_split_may_have_none(self, source):
        data = load_tagged(source(TAGGED, test=[{"tokens": ["an", "elk"]}]), NAMES)
        assert list(data.splits) == ["train"]
        assert data.unlabelled["test"]["tokens"][:] == [["an", "elk"]]

    def test_the_first_token_of_a_word_has_its_tag(self, source, tokenizer):
        rows = [*TAGGED, {"tokens": ["~", "ox"], "ner_tags": [2, 1]}]
        found = tokenized_tags(load_tagged(source(rows), NAMES), tokenizer, 5)["train"]
        assert found["labels"][:] == [[0, -100, 0, -100, -100], [1, -100], [1, -100]]
        assert found["starts"][:] == [[0, 2, -1], [0], [-1, 0]]

    @pytest.mark.parametrize(
        ("rows", "words"),
        [
            ([{"tokens": ["an"], "ner_tags": [0, 1]}], "has 1 words and 'ner_tags' 2 tags"),
            ([{"tokens": ["an"], "ner_tags": None}, *TAGGED], "no tags"),
            ([{"tokens": [], "ner_tags": []}, *TAGGED], "an empty list"),
            ([{"tokens": [1], "ner_tags": [0]}], "something else than words"),
            ([{"tokens": "an ox", "ner_tags": [0]}], "write a list there"),
            ([{"tokens": ["an"], "ner_tags": [7]}], "the label 7 is none of O, B-x, I-x"),
            ([{"tokens": ["an"]}], "No column of tags was found"),
            ([{"text": "an", "ner_tags": [0]}], "No column of words was found"),
        ],
    )
    def test_bad_rows(self, source, rows, words):
        with pytest.raises(UserError, match=words):
            load_tagged(source(rows), NAMES)

    def test_bad_columns(self, source):
        with pytest.raises(UserError, match="There is no column 'pos'"):
            load_tagged(source(TAGGED, label_column="pos"))
        with pytest.raises(UserError, match="name one text column"):
            load_tagged(source(TAGGED, text_columns=("tokens", "ner_tags")))


class TestSeveralClasses:
    ROWS = ({"text": "an ox", "labels": ["old", "big"]}, {"text": "elk", "labels": []})

    def test_a_yes_or_no_for_each_class(self, source, tokenizer):
        data = load_multi_label(source(self.ROWS))
        assert data.label_names == ("big", "old")
        found = tokenized_labels(data, tokenizer, 8)["train"]
        assert found["labels"][:] == [[1.0, 1.0], [0.0, 0.0]]
        assert found.features["labels"].feature.dtype == "float32"

    @pytest.mark.parametrize(
        ("rows", "words"),
        [
            ([{"text": "an", "labels": "old"}], "write a list there"),
            ([{"text": "an", "labels": []}], "there is nothing to learn"),
            ([{"text": "an", "labels": ["old"]}], "at least two classes"),
        ],
    )
    def test_bad_rows(self, source, rows, words):
        with pytest.raises(UserError, match=words):
            load_multi_label(source(rows))

    def test_a_class_that_training_lacks(self, source):
        with pytest.raises(UserError, match=r"Row 1 of the test split: the label 'new' is none"):
            load_multi_label(source(self.ROWS, test=[{"text": "an", "labels": ["new"]}]))


class TestTextsAlone:
    def test_a_text_is_its_own_label(self, source, tokenizer):
        data = load_plain(source([{"text": "an ox"}, {"text": "elk"}]))
        found = tokenized_words(data, tokenizer, 3)["train"]
        assert found["labels"][:] == found["input_ids"][:]
        assert len(found["labels"][0]) == 3
        assert data.label_names is None

    def test_a_pair_is_no_text(self, source):
        rows = [{"sentence1": "an", "sentence2": "ox"}]
        with pytest.raises(UserError, match="one text column"):
            load_plain(source(rows))
