"""`nlp-adv train` from the flags to the files: what it refuses, what it writes, what repeats."""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import (
    BRIEF,
    NOUNS,
    SPLITS,
    TINY_DEMO,
    WORDS,
    Run,
    call,
    refused,
    refused_without_trace,
    snapshot,
    write,
)
from datasets import load_dataset
from safetensors.torch import load_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
)

import nlp_adv
from nlp_adv.cli.main import main
from nlp_adv.methods import METHODS
from nlp_adv.robustness.embedding import embedding_pgd, embedding_robustness

EPSILONS = (0.5, 0.02, 0.1)
FREELB = {"adv": "freelb", "adv_epsilon": 0.2, "adv_steps": 2, "adv_unit": "relative"}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(one: Path, other: Path) -> bool:
    left, right = weights(one), weights(other)
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def report(folder: Path) -> dict:
    return json.loads((folder / "nlp_adv_report.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def freelb(files, tmp_path_factory) -> tuple[Run, Path]:
    """One full run: three splits, FreeLB beside plain, three radii."""
    folder = tmp_path_factory.mktemp("freelb") / "out"
    settings = {"compare_plain": True, "attack_epsilons": EPSILONS, "output_dir": folder}
    seen_before = [*SPLITS["validation"], *SPLITS["train"][:2]]
    settings["validation_file"] = write(folder.with_name("dev.jsonl"), seen_before)
    return call(**files | BRIEF | FREELB | settings), folder


# flags, and what the one sentence must name; FILES brings a model and data
BAD_FLAGS = {
    "unknown method": ({"adv": "nosuch"}, ["nosuch", "freelb"]),
    "field that fgm lacks": ({"adv": "fgm", "adv_steps": 3}, ["fgm", "steps"]),
    "field that none lacks": ({"adv": "none", "adv_epsilon": 0.1}, ["none", "epsilon"]),
    "negative epsilon": ({"adv": "pgd", "adv_epsilon": -0.1}, ["epsilon", "-0.1"]),
    "epsilon not a number": ({"adv": "pgd", "adv_epsilon": "nan"}, ["epsilon", "nan"]),
    "no steps": ({"adv": "freelb", "adv_steps": 0}, ["steps"]),
    "negative steps": ({"adv": "pgd", "adv_steps": -1}, ["steps"]),
    "clean weight one": ({"adv": "pgd", "adv_clean_weight": 1}, ["clean_weight"]),
    "unit alone": ({"adv": "pgd", "adv_unit": "absolute"}, ["unit", "epsilon"]),
    "unknown flag": ({"adv_epsilonn": 0.1}, ["--adv_epsilonn", "did you mean --adv_epsilon?"]),
    "quite unknown flag": ({"zzzzzz": 1}, ["--zzzzzz", "--help"]),
    "best model never saved": (
        {"load_best_model_at_end": True, "eval_strategy": "epoch"},
        ["load_best_model_at_end"],
    ),
    "negative start": ({"adv": "pgd", "adv_start_step": -1}, ["start_step"]),
    "negative attack radius": ({"attack_epsilons": -0.1}, ["attack_epsilons"]),
    "attack radius not a number": ({"attack_epsilons": "nan"}, ["attack_epsilons"]),
    "infinite attack radius": ({"attack_epsilons": "inf"}, ["attack_epsilons"]),
    "no attack radius": ({"attack_epsilons": 0}, ["--attack_epsilons", "above 0"]),
    "attack radius twice": ({"attack_epsilons": [0.1, 0.1]}, ["--attack_epsilons", "twice"]),
    "negative watched radius": ({"watch_epsilon": -0.1}, ["--watch_epsilon", "above 0"]),
    "watched radius zero": ({"watch_epsilon": 0}, ["--watch_epsilon", "above 0"]),
    "watched radius not a number": ({"watch_epsilon": "nan"}, ["--watch_epsilon", "above 0"]),
    "no attack steps": ({"attack_steps": 0}, ["attack_steps"]),
    "no attacked rows": ({"attack_examples": 0}, ["attack_examples"]),
    "no training rows": ({"max_train_samples": 0}, ["max_train_samples"]),
    "no evaluation rows": ({"max_eval_samples": 0}, ["max_eval_samples"]),
    "no room for a token": ({"max_seq_length": 0}, ["max_seq_length"]),
    "unknown embedding": ({"adv": "pgd", "adv_embedding": "nosuch"}, ["nosuch", "embedding"]),
    "start beyond the run": ({"adv": "pgd", "adv_start_step": 1000}, ["1000", "start_step"]),
    "epoch beyond the run": ({"adv": "pgd", "adv_start_epoch": 1000}, ["--adv_start_epoch"]),
    "no nth step": ({"adv": "pgd", "adv_every": 0}, ["--adv_every", "not 0"]),
    "no condition": ({"adv": "pgd", "adv_start_when": "loss"}, ["--adv_start_when", "'loss'"]),
    "a metric without evaluations": (
        {"adv": "pgd", "adv_start_when": "eval_accuracy>0.8"},
        ["--adv_start_when", "--eval_strategy"],
    ),
    "a metric that nobody measures": (
        {"adv": "pgd", "adv_start_when": "eval_acc>0.8", "eval_strategy": "epoch"},
        ["'eval_acc'", "did you mean eval_accuracy", "eval_largest_answer"],
    ),
    "a number to change that fgm lacks": (
        {"adv": "fgm", "adv_linear": "steps=1"},
        ["--adv_linear", "'steps'", "epsilon"],
    ),
    "weights that are not there": (
        {"adv": "awp", "adv_parameters": "layer.77"},
        ["--adv_parameters", "'layer.77'", "classifier.weight"],
    ),
}

BAD_DATA = {
    "bad JSON": (
        '{"text": "a", "label": 0}\n{"text": "b", "label": 1}\n{"text": \n',
        ["line 3"],
    ),
    "label list": ('{"text": "a", "label": [0, 1]}\n{"text": "b", "label": [1]}\n', ["Row 1"]),
    "empty": ("", ["empty"]),
    "one class": ('{"text": "a", "label": 0}\n' * 3, ["at least two classes"]),
    "no label": ('{"text": "a", "more": 0}\n' * 3, ["No label column", "text, more"]),
}

MENDED_BY_DEMO = ("unit alone",)  # the demo brings its ε


class TestRefusals:
    @pytest.mark.parametrize("case", BAD_FLAGS)
    def test_a_bad_flag(self, work, files, case):
        bad, words = BAD_FLAGS[case]
        given = {**files, **BRIEF, "output_dir": "out"}
        if "attack" in case:
            given["attack_epsilons"] = 0.1
        refused_without_trace(work, given | bad, words)

    @pytest.mark.parametrize("case", [name for name in BAD_FLAGS if name not in MENDED_BY_DEMO])
    def test_a_bad_flag_of_the_demo(self, work, case):
        bad, words = BAD_FLAGS[case]
        given = {**TINY_DEMO, "disable_tqdm": True, "compare_plain": False, "output_dir": "out"}
        refused_without_trace(work, given | bad, words)

    @pytest.mark.parametrize(
        ("flag", "value"),
        [("adv_epsilon", "much"), ("adv_norm", "l3"), ("lr_scheduler_type", "nosuch")],
    )
    def test_a_value_that_argparse_refuses(self, work, flag, value):
        given = {"adv": "pgd", "output_dir": "out", flag: value}
        refused_without_trace(work, given, [f"--{flag}", value])

    def test_half_of_model_and_data(self, work, files):
        model = {"model_name_or_path": files["model_name_or_path"]}
        data = {"train_file": files["train_file"]}
        for half in (model, data):
            refused_without_trace(work, half | BRIEF | {"output_dir": "out"}, ["Name a model"])
        for flag in ("text_columns", "label_column", "regression", "tokenizer_name"):
            refused_without_trace(work, {flag: "true", "output_dir": "out"}, [flag, "demo"])

    @pytest.mark.parametrize(
        "name", ["./nosuch", "nosuch/folder/of/mine", "no-such/name", "nosuch"]
    )
    def test_a_model_that_is_not_there(self, work, files, name):
        given = files | BRIEF | {"model_name_or_path": name, "output_dir": "out"}
        refused_without_trace(work, given, [name])

    @pytest.mark.parametrize(
        "name", ["./nosuch", "nosuch/folder/of/mine", "no-such/name", "nosuch"]
    )
    def test_data_that_is_not_there(self, work, files, name):
        model = {"model_name_or_path": files["model_name_or_path"], "dataset_name": name}
        refused_without_trace(work, model | BRIEF | {"output_dir": "out"}, [name])

    def test_a_file_that_is_not_there(self, work, files):
        given = files | BRIEF | {"train_file": "nosuch.csv", "output_dir": "out"}
        refused_without_trace(work, given, ["nosuch.csv", "does not exist"])

    def test_a_folder_without_a_model(self, work, files):
        (work / "empty").mkdir()
        given = files | BRIEF | {"model_name_or_path": "empty", "output_dir": "out"}
        refused_without_trace(work, given, ["The folder empty holds no"])

    def test_a_model_with_another_number_of_classes(self, work, files):
        folder = Path(files["model_name_or_path"])
        shutil.copytree(folder, work / "three")
        config = BertConfig.from_pretrained(folder, num_labels=3)
        BertForSequenceClassification(config).save_pretrained(work / "three")
        given = files | BRIEF | {"model_name_or_path": "three", "output_dir": "out"}
        refused_without_trace(work, given, ["three"])

    @pytest.mark.parametrize("case", BAD_DATA)
    def test_bad_data(self, work, files, case):
        content, words = BAD_DATA[case]
        (work / "bad.json").write_text(content, encoding="utf-8")
        given = files | BRIEF | {"train_file": "bad.json", "output_dir": "out"}
        refused_without_trace(work, given, ["bad.json", *words] if case == "empty" else words)

    def test_an_empty_split(self, work, files):
        (work / "dev.csv").write_text("text,label\n", encoding="utf-8")
        given = files | BRIEF | {"validation_file": "dev.csv", "output_dir": "out"}
        refused_without_trace(work, given, ["dev.csv", "empty"])

    def test_a_label_that_training_lacks(self, work, files):
        name = write(work / "dev.jsonl", [{"text": "a", "label": "ugly"}])
        given = files | BRIEF | {"validation_file": name, "output_dir": "out"}
        refused_without_trace(work, given, ["'ugly'", "bad, good", "validation"])

    @pytest.mark.parametrize("flag", ["text_columns", "label_column"])
    def test_an_unknown_column(self, work, files, flag):
        given = files | BRIEF | {flag: "nosuch", "output_dir": "out"}
        refused_without_trace(work, given, ["'nosuch'", "text, label"])

    def test_evaluation_of_nothing(self, work, files):
        alone = {k: v for k, v in files.items() if k not in ("validation_file", "test_file")}
        given = alone | BRIEF | {"output_dir": "out"}
        refused_without_trace(work, given | {"eval_strategy": "epoch"}, ["--eval_strategy"])
        refused_without_trace(work, given | {"attack_epsilons": 0.1}, ["--attack_epsilons"])
        tested = given | {"test_file": files["test_file"], "eval_strategy": "epoch"}
        refused_without_trace(work, tested, ["validation"])

    def test_attacks_on_regression(self, work, files):
        rows = [{"text": row["text"], "label": i / 7} for i, row in enumerate(SPLITS["test"])]
        name = write(work / "scores.jsonl", rows)
        given = {"model_name_or_path": files["model_name_or_path"], "attack_epsilons": 0.1}
        given |= {"train_file": name, "validation_file": name, "output_dir": "out", **BRIEF}
        run = call(**given)
        assert run.code == 2
        assert run.err.splitlines()[-1].startswith("nlp-adv train: error: --attack_epsilons")
        assert not (work / "out").exists()

    @pytest.mark.parametrize("adv", ["none", "freelb"])
    def test_a_folder_that_holds_something(self, work, files, adv):
        (work / "out").mkdir()
        (work / "out" / "notes.txt").write_text("mine", encoding="utf-8")
        given = files | BRIEF | {"adv": adv, "output_dir": "out"}
        refused_without_trace(work, given, ["out", "not empty", "--overwrite_output_dir"])

    def test_a_file_where_the_folder_should_be(self, work, files):
        (work / "out").write_text("mine", encoding="utf-8")
        refused_without_trace(work, files | BRIEF | {"output_dir": "out"}, ["out", "is a file"])

    @pytest.mark.parametrize("checkpoint", ["last", "true", "nosuch/checkpoint-3"])
    @pytest.mark.parametrize("folder", ["missing", "empty", "without checkpoint"])
    def test_a_checkpoint_that_is_not_there(self, work, files, folder, checkpoint):
        if folder != "missing":
            (work / "out").mkdir()
        if folder == "without checkpoint":
            (work / "out" / "notes.txt").write_text("mine", encoding="utf-8")
        given = files | BRIEF | {"output_dir": "out", "resume_from_checkpoint": checkpoint}
        refused_without_trace(work, given, ["There is no checkpoint"])

    @pytest.mark.parametrize("content", ["{", "[1, 2]", None], ids=["broken", "list", "missing"])
    def test_a_bad_file_of_flags(self, work, content):
        if content is not None:
            (work / "flags.json").write_text(content, encoding="utf-8")
        before = snapshot(work)
        with contextlib.redirect_stderr(io.StringIO()) as err:
            code = main(["train", "flags.json"])
        refused(Run(code, "", err.getvalue()), "flags.json")
        assert snapshot(work) == before

    def test_a_shortened_flag_is_obeyed_or_refused(self, work):
        """argparse takes `--output_di` for `--output_dir`; the run must not go elsewhere."""
        run = call(**TINY_DEMO, output_di="mine", disable_tqdm=True)
        assert run.code == 2 or (work / "mine" / "model.safetensors").exists()
        assert not (work / "runs").exists()

    def test_an_unknown_command(self, capsys):
        assert main(["trian"]) == 2
        assert "'trian'" in capsys.readouterr().err


class TestOneRun:
    def test_it_ends_well(self, freelb):
        run, _ = freelb
        assert run.code == 0, run.err
        assert "Traceback" not in run.err

    def test_the_config_names_the_classes(self, freelb):
        config = json.loads((freelb[1] / "config.json").read_text(encoding="utf-8"))
        assert config["id2label"] == {"0": "bad", "1": "good"}
        assert config["label2id"] == {"bad": 0, "good": 1}
        assert config["problem_type"] == "single_label_classification"

    @pytest.mark.parametrize("inside", ["", "plain"])
    def test_what_a_saved_model_needs_is_there(self, freelb, files, inside):
        folder = freelb[1] / inside
        model = AutoModelForSequenceClassification.from_pretrained(folder)
        assert model.config.hidden_size == 16
        text = "the plot is superb"
        saved = AutoTokenizer.from_pretrained(folder)
        given = AutoTokenizer.from_pretrained(files["model_name_or_path"])
        assert saved(text)["input_ids"] == given(text)["input_ids"]

    def test_the_method_and_its_numbers_lie_beside_the_model(self, freelb):
        folder = freelb[1]
        adversarial = json.loads((folder / "adversarial_config.json").read_text(encoding="utf-8"))
        want = {"method": "freelb", "epsilon": 0.2, "steps": 2, "unit": "relative", "norm": "l2"}
        assert adversarial.items() >= want.items()
        plain = json.loads((folder / "plain/adversarial_config.json").read_text(encoding="utf-8"))
        assert plain["method"] == "none"
        assert "epsilon" not in plain
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert "### Adversarial training" in card
        assert "- method: freelb" in card
        assert "- epsilon: 0.2" in card
        assert "- method: none" in (folder / "plain" / "README.md").read_text(encoding="utf-8")

    def test_the_report_holds_the_numbers_of_both_runs(self, freelb):
        content = report(freelb[1])
        assert content["synthetic_data"] is False
        assert content["split"] == "test"
        assert [run["method"] for run in content["runs"]] == ["none", "freelb"]
        for run in content["runs"]:
            assert run["train_seconds"] > 0
            assert {"validation_accuracy", "test_accuracy"} <= run["metrics"].keys()
            assert run["attacked_examples"] == len(SPLITS["test"])
            assert run["accuracy_without_attack"] == run["metrics"]["test_accuracy"]
            under = run["accuracy_under_attack"]
            assert list(under) == [str(epsilon) for epsilon in sorted(EPSILONS)]
            ordered = [under[str(epsilon)] for epsilon in sorted(EPSILONS)]
            assert run["accuracy_without_attack"] >= ordered[0]
            assert ordered == sorted(ordered, reverse=True)
            assert ordered[-1] < run["accuracy_without_attack"]

    @pytest.mark.parametrize("number", [0, 1])
    def test_the_saved_model_has_the_robustness_that_the_report_says(self, freelb, files, number):
        folder = [freelb[1] / "plain", freelb[1]][number]
        model = AutoModelForSequenceClassification.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        rows = load_dataset("json", data_files=files["test_file"], split="train")
        encoded = [
            {**tokenizer(row["text"]), "labels": model.config.label2id[row["label"]]}
            for row in rows
        ]
        batch = dict(DataCollatorWithPadding(tokenizer)(encoded))
        measured = embedding_robustness(model, [batch], embedding_pgd(EPSILONS))
        run = report(freelb[1])["runs"][number]
        assert measured.clean_accuracy == run["metrics"]["test_accuracy"]
        for epsilon in EPSILONS:
            assert measured.accuracy(epsilon) == run["accuracy_under_attack"][str(epsilon)]

    def test_the_table_shows_the_report(self, freelb):
        run, folder = freelb
        # A model with one answer is marked (†) behind its accuracies under attack.
        table = [line.replace(" †", "").split() for line in run.out.splitlines()]
        rows = {cells[0]: cells for cells in table if cells and cells[0] in ("plain", "freelb")}
        assert list(rows) == ["plain", "freelb"]
        for name, numbers in zip(rows, report(folder)["runs"], strict=True):
            shown = rows[name]
            assert f"{numbers['metrics']['test_accuracy']:.4f}" == shown[1]
            under = numbers["accuracy_under_attack"]
            assert shown[-5:-2] == [f"{under[str(e)]:.4f}" for e in sorted(EPSILONS)]
        assert rows["plain"][-1] == "1.00"
        header = next(line for line in run.out.splitlines() if line.startswith("training"))
        assert [f"ε={e:g}" in header for e in EPSILONS] == [True] * 3
        assert "synthetic" not in run.out

    def test_rows_in_train_and_evaluation_are_counted(self, freelb):
        warnings = [line for line in freelb[0].err.splitlines() if line.startswith("Warning")]
        assert len(warnings) == 1
        assert "2 of 10 validation texts" in warnings[0]

    def test_the_same_seed_gives_the_same_weights(self, freelb, files, work):
        again, other = work / "again", work / "other"
        given = {**files, **BRIEF, **FREELB}
        assert call(**given, output_dir=again).code == 0
        assert call(**given, output_dir=other, seed=7).code == 0
        assert same(freelb[1], again)
        assert not same(freelb[1], other)

    def test_the_plain_row_is_an_ordinary_run(self, freelb, files, work):
        assert call(**files, **BRIEF, adv="none", output_dir=work / "none").code == 0
        assert same(freelb[1] / "plain", work / "none")
        assert not same(freelb[1], work / "none")

    def test_flags_in_a_file_are_flags(self, freelb, files, work):
        settings = {**files, **BRIEF, **FREELB, "use_cpu": True, "output_dir": "out"}
        settings |= {"attack_epsilons": list(EPSILONS), "attack_examples": 3}
        (work / "flags.json").write_text(json.dumps(settings), encoding="utf-8")
        with contextlib.redirect_stdout(io.StringIO()):
            assert main(["train", "flags.json"]) == 0
        assert same(freelb[1], work / "out")
        (run,) = report(work / "out")["runs"]
        assert run["attacked_examples"] == 3
        assert list(run["accuracy_under_attack"]) == [str(epsilon) for epsilon in sorted(EPSILONS)]


class TestKindsOfData:
    def test_pairs_in_csv(self, work, files):
        labels = ("no", "yes", "maybe")
        lines = [
            f"the {noun} is {word},it is {word},{labels[(i + j) % 3]}"
            for i, noun in enumerate(NOUNS)
            for j, word in enumerate(WORDS["good"])
        ]
        text = "\n".join(["sentence1,sentence2,label", *lines]) + "\n"
        for name in ("train", "validation"):
            (work / f"{name}.csv").write_text(text, encoding="utf-8")
        given = {"model_name_or_path": files["model_name_or_path"], "train_file": "train.csv"}
        given |= {"validation_file": "validation.csv", "adv": "fgm", **BRIEF}
        run = call(**given, output_dir="both", attack_epsilons=0.1)
        assert run.code == 0, run.err
        config = json.loads((work / "both" / "config.json").read_text(encoding="utf-8"))
        assert list(config["id2label"].values()) == ["maybe", "no", "yes"]
        assert report(work / "both")["split"] == "validation"
        assert "20 of 20 validation texts" in run.err
        assert call(**given, text_columns="sentence1", output_dir="first").code == 0
        assert not same(work / "both", work / "first")

    def test_scores(self, work, files):
        rows = [{"text": row["text"], "score": i / 7} for i, row in enumerate(SPLITS["train"])]
        name = write(work / "scores.jsonl", rows)
        given = {"model_name_or_path": files["model_name_or_path"], "train_file": name}
        run = call(**given, **BRIEF, test_file=name, adv="pgd", output_dir="out")
        assert run.code == 0, run.err
        config = json.loads((work / "out" / "config.json").read_text(encoding="utf-8"))
        assert config["problem_type"] == "regression"
        assert len(config["id2label"]) == 1
        (numbers,) = report(work / "out")["runs"]
        assert {"test_pearson", "test_mse"} <= numbers["metrics"].keys()
        assert "test_accuracy" not in numbers["metrics"]
        assert "accuracy_under_attack" not in numbers

    def test_training_rows_alone(self, work, files):
        given = {"model_name_or_path": files["model_name_or_path"], "adv": "noise"}
        run = call(**given, **BRIEF, train_file=files["train_file"], output_dir="out")
        assert run.code == 0, run.err
        assert report(work / "out")["split"] is None
        assert (work / "out" / "model.safetensors").exists()


class TestCheckpoints:
    def test_the_best_model_is_the_one_that_is_saved(self, work, files):
        """So small a learning rate leaves accuracy as it was: the first checkpoint is the best."""
        settings = {**files, **BRIEF, **FREELB, "learning_rate": 1e-6, "output_dir": "out"}
        settings |= {"max_steps": -1, "num_train_epochs": 3, "eval_strategy": "epoch"}
        settings |= {"save_strategy": "epoch", "load_best_model_at_end": True}
        run = call(**settings, metric_for_best_model="accuracy")
        assert run.code == 0, run.err
        state = json.loads((work / "out" / "trainer_state.json").read_text(encoding="utf-8"))
        best = Path(state["best_model_checkpoint"])
        assert best.name == "checkpoint-6"
        assert same(work / "out", best)
        assert not same(work / "out", work / "out" / "checkpoint-18")
        config = json.loads((best / "adversarial_config.json").read_text(encoding="utf-8"))
        assert config["method"] == "freelb"

    @pytest.mark.parametrize("adv", ["none", "freelb"])
    def test_a_resumed_run_is_the_run_it_would_have_been(self, work, files, adv):
        settings = {**files, **BRIEF, "output_dir": "out", "max_steps": 8}
        settings |= {"save_strategy": "steps", "save_steps": 4}
        if adv != "none":
            settings |= {**FREELB, "adv_start_step": 2, "adv_ramp_steps": 4}
        assert call(**settings).code == 0
        (work / "out").rename(work / "whole")
        (work / "out").mkdir()
        shutil.copytree(work / "whole" / "checkpoint-4", work / "out" / "checkpoint-4")
        assert not same(work / "whole", work / "out" / "checkpoint-4")
        run = call(**settings, resume_from_checkpoint="last")
        assert run.code == 0, run.err
        assert same(work / "out", work / "whole")

    def test_when_the_attack_began_is_written_down(self, work, files):
        settings = {**files, **BRIEF, **FREELB, "output_dir": "out", "max_steps": 8}
        settings |= {"eval_strategy": "steps", "eval_steps": 2, "adv_start_when": "eval_loss<100"}
        settings |= {"adv_linear": "steps=1", "adv_every": 2, "adv_start_epoch": 0.25}
        run = call(**settings)
        assert run.code == 0, run.err
        want = {"start_when": "eval_loss<100.0", "begun_at": 2, "linear": {"steps": 1}, "every": 2}
        written = json.loads((work / "out/adversarial_config.json").read_text(encoding="utf-8"))
        assert written.items() >= want.items()
        assert report(work / "out")["runs"][0].items() >= want.items()

    def test_a_longer_run_goes_on_from_the_last_checkpoint(self, work, files):
        settings = {**files, **BRIEF, **FREELB, "lr_scheduler_type": "constant"}
        settings |= {"save_strategy": "steps", "save_steps": 1}
        assert call(**settings | {"output_dir": "whole", "max_steps": 4}).code == 0
        assert call(**settings | {"output_dir": "out", "max_steps": 2}).code == 0
        assert not same(work / "out", work / "whole")
        resumed = settings | {"output_dir": "out", "max_steps": 4, "resume_from_checkpoint": "last"}
        assert call(**resumed).code == 0
        assert same(work / "out", work / "whole")

    def test_overwriting_is_allowed_when_asked(self, work, files):
        (work / "out").mkdir()
        (work / "out" / "notes.txt").write_text("mine", encoding="utf-8")
        given = {**files, **BRIEF, "output_dir": "out", "overwrite_output_dir": True}
        assert call(**given).code == 0
        assert (work / "out" / "model.safetensors").exists()
        assert (work / "out" / "notes.txt").read_text(encoding="utf-8") == "mine"


class TestDemo:
    @pytest.mark.parametrize("adv", METHODS)
    def test_every_method_runs(self, work, adv):
        run = call(adv=adv, **TINY_DEMO, attack_epsilons=0.06)
        assert run.code == 0, run.err
        folder = work / "runs" / f"demo-{adv}"
        content = report(folder)
        assert content["synthetic_data"] is True
        assert "The sentences are synthetic" in run.out
        methods = ["none"] if adv == "none" else ["none", adv]
        assert [one["method"] for one in content["runs"]] == methods
        assert (folder / "plain").is_dir() == (adv != "none")
        first = [line.split()[0] for line in run.out.splitlines() if line.strip()]
        assert [name for name in first if name in ("plain", adv)] == methods_shown(methods)
        for one in content["runs"]:
            assert one["attacked_examples"] == 32
            assert 0 <= one["accuracy_under_attack"]["0.06"] <= one["accuracy_without_attack"]

    def test_a_second_run_takes_a_second_folder_and_repeats_the_first(self, work):
        for _ in range(2):
            assert call(adv="fgm", **TINY_DEMO, compare_plain=False).code == 0
        names = sorted(path.name for path in (work / "runs").iterdir())
        assert names == ["demo-fgm", "demo-fgm-2"]
        assert same(work / "runs" / "demo-fgm", work / "runs" / "demo-fgm-2")

    def test_the_users_flags_go_before_the_demos(self, work):
        settings = {"adv": "pgd", "adv_epsilon": 0.3, "adv_start_step": 0, "adv_ramp_steps": 0}
        run = call(**settings, **TINY_DEMO, compare_plain=False, output_dir="mine")
        assert run.code == 0, run.err
        content = json.loads((work / "mine/adversarial_config.json").read_text(encoding="utf-8"))
        assert content.items() >= {"epsilon": 0.3, "start_step": 0, "ramp_steps": 0}.items()
        assert [one["method"] for one in report(work / "mine")["runs"]] == ["pgd"]
        assert not (work / "runs").exists()


def methods_shown(methods: list[str]) -> list[str]:
    return ["plain" if method == "none" else method for method in methods]


class TestProcess:
    @pytest.mark.slow  # another process imports everything anew
    def test_the_command_in_a_process_of_its_own(self, work):
        """Exit code, streams and the folder, where nothing was imported before."""
        root = str(Path(nlp_adv.__file__).parents[1])
        run = subprocess.run(
            [sys.executable, "-m", "nlp_adv.cli.main", "train", "--adv", "nosuch"],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": root},
            check=False,
        )
        refused(Run(run.returncode, run.stdout, run.stderr), "nosuch")
        assert snapshot(work) == {}

    def test_version_and_help(self, capsys):
        assert main(["--version"]) == 0
        assert capsys.readouterr().out == f"nlp-adv {nlp_adv.__version__}\n"
        assert main(["--help"]) == 0
        assert "train" in capsys.readouterr().out
        assert main([]) == 2
        with pytest.raises(SystemExit) as caught:
            main(["train", "--help"])
        assert caught.value.code == 0
        shown = capsys.readouterr().out
        for flag in ("--adv", "--adv_epsilon", "--train_file", "--attack_epsilons"):
            assert f"{flag} " in shown


@pytest.mark.fault("U9")
def test_rows_without_anything_to_read_are_said(files, work):
    """Empty, white space, and what the tokenizer makes no token of."""
    blank = [{"text": text, "label": "good"} for text in ("", " \t", "\u200b", "\ufffd")]
    settings = {**files, **BRIEF, "output_dir": "out", "adv": "none"}
    settings["train_file"] = write(work / "some.jsonl", [*SPLITS["train"], *blank])
    run = call(**settings)
    assert run.code == 0, run
    number = len(SPLITS["train"])
    said = f"4 of {number + 4} train rows hold nothing to read (the first is row {number + 1}"
    assert said in run.err
    assert run.err.count("nothing to read") == 1
    rows = [*blank[:2], {"text": "", "label": "bad"}]
    settings["train_file"] = write(work / "all.jsonl", rows)
    refused(call(**{**settings, "output_dir": "other"}), "train split", "nothing to read", "'text'")
    assert not (work / "other").exists()


def test_words_are_attacked_while_training(files, work):
    """With a row of its own in the table, and a warning where nothing was found."""
    given = {**files, **BRIEF, "max_steps": 30, "adv_words_start_epoch": 0}
    run = call(**given, adv_words="deepwordbug", compare_plain=True, output_dir="out")
    assert run.code == 0, run.err
    assert "texts attacked by deepwordbug each epoch, after 0" in run.err
    plain, words = report(work / "out")["runs"]
    assert "words" not in plain
    assert words["words"]["attack"] == "deepwordbug"
    logs = [line for line in words["history"] if "words_drawn" in line]
    assert len(logs) > 1
    assert not same(work / "out", work / "out" / "plain")
    (work / "none.json").write_text('{"xylophone": ["drum"]}')
    given |= {"adv_words": "textfooler", "neighbours": "none.json"}
    run = call(**given, output_dir="none")
    (found,) = report(work / "none")["runs"]
    assert "fooled the model with none" in found["warnings"][0]
    assert f"Warning: textfooler: {found['warnings'][0]}" in run.out
