"""Reading labelled text: every format, every kind of label, and every error with its sentence."""

import gzip
import json
import os
import re
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from nlp_adv.data import sources as module
from nlp_adv.data.text import DataSource, count_overlap, load_text_data, tokenized
from nlp_adv.errors import UserError

ROWS = [{"text": "a good film", "label": 1}, {"text": "bad, bad", "label": 0}]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def write(path: Path, content: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


def load_rows(tmp_path, train, validation=None, test=None, **options):
    """Load splits given as lists of rows, by way of files."""
    files = {"train_file": train, "validation_file": validation, "test_file": test}
    paths = {
        name: write(tmp_path / f"{name}.jsonl", jsonl(rows))
        for name, rows in files.items()
        if rows is not None
    }
    return load_text_data(DataSource(**paths, **options))


def labelled(*labels):
    return [{"text": f"t{i}", "label": label} for i, label in enumerate(labels)]


def fails(sentence, **source):
    with pytest.raises(UserError, match=re.escape(sentence)) as caught:
        load_text_data(DataSource(**source))
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")
    return str(caught.value)


# --- formats -------------------------------------------------------------------------------------

CSV = b'text,label\na good film,1\n"bad, bad",0\n'
TSV = b"text\tlabel\na good film\t1\nbad, bad\t0\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.csv", CSV),
        ("train.csv.gz", CSV),
        ("with spaces [1]*.csv", CSV),
        ("train.tsv", TSV),
        ("train.tsv.gz", TSV),
        ("train.json", json.dumps(ROWS, indent=1).encode()),
        ("lines.json", jsonl(ROWS)),
        ("train.jsonl", jsonl(ROWS)),
        ("train.jsonl.gz", jsonl(ROWS)),
        ("train.csv", b"\xef\xbb\xbf" + CSV.replace(b"\n", b"\r\n")),
    ],
)
def test_formats_give_the_same_rows(tmp_path, name, content):
    data = load_text_data(DataSource(train_file=write(tmp_path / name, content)))
    assert data.splits["train"].to_list() == ROWS
    assert data.text_columns == ("text",)
    assert data.label_names == ("0", "1")
    assert list(data.splits) == ["train"]


def test_parquet(tmp_path):
    Dataset.from_list(ROWS).to_parquet(tmp_path / "train.parquet")
    data = load_text_data(DataSource(train_file=str(tmp_path / "train.parquet")))
    assert data.splits["train"].to_list() == ROWS


def test_save_to_disk_of_one_and_of_many_splits(tmp_path):
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "one")
    many = DatasetDict({"train": Dataset.from_list(ROWS), "dev": Dataset.from_list(ROWS[:1])})
    many.save_to_disk(tmp_path / "many")
    one = load_text_data(DataSource(dataset_name=str(tmp_path / "one")))
    two = load_text_data(DataSource(dataset_name=str(tmp_path / "many")))
    assert one.splits["train"].to_list() == two.splits["train"].to_list() == ROWS
    assert two.splits["validation"].to_list() == ROWS[:1]


def test_folder_takes_split_files_and_leaves_the_others(tmp_path):
    for name in ("train.jsonl.gz", "dev.jsonl", "test.json", "train_more.jsonl", "README.md"):
        write(tmp_path / "d" / name, jsonl(ROWS))
    data = load_text_data(DataSource(dataset_name=str(tmp_path / "d")))
    assert [(name, len(split)) for name, split in data.splits.items()] == [
        ("train", 2),
        ("validation", 2),
        ("test", 2),
    ]


def test_csv_texts_stay_as_they_are_written(tmp_path):
    path = write(tmp_path / "t.csv", b'text,label\nNA,1\n"",0\n007,1\n"say ""hi""",0\n')
    texts = load_text_data(DataSource(train_file=path)).splits["train"]["text"][:]
    assert texts == ["NA", "", "007", 'say "hi"']


def test_tsv_has_no_quoting(tmp_path):
    path = write(tmp_path / "t.tsv", b'text\tlabel\nhe said "hi\t1\n"x"\t0\n')
    texts = load_text_data(DataSource(train_file=path)).splits["train"]["text"][:]
    assert texts == ['he said "hi', '"x"']


def test_csv_field_beyond_the_parsers_default_limit(tmp_path):
    path = write(tmp_path / "t.csv", b"text,label\n" + b"a" * 200_000 + b",1\nb,0\n")
    assert len(load_text_data(DataSource(train_file=path)).splits["train"][0]["text"]) == 200_000


def test_a_file_written_anew_is_read_anew(tmp_path):
    path = tmp_path / "t.jsonl"
    load_text_data(DataSource(train_file=write(path, jsonl(ROWS))))
    write(path, jsonl([*ROWS, *ROWS]))
    os.utime(path, (1, 1))
    assert len(load_text_data(DataSource(train_file=str(path))).splits["train"]) == 4


# --- columns -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        (("sentence1", "sentence2", "label"), ("sentence1", "sentence2")),
        (("premise", "hypothesis", "label"), ("premise", "hypothesis")),
        (("question", "sentence", "label"), ("question", "sentence")),
        (("question1", "question2", "target"), ("question1", "question2")),
        (("idx", "sentence", "labels"), ("sentence",)),
        (("review", "sentiment"), ("review",)),
    ],
)
def test_usual_columns_are_found(tmp_path, columns, found):
    data = load_rows(tmp_path, [dict.fromkeys(columns, "x"), dict.fromkeys(columns, "y")])
    assert data.text_columns == found
    assert data.splits["train"].column_names == [*found, "label"]
    assert data.label_names == ("x", "y")


def test_columns_named_by_the_user(tmp_path):
    rows = [{"text": "no", "a": "x", "b": "y", "z": i, "label": "no"} for i in (0, 1)]
    data = load_rows(tmp_path, rows, text_columns=("b", "a"), label_column="z")
    assert data.splits["train"].to_list() == [{"b": "y", "a": "x", "label": i} for i in (0, 1)]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"text_columns": ("body",)}, "no column 'body'; the data has the columns text, label"),
        ({"label_column": "gold"}, "no column 'gold'; the data has the columns text, label"),
        ({"text_columns": ("label",)}, "none of them the label column"),
        ({"text_columns": ("text", "text")}, "one or two different text columns"),
        ({"max_train_samples": 0}, "max_train_samples is 0; give at least 1"),
        ({"max_eval_samples": -1}, "max_eval_samples is -1; give at least 1"),
    ],
)
def test_wrong_options(tmp_path, options, sentence):
    fails(sentence, train_file=write(tmp_path / "t.jsonl", jsonl(ROWS)), **options)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"text": "a", "y": 1}, "No label column found among text, y; name it as label_column"),
        ({"t": "a", "label": 1}, "No text column found among t, label; name it as text_columns"),
    ],
)
def test_columns_that_cannot_be_guessed(tmp_path, row, sentence):
    fails(sentence, train_file=write(tmp_path / "t.jsonl", jsonl([row, row])))


def test_text_column_called_label(tmp_path):
    path = write(tmp_path / "t.jsonl", jsonl([{"label": "x", "y": 1}]))
    fails("cannot be called 'label'", train_file=path, text_columns=("label",), label_column="y")


def test_column_missing_from_another_split(tmp_path):
    with pytest.raises(UserError, match="The validation split has no column 'label', only text"):
        load_rows(tmp_path, ROWS, [{"text": "a"}])


# --- labels --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "names", "numbers"),
    [
        ([1, 0, 1], ("0", "1"), [1, 0, 1]),
        ([10, 9, 2], ("2", "9", "10"), [2, 1, 0]),
        ([-1, 1, -1], ("-1", "1"), [0, 1, 0]),
        (["pos", "neg", "pos"], ("neg", "pos"), [1, 0, 1]),
        (["10", "9", "2"], ("2", "9", "10"), [2, 1, 0]),
        (["1_0", "1_1", "1_0"], ("1_0", "1_1"), [0, 1, 0]),
        (["nan", "eng", "nan"], ("eng", "nan"), [1, 0, 1]),
        ([True, False, True], ("False", "True"), [1, 0, 1]),
        ([1.0, 0.0, 1.0], ("0", "1"), [1, 0, 1]),
    ],
)
def test_class_labels(tmp_path, labels, names, numbers):
    data = load_rows(tmp_path, labelled(*labels))
    assert data.label_names == names
    assert data.splits["train"]["label"][:] == numbers
    assert data.splits["train"].features["label"].names == list(names)


def test_other_splits_use_the_mapping_of_train(tmp_path):
    data = load_rows(tmp_path, labelled("a", "b", "c"), labelled("c", "b"))
    assert data.splits["validation"]["label"][:] == [2, 1]


def test_declared_class_names_keep_their_order(tmp_path):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["pos", "neg", "odd"])})
    train = Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    unlabelled = Dataset.from_dict({"text": ["a", "b"], "label": [-1, -1]}, features=features)
    DatasetDict({"train": train, "test": unlabelled}).save_to_disk(tmp_path / "d")
    data = load_text_data(DataSource(dataset_name=str(tmp_path / "d")))
    assert data.label_names == ("pos", "neg", "odd")
    assert data.splits["train"]["label"][:] == [1, 0]
    assert list(data.splits) == ["train"]
    assert data.unlabelled["test"]["text"] == ["a", "b"]


def test_declared_names_that_look_like_numbers_stay_names(tmp_path):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["2.5", "1.0"])})
    train = Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    train.save_to_disk(tmp_path / "d")
    data = load_text_data(DataSource(dataset_name=str(tmp_path / "d")))
    assert data.label_names == ("2.5", "1.0")
    assert data.splits["train"]["label"][:] == [1, 0]


@pytest.mark.parametrize("labels", [[0.5, 1.0, 4.75], ["0.5", "1", "4.75"]])
def test_fractions_mean_regression(tmp_path, labels):
    data = load_rows(tmp_path, labelled(*labels))
    assert data.label_names is None
    assert data.splits["train"]["label"][:] == [0.5, 1.0, 4.75]
    assert data.splits["train"].features["label"] == Value("float32")


def test_the_user_decides_between_regression_and_classes(tmp_path):
    scores = load_rows(tmp_path / "a", labelled(3, 1, 2), regression=True)
    assert scores.label_names is None
    assert scores.splits["train"]["label"][:] == [3.0, 1.0, 2.0]
    classes = load_rows(tmp_path / "b", labelled(10.0, 0.5, 10.0), regression=False)
    assert classes.label_names == ("0.5", "10")


def test_unlabelled_test_split_without_a_label_column(tmp_path):
    data = load_rows(tmp_path, ROWS, test=[{"text": "a"}])
    assert (list(data.splits), list(data.unlabelled)) == (["train"], ["test"])


def test_minus_one_is_a_label_where_train_has_it(tmp_path):
    data = load_rows(tmp_path, labelled(-1, 1), test=labelled(-1, -1))
    assert data.splits["test"]["label"][:] == [0, 0]


@pytest.mark.parametrize(
    ("train", "validation", "sentence"),
    [
        ([0, None, 1], None, "Row 2 of the train split: the label in 'label' is missing"),
        ([[0], [1]], None, "Row 1 of the train split: the label in 'label' is a list"),
        (["a", ""], None, "Row 2 of the train split: the label in 'label' is missing"),
        (["a", "b"], ["b", "c"], "Row 2 of the validation split: the label 'c' is none of the"),
        ([0, 1], [0, -1], "the label '-1' is none of the training labels (0, 1)"),
        ([0.5, 1.5], [0.5, "x"], "Row 2 of the validation split: the label 'x' is no finite"),
        (["0.5", "nan"], None, "Row 2 of the train split: the label 'nan' is no finite number"),
        ([1, 1], None, "All training labels are '1'; give at least two classes"),
    ],
)
def test_wrong_labels(tmp_path, train, validation, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        load_rows(tmp_path, labelled(*train), validation and labelled(*validation))


def test_words_cannot_be_regressed(tmp_path):
    with pytest.raises(UserError, match="Row 1 of the train split: the label 'a' is no finite"):
        load_rows(tmp_path, labelled("a", "b"), regression=True)


# --- texts ---------------------------------------------------------------------------------------


def test_missing_text_is_named_and_empty_text_is_kept(tmp_path):
    rows = [{"text": "", "label": 0}, {"text": None, "label": 1}]
    with pytest.raises(UserError, match="Row 2 of the train split: 'text' is missing"):
        load_rows(tmp_path, rows)
    rows[1]["text"] = "x"
    assert load_rows(tmp_path, rows).splits["train"]["text"][:] == ["", "x"]


def test_text_that_is_no_string(tmp_path):
    with pytest.raises(UserError, match="Row 1 of the train split: 'text' is not text but int"):
        load_rows(tmp_path, [{"text": 5, "label": 0}])


# --- files that cannot be read -------------------------------------------------------------------

GOOD = jsonl(ROWS)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("t.jsonl", GOOD + b'{"text": oops}\n' + GOOD, "t.jsonl, line 3: bad JSON (Expecting"),
        ("t.jsonl.gz", GOOD + b'{"text": oops}\n', "t.jsonl.gz, line 3: bad JSON"),
        ("t.json", b'[{"text": "a", "label": 1},\n {"text": }]', "t.json, line 2: bad JSON"),
        ("t.jsonl", GOOD + b"3\n", "t.jsonl, line 3: not a JSON object"),
        ("t.jsonl", GOOD + b'{"text": "caf\xe9", "label": 1}\n', "t.jsonl, line 3: not UTF-8"),
        ("t.csv", CSV + b"caf\xe9,1\n", "t.csv, line 4: not UTF-8; save the file as UTF-8"),
        ("t.csv", CSV + b"a,b,c\n", "t.csv, line 4: 3 fields where the header has 2"),
        ("t.csv", CSV + b"short\n", "t.csv, line 4: 1 fields where the header has 2"),
        ("t.csv", CSV + b'"a\nb",1\nx\n', "t.csv, line 6: 1 fields where the header has 2"),
        ("t.csv", CSV + b'"open,1\nb,0\n', "t.csv, line 4: unexpected end of data"),
        ("t.csv.gz", CSV + b"short\n", "t.csv.gz, line 4: 1 fields"),
        ("t.tsv", TSV + b"a\tb\tc\n", "t.tsv, line 4: 3 fields where the header has 2"),
        ("t.csv", b"text,text\na,b\n", "t.csv, line 1: two columns have the same name"),
        ("t.parquet", b"hello", "t.parquet cannot be read as parquet"),
        ("t.jsonl", b"", "t.jsonl is empty; give it at least one row"),
        ("t.json", b"[]", "t.json is empty; give it at least one row"),
        ("t.csv", b"", "t.csv is empty; give it at least one row"),
        ("t.csv", b"text,label\n", "t.csv is empty; give it at least one row"),
        ("t.txt", b"a", "t.txt has an unknown format; use .csv, .tsv, .json"),
    ],
)
def test_unreadable_files(tmp_path, name, content, sentence):
    fails(sentence, train_file=write(tmp_path / name, content))


@pytest.mark.parametrize("name", ["t.jsonl.gz", "t.csv.gz"])
def test_gzip_cut_off_and_gzip_that_is_none(tmp_path, name):
    content = (GOOD if "json" in name else CSV) + b"".join(b"%d,%d\n" % (i, i) for i in range(999))
    path = tmp_path / name
    path.write_bytes(gzip.compress(content)[:-12])
    assert re.search(r"after line [1-9]\d*:", fails("cut off", train_file=str(path)))
    path.write_bytes(b"not gzip")
    fails("after line 0: the gzip data is damaged", train_file=str(path))


def test_files_that_are_not_there(tmp_path):
    fails("missing.csv does not exist; check the path", train_file=str(tmp_path / "missing.csv"))
    fails("is a folder; check the path", train_file=str(tmp_path))


# --- sources -------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [{}, {"task_name": "rte", "dataset_name": "imdb"}])
def test_exactly_one_source(source):
    fails("Name exactly one source of data", **source)


def test_hub_errors_name_the_data_set():
    fails(
        "There is no GLUE task 'sst3'; did you mean sst2? Choose from cola, sst2", task_name="sst3"
    )
    fails("Data set nyu-mll/glue (rte) is no folder here and could", task_name="rte")
    assert "pass train_file" in fails("Data set no/such is no folder", dataset_name="no/such")


def test_folder_errors(tmp_path):
    fails("nowhere does not exist; check the path", dataset_name=str(tmp_path / "nowhere"))
    file = write(tmp_path / "d" / "dev.csv", CSV)
    fails("is a file, not a data set; pass it as train_file", dataset_name=file)
    fails("has no train file; add train with one of .csv", dataset_name=str(tmp_path / "d"))
    write(tmp_path / "d" / "train.csv", CSV)
    write(tmp_path / "d" / "validation.jsonl", GOOD)
    fails("has two files for the validation split (dev.csv", dataset_name=str(tmp_path / "d"))


def test_damaged_saved_data_set(tmp_path):
    write(tmp_path / "d" / "state.json", b"{")
    fails("The saved data set", dataset_name=str(tmp_path / "d"))


def test_missing_train_and_empty_split(tmp_path, monkeypatch):
    file = write(tmp_path / "dev.csv", CSV)
    fails("There is no train split (found: validation)", validation_file=file)
    saved = DatasetDict({"train": Dataset.from_list(ROWS)})
    saved["validation"] = saved["train"].select([])
    saved.save_to_disk(tmp_path / "d")
    fails("it is damaged or has an empty split", dataset_name=str(tmp_path / "d"))
    monkeypatch.setattr(module, "load_dataset", lambda *_, **__: saved)
    fails("The validation split is empty; give it at least one row", dataset_name="some/name")


def test_glue_from_the_hub(monkeypatch):
    split = Dataset.from_dict({"sentence1": ["a"], "sentence2": ["b"], "label": [3.0]})
    asked = []

    def fake(*names, token):
        asked.append((*names, token))
        return DatasetDict({"train": split, "validation": split})

    monkeypatch.setattr(module, "load_dataset", fake)
    data = load_text_data(DataSource(task_name="stsb", token="hf_1"))
    assert asked == [("nyu-mll/glue", "stsb", "hf_1")]
    assert data.label_names is None  # though every score here is whole


def test_mnli_is_validated_on_the_matched_split(monkeypatch):
    def split(*labels):
        rows = [{"premise": "a", "hypothesis": "b", "label": label} for label in labels]
        return Dataset.from_list(rows)

    loaded = DatasetDict(
        {
            "train": split(0, 1, 2),
            "validation_matched": split(1),
            "validation_mismatched": split(2, 2),
            "test_matched": split(-1),
            "test_mismatched": split(-1),
        }
    )
    monkeypatch.setattr(module, "load_dataset", lambda *_, **__: loaded)
    data = load_text_data(DataSource(task_name="mnli"))
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 3,
        "validation": 1,
        "validation_mismatched": 2,
    }
    assert list(data.unlabelled) == ["test", "test_mismatched"]


# --- amounts, overlap, tokens --------------------------------------------------------------------


def test_limits(tmp_path):
    rows = labelled(*([0] * 50 + [1] * 50))

    def load(seed, count=20):
        options = {"max_train_samples": count, "max_eval_samples": 3, "seed": seed}
        return load_rows(tmp_path, rows, rows, **options).splits

    first = load(1)
    assert len(first["train"]) == 20
    assert set(first["train"]["label"]) == {0, 1}
    assert first["validation"]["text"][:] == ["t0", "t1", "t2"]
    assert first["train"].to_list() == load(1)["train"].to_list() != load(2)["train"].to_list()
    assert load(1, 1000)["train"]["text"][:] == [row["text"] for row in rows]


def test_overlap_ignores_case_and_white_space(tmp_path):
    def texts(*values):
        return [{"text": value, "label": i % 2} for i, value in enumerate(values)]

    data = load_rows(tmp_path, texts("A  b", "c"), texts("a b", "a B ", "ab"), texts("d", "e"))
    assert count_overlap(data) == {"validation": 2, "test": 0}


def test_overlap_of_pairs_needs_both_texts(tmp_path):
    def pair(a, b, label):
        return {"premise": a, "hypothesis": b, "label": label}

    train = [pair("a", "b", 0), pair("c", "d", 1)]
    data = load_rows(tmp_path, train, [pair("a", "d", 0), pair("A", "b", 1)])
    assert count_overlap(data) == {"validation": 1}


@pytest.fixture
def tokenizer():
    vocab = {word: i for i, word in enumerate(["[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "[PAD]"])}
    raw = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="[PAD]")


def test_tokens_are_cut_and_not_padded(tmp_path, tokenizer):
    rows = [{"text": "a", "label": "x"}, {"text": "a b c a b c", "label": "y"}]
    split = tokenized(load_rows(tmp_path, rows), tokenizer, 5)["train"]
    assert split["input_ids"][:] == [[1, 3, 2], [1, 3, 4, 5, 2]]
    assert split["labels"][:] == [0, 1]
    assert "text" not in split.column_names


def test_tokens_of_pairs(tmp_path, tokenizer):
    rows = [{"premise": "a", "hypothesis": "b", "label": value} for value in (0.5, 1.0)]
    split = tokenized(load_rows(tmp_path, rows), tokenizer, 9)["train"]
    assert split["input_ids"][0] == [1, 3, 2, 4, 2]
    assert split["labels"][:] == [0.5, 1.0]


@pytest.mark.real_data
@pytest.mark.skipif("NLP_ADV_DATA" not in os.environ, reason="NLP_ADV_DATA names no data folder")
@pytest.mark.parametrize(
    ("name", "columns", "counts"),
    [
        ("sst2", ("text",), {"train": 6920, "validation": 872, "test": 1821}),
        ("rte", ("sentence1", "sentence2"), {"train": 2490, "validation": 277}),
    ],
)
def test_real_data(name, columns, counts):
    folder = Path(os.environ["NLP_ADV_DATA"]) / name
    data = load_text_data(DataSource(dataset_name=str(folder)))
    assert {key: len(split) for key, split in data.splits.items()} == counts
    assert (data.text_columns, data.label_names) == (columns, ("0", "1"))
