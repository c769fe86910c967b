"""`train` without training, and the answers to a test split, as run_glue has them."""

import json
from pathlib import Path

import pytest
import torch
from commands import BRIEF, NOUNS, SPLITS, WORDS, call, columns, refused, snapshot, write
from transformers import AutoModelForSequenceClassification, AutoTokenizer

pytestmark = pytest.mark.fault("U5")


@pytest.fixture(scope="module")
def trained(files, tmp_path_factory):
    """A trained model, with its predictions on a test split without labels."""
    folder = tmp_path_factory.mktemp("trained")
    bare = [{"text": row["text"]} for row in SPLITS["test"]]
    given = {**files, **BRIEF, "max_steps": 40, "test_file": write(folder / "bare.jsonl", bare)}
    run = call(**given, do_predict=True, output_dir=folder / "m")
    assert run.code == 0, run.err
    return folder / "m", run


def answers(folder: Path) -> list[str]:
    """What the saved model says to the test split, one text at a time."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        logits = [
            model(**tokenizer(row["text"], return_tensors="pt")).logits for row in SPLITS["test"]
        ]
    return [model.config.id2label[int(one.argmax())] for one in logits]


def predictions(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]


def test_predictions_of_a_split_without_labels(trained):
    folder, run = trained
    head, *rows = predictions(folder / "predict_results_test.txt")
    assert head == ["index", "prediction"]
    assert rows == [[str(number), one] for number, one in enumerate(answers(folder))]
    assert "the test split has no labels and is not scored" in run.err
    assert "test_accuracy" not in (folder / "all_results.json").read_text()


def test_nothing_is_trained(trained, files, work):
    folder, _ = trained
    before = snapshot(folder)
    given = files | {"model_name_or_path": folder, "output_dir": "out", "report_to": "none"}
    run = call(**given, do_train=False, do_eval=True, attack_epsilons=0.1, do_predict=True)
    assert run.code == 0, run.err
    assert snapshot(folder) == before
    assert not (work / "out" / "model.safetensors").exists()
    (row,) = columns(run)
    right = [one == row["label"] for one, row in zip(answers(folder), SPLITS["test"], strict=True)]
    assert row["training"] == "m"
    assert row["accuracy"] == f"{sum(right) / len(right):.4f}"
    assert row["seconds"] == "not trained"
    (found,) = json.loads((work / "out" / "nlp_adv_report.json").read_text())["runs"]
    assert found["accuracy_under_attack"].keys() == {"0.1"}
    assert len(predictions(work / "out" / "predict_results_test.txt")) == 1 + len(right)


def test_scoring_can_be_left_out(files, work):
    run = call(**files, **BRIEF, do_eval=False, output_dir="out")
    assert run.code == 0, run.err
    assert columns(run)[0].keys() == {"training", "seconds"}
    assert (work / "out" / "model.safetensors").exists()


def test_scores_of_a_regression(files, work):
    rows = [
        {"text": f"the {NOUNS[0]} is {word}", "label": i / 4}
        for i, word in enumerate(WORDS["good"])
    ]
    given = {"model_name_or_path": files["model_name_or_path"], "output_dir": "out", **BRIEF}
    given |= {
        "train_file": write(work / "r.jsonl", rows),
        "test_file": write(work / "t.jsonl", rows),
    }
    run = call(**given, do_predict=True)
    assert run.code == 0, run.err
    _, *found = predictions(work / "out" / "predict_results_test.txt")
    assert all(abs(float(score)) < 10 for _, score in found)


@pytest.mark.parametrize("modality", ["text", "image"])
def test_a_model_is_needed(modality, work):
    refused(call(modality=modality, do_train=False, output_dir="out"), "--model_name_or_path")


def test_a_model_without_a_trained_head_is_no_classifier(files, work):
    given = files | BRIEF | {"do_train": False, "output_dir": "out"}
    run = call(**given)
    assert run.code == 2
    assert "holds no trained classifier" in run.err.splitlines()[-1]


def test_predicting_nothing(files, work):
    given = {key: value for key, value in files.items() if key != "test_file"}
    refused(call(**given, **BRIEF, do_predict=True, output_dir="out"), "--do_predict", "test split")


def test_images(work):
    small = {"max_train_samples": 64, "max_eval_samples": 20, "num_train_epochs": 0.5}
    given = {"modality": "image", "adv": "none", "attack_steps": 1, "report_to": "none", **small}
    assert call(**given, output_dir="m", watch_epsilon=0).code == 0
    run = call(**given, model_name_or_path="m", do_train=False, do_predict=True, output_dir="out")
    assert run.code == 0, run.err
    _, *rows = predictions(work / "out" / "predict_results_test.txt")
    assert len(rows) == 20
    assert {one for _, one in rows} <= set("0123456789")
    one, other = (
        json.loads((work / name / "nlp_adv_report.json").read_text()) for name in ("m", "out")
    )
    assert (
        one["runs"][0]["metrics"]["test_accuracy"] == other["runs"][0]["metrics"]["test_accuracy"]
    )
