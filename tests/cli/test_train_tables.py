"""The table at the end of `train`: of which rows its numbers are, and whether to believe them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import BRIEF, SPLITS, Run, call, columns, write
from transformers import AutoTokenizer


@pytest.fixture(scope="module")
def run(files, tmp_path_factory) -> tuple[Run, Path]:
    """Four of eight test rows are attacked."""
    folder = tmp_path_factory.mktemp("run") / "out"
    brief = {**BRIEF, "max_steps": 80, "per_device_train_batch_size": 24}
    attack = {"attack_epsilons": [0.05, 0.2], "attack_examples": 4}
    done = call(**files | brief | attack, output_dir=folder)
    assert done.code == 0, done.err
    return done, folder


@pytest.mark.fault("U8")
def test_clean_accuracy_of_the_attacked_rows_stands_beside_them(run):
    (row,) = columns(run[0])
    (found,) = json.loads((run[1] / "nlp_adv_report.json").read_text(encoding="utf-8"))["runs"]
    assert row["accuracy"] == f"{found['metrics']['test_accuracy']:.4f}"
    assert row["clean, first 4"] == f"{found['accuracy_without_attack']:.4f}"
    assert 4 * found["accuracy_without_attack"] == round(4 * found["accuracy_without_attack"])
    assert f"Scores are of all {len(SPLITS['test'])} rows of the test split" in run[0].out
    assert float(row["PGD-20 ε=0.05"]) <= float(row["clean, first 4"])


@pytest.mark.fault("S3")
def test_epsilon_is_told_as_a_share_of_one_token(run, files):
    tokenizer = AutoTokenizer.from_pretrained(files["model_name_or_path"])
    lengths = {len(tokenizer(row["text"])["input_ids"]) for row in SPLITS["test"]}
    assert len(lengths) == 1
    (tokens,) = lengths
    shares = [100 * epsilon * tokens**0.5 for epsilon in (0.05, 0.2)]
    assert f"{shares[0]:.2g} %, {shares[1]:.2g} % of one token's norm in a row of" in run[0].out
    (found,) = json.loads((run[1] / "nlp_adv_report.json").read_text(encoding="utf-8"))["runs"]
    assert found["share_of_a_token"]["0.2"] == pytest.approx(shares[1] / 100)


@pytest.mark.fault("U1")
class TestOneAnswer:
    @pytest.fixture
    def mostly_good(self, files, tmp_path) -> dict:
        """What teaches a model to say "good", and test rows of both classes."""
        rows = [{**row, "label": "good"} for row in SPLITS["train"]] + SPLITS["train"][:2]
        name = write(tmp_path / "mostly.jsonl", rows)
        brief = {**BRIEF, "max_steps": 30, "learning_rate": 0.01}
        return {**files, **brief, "train_file": name, "output_dir": tmp_path / "out"}

    @pytest.mark.parametrize("radii", [{}, {"attack_epsilons": 0.1}])
    def test_is_warned_of_in_every_table(self, mostly_good, radii):
        done = call(**mostly_good, **radii)
        (row,) = columns(done)
        assert row["largest answer"] == "1.0000"
        assert "Warning: † plain gives 100 % of the rows the same answer" in done.out
        assert "the share of one class" in done.out
        if radii:
            assert row["PGD-20 ε=0.1"] == f"{row['clean, first 8']} †"

    def test_is_not_where_the_labels_are_one_class(self, mostly_good, tmp_path):
        rows = [row for row in SPLITS["test"] if row["label"] == "good"]
        test_file = write(tmp_path / "good.jsonl", rows)
        done = call(**mostly_good | {"test_file": test_file})
        assert done.code == 0, done.err
        assert "Warning" not in done.out

    def test_a_model_that_has_learnt_is_not_warned_of(self, run):
        (row,) = columns(run[0])
        assert float(row["largest answer"]) < 0.95
        assert "Warning" not in run[0].out
        assert "†" not in run[0].out.split("Scores")[0]
