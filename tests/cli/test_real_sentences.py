"""`nlp-adv train` on real sentences and real weights, where both are at hand."""

import json
import os
from pathlib import Path

import pytest

from nlp_adv.cli.main import main

DATA, MODEL = os.environ.get("NLP_ADV_DATA"), os.environ.get("NLP_ADV_MODEL")


@pytest.mark.real_data
@pytest.mark.skipif(not (DATA and MODEL), reason="needs NLP_ADV_DATA and NLP_ADV_MODEL")
@pytest.mark.parametrize(("folder", "adv"), [("sst2", "freelb"), ("rte", "pgd")])
def test_a_pretrained_model_is_trained_and_attacked(tmp_path, folder, adv):
    flags = {
        "model_name_or_path": MODEL,
        "dataset_name": str(Path(str(DATA)) / folder),
        "adv": adv,
        "output_dir": str(tmp_path / "run"),
        "max_train_samples": "32",
        "max_eval_samples": "16",
        "max_seq_length": "48",
        "num_train_epochs": "1",
        "logging_steps": "1",
        "save_strategy": "no",
        "attack_epsilons": "0.02",
        "attack_steps": "3",
    }
    argv = [part for name, value in flags.items() for part in (f"--{name}", value)]
    assert main(["train", *argv]) == 0
    run = json.loads((tmp_path / "run" / "nlp_adv_report.json").read_text())["runs"][-1]
    assert run["accuracy_under_attack"]["0.02"] <= run["accuracy_without_attack"]
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    relative = [log["delta_relative"] for log in state["log_history"] if "delta_relative" in log]
    assert len(relative) == 4
    # The presets' three steps of ε/2 cover ε, and never leave the ball.
    assert all(0 < value <= 0.03 * (1 + 1e-5) for value in relative)
