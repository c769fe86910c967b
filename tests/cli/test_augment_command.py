"""`nlp-adv augment`: what an attack found as rows to train on."""

import json
from pathlib import Path

import pytest
from commands import BRIEF, SPLITS, call, refused, typed, write
from datasets import Dataset

from nlp_adv.errors import UserError
from nlp_adv.robustness.augmentation import augmented_rows
from nlp_adv.robustness.records import read_records


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_what_fooled_is_added_and_trained_on(reader, files, work):
    given = {"model_name_or_path": reader, "train_file": files["train_file"], "device": "cpu"}
    run = typed("augment", **given, output_dir="out")
    assert run.code == 0, run.err
    rows = rows_of(work / "out" / "augmented.jsonl")
    there = [{**row, "added_by": ""} for row in SPLITS["train"]]
    assert rows[: len(there)] == there
    added = rows[len(there) :]
    assert added
    assert f"{len(rows)} rows, {len(added)} of them adversarial" in run.out
    file = work / "out" / "records.jsonl"
    records = {record.found.adversarial: record for record in read_records(file)}
    for row in added:
        record = records[row["text"]]
        assert (record.outcome, row["added_by"]) == ("fooled", "deepwordbug")
        assert row["label"] == SPLITS["train"][record.id]["label"]
    again = {"model_name_or_path": files["model_name_or_path"], "output_dir": "trained"}
    again = call(**again, **BRIEF, train_file=work / "out" / "augmented.jsonl")
    assert again.code == 0, again.err


def test_only_what_is_new(reader, files, work):
    given = {"model_name_or_path": reader, "train_file": files["train_file"], "device": "cpu"}
    run = typed("augment", **given, output_dir="out", originals="false", keep="changed")
    assert run.code == 0, run.err
    rows = rows_of(work / "out" / "augmented.jsonl")
    assert {row["added_by"] for row in rows} == {"deepwordbug"}
    records = read_records(work / "out" / "records.jsonl")
    changed = [r for r in records if r.found.adversarial != r.found.original]
    assert len(rows) == len({(r.found.adversarial, r.label) for r in changed})


def test_the_attacked_text_of_a_pair(reader, work):
    rows = [{"text1": f"number {n}", "text2": row["text"], "label": row["label"]}
            for n, row in enumerate(SPLITS["train"])]  # fmt: skip
    given = {"model_name_or_path": reader, "train_file": write(work / "pairs.jsonl", rows)}
    run = typed("augment", **given, output_dir="out", keep="changed", device="cpu")
    assert run.code == 0, run.err
    for row in rows_of(work / "out" / "augmented.jsonl")[len(rows) :]:
        number = int(row["text1"].split()[1])
        assert row["text2"] != rows[number]["text2"]
        assert row["label"] == rows[number]["label"]


class TestRefusals:
    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"test_file": "x.jsonl"}, "--train_file"),
            ({"shard": "1/2"}, "--shard"),
            ({"target": "good"}, "--target"),
            ({"train_file": ""}, "Name the texts"),
            ({"modality": "image"}, "augment writes texts"),
            ({"keep": "all"}, "--keep"),
            ({"epsilons": 0.1}, "--epsilons"),
        ],
    )
    def test_flags(self, reader, files, work, settings, words):
        given = {"model_name_or_path": reader, "train_file": files["train_file"]}
        run = typed("augment", **{**given, "output_dir": "out", **settings})
        refused(run, words, command="augment")
        assert not (work / "out").exists()

    def test_nothing_was_found(self):
        rows = Dataset.from_list(SPLITS["train"])
        with pytest.raises(UserError, match="nothing to add"):
            augmented_rows(rows, [])

    def test_a_column_of_the_same_name(self):
        rows = Dataset.from_list([{**row, "added_by": "me"} for row in SPLITS["train"]])
        with pytest.raises(UserError, match="rename or remove"):
            augmented_rows(rows, [])
