"""Metrics against hand-counted values, and on the outputs that broken models give."""

import logging
import os
import subprocess
import sys
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import evaluate
import numpy as np
import pytest
from transformers import EvalPrediction

from nlp_adv.training import metrics


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path / "metrics"))


def logits_of(classes, count):
    return np.eye(count, dtype=np.float32)[classes]


def scores(task, names, predictions, labels):
    compute = metrics.compute_metrics_for(task, names)
    return compute(EvalPrediction(predictions=predictions, label_ids=np.asarray(labels)))


def test_binary_values_counted_by_hand():
    # 2 true positives, 1 false positive, 1 false negative, 2 true negatives
    got = scores(None, ("no", "yes"), logits_of([1, 1, 1, 0, 0, 0], 2), [1, 1, 0, 1, 0, 0])
    assert got == pytest.approx({"accuracy": 4 / 6, "f1": 2 / 3, "f1_macro": 2 / 3})


def test_macro_f1_is_the_mean_over_classes():
    got = scores(None, ("a", "b", "c"), logits_of([0, 0, 1, 2], 3), [0, 1, 1, 2])
    assert got == pytest.approx({"accuracy": 3 / 4, "f1_macro": (2 / 3 + 2 / 3 + 1) / 3})


def test_macro_f1_leaves_out_classes_that_do_not_occur():
    assert scores(None, ("a", "b", "c"), logits_of([0, 1], 3), [0, 1])["f1_macro"] == 1.0


@pytest.mark.parametrize(
    ("task", "keys"),
    [
        ("cola", {"accuracy", "matthews_correlation"}),
        ("mrpc", {"accuracy", "f1"}),
        ("qqp", {"accuracy", "f1"}),
        ("rte", {"accuracy"}),
        (None, {"accuracy", "f1", "f1_macro"}),
    ],
)
def test_each_task_has_its_metrics(task, keys):
    got = scores(task, ("0", "1"), logits_of([0, 1, 1], 2), [0, 1, 0])
    assert set(got) == keys
    assert all(type(value) is float for value in got.values())


def test_matthews_counted_by_hand():
    got = scores("cola", ("0", "1"), logits_of([1, 1, 0, 0, 1], 2), [1, 0, 0, 0, 1])
    assert got["matthews_correlation"] == pytest.approx((2 * 2 - 0) / np.sqrt(3 * 2 * 3 * 2))


def test_regression_values():
    predictions, labels = np.array([[1.0], [2.0], [4.0]]), [1.0, 3.0, 2.0]
    got = scores("stsb", None, predictions, labels)
    assert got["spearmanr"] == pytest.approx(0.5)
    assert got["pearson"] == pytest.approx(np.corrcoef([1, 2, 4], labels)[0, 1])
    assert got["mse"] == pytest.approx((0 + 1 + 4) / 3)
    assert scores(None, None, predictions[:, 0], labels) == got


@pytest.mark.parametrize("names", [None, ("0", "1")])
def test_the_first_of_a_tuple_is_taken(names):
    logits = np.array([[0.0], [1.0]]) if names is None else logits_of([0, 1], 2)
    got = scores(None, names, (logits, np.zeros((2, 7, 7))), [0, 1])
    assert got["pearson" if names is None else "accuracy"] == pytest.approx(1.0)


def test_constant_predictions_are_defined_and_quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cola = scores("cola", ("0", "1"), logits_of([0, 0, 0], 2), [0, 1, 1])
        same = scores("cola", ("0", "1"), logits_of([1, 1], 2), [1, 1])
        pair = scores("mrpc", ("0", "1"), logits_of([0, 0], 2), [0, 0])
        line = scores("stsb", None, np.full((3, 1), 2.5), [1.0, 2.0, 3.0])
    assert cola["matthews_correlation"] == same["matthews_correlation"] == 0.0
    assert pair == {"accuracy": 1.0, "f1": 0.0}
    assert (line["pearson"], line["spearmanr"]) == (0.0, 0.0)


@pytest.mark.parametrize("task", ["cola", "mrpc", None])
def test_nan_logits_count_as_wrong(task, caplog):
    logits = logits_of([0, 0, 1, 1], 2)
    logits[0] = np.nan  # argmax alone would call this row class 0, and right
    with caplog.at_level(logging.WARNING):
        got = scores(task, ("0", "1"), logits, [0, 0, 1, 1])
    assert got["accuracy"] == 0.75
    assert all(np.isfinite(value) for value in got.values())
    assert "1 of 4 predictions are NaN" in caplog.text


def test_nan_rows_lower_macro_f1_without_adding_a_class():
    logits = logits_of([0, 0, 1, 1], 2)
    logits[0] = np.nan
    assert scores(None, ("0", "1"), logits, [0, 0, 1, 1])["f1_macro"] == pytest.approx(5 / 6)


def test_nan_in_regression_cannot_look_good():
    got = scores(None, None, np.array([[1.0], [np.nan], [3.0]]), [1.0, 2.0, 3.0])
    assert got == {"pearson": 0.0, "spearmanr": 0.0, "mse": float("inf")}


def test_one_row_is_enough():
    assert scores(None, None, np.array([[1.0]]), [3.0]) == {
        "pearson": 0.0,
        "spearmanr": 0.0,
        "mse": 4.0,
    }
    assert scores("cola", ("0", "1"), logits_of([1], 2), [1])["accuracy"] == 1.0


def test_metrics_are_evaluate_metrics_that_add_up_batches(tmp_path):
    metric = metrics.Accuracy()
    assert isinstance(metric, evaluate.Metric)
    metric.add_batch(predictions=[0, 1], references=[0, 0])
    metric.add_batch(predictions=[1, 1], references=[1, 1])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]  # all in memory
    assert metric.compute() == {"accuracy": 0.75}
    assert metric.name == "accuracy"


def test_computing_leaves_the_random_state_alone():
    np.random.seed(3)
    before = np.random.get_state()[1].copy()
    scores(None, ("0", "1"), logits_of([0, 1], 2), [0, 1])
    assert (np.random.get_state()[1] == before).all()


@pytest.mark.slow
def test_processes_side_by_side_do_not_disturb_each_other(tmp_path):
    code = (
        "import sys; from nlp_adv.training.metrics import Accuracy\n"
        "right = int(sys.argv[1])\n"
        "for _ in range(20):\n"
        "    metric = Accuracy()\n"
        "    for i in range(10):\n"
        "        metric.add_batch(predictions=[int(i < right)], references=[1])\n"
        "    assert metric.compute() == {'accuracy': right / 10}\n"
    )
    env = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    running = [subprocess.Popen([sys.executable, "-c", code, str(n)], env=env) for n in (3, 8)]
    assert [process.wait(timeout=120) for process in running] == [0, 0]


@pytest.mark.fault("E10")
@pytest.mark.parametrize(
    "row", [[0.0, 0.0], [3.0, 3.0], [np.inf, 0.0], [0.0, -np.inf], [np.nan, 0.0]]
)
@pytest.mark.parametrize("label", [0, 1])
def test_logits_that_name_no_class_are_right_for_none(row, label):
    line = scores(None, ("a", "b"), np.array([row, [1.0, 0.0]]), [label, 0])
    assert line["accuracy"] == 0.5
