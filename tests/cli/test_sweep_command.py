"""`nlp-adv sweep`: what is tried, what is written, how it goes on, what it refuses."""

import json
import shutil
import sys
from pathlib import Path

import optuna
import pytest
from commands import BRIEF, SPLITS, TINY_DEMO, Run, call, refused_without_trace, snapshot, write
from filelock import FileLock
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from scipy.stats import spearmanr
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging as hf_logging

from nlp_adv.cli.main import main
from nlp_adv.errors import UserError
from nlp_adv.training.trainer import AdversarialTrainer

EPSILONS = (0.02, 0.2)
SPACE = ("adv_epsilon=0.05:0.5", "learning_rate=1e-4:3e-2")
SETTINGS = BRIEF | {"attack_epsilons": EPSILONS, "attack_steps": 3, "max_steps": 8, "adv": "fgm"}
del SETTINGS["learning_rate"]
FILES = ("best.json", "optuna_journal.log", "sweep.md", "sweep.svg")


@pytest.fixture(scope="module")
def given(files) -> dict:
    """Flags of a sweep; there is no test split, so that `train` reports on the validation rows."""
    known = {name: value for name, value in files.items() if name != "test_file"}
    return {**known, **SETTINGS}


def sweep(settings: dict) -> Run:
    return call(command="sweep", **settings)


def study(folder: Path) -> optuna.Study:
    file = JournalFileBackend(str(folder / "optuna_journal.log"))
    return optuna.load_study(study_name="sweep", storage=optuna.storages.JournalStorage(file))


def records(folder: Path) -> list[dict]:
    """The finished trials of a study, read as anybody would."""
    return [
        {"number": one.number, "params": one.params, "objective": one.value, **one.user_attrs}
        for one in study(folder).get_trials(states=[TrialState.COMPLETE])
    ]


def without_time(record: dict) -> dict:
    return {key: value for key, value in record.items() if key != "seconds"}


@pytest.fixture(scope="module")
def searched(given, tmp_path_factory):
    """A whole random sweep of four trials."""
    folder = tmp_path_factory.mktemp("searched") / "out"
    settings = {"space": SPACE, "trials": 4, "clean_share": 0.25, "output_dir": folder}
    return sweep(given | settings), folder


class TestOneSweep:
    def test_it_ends_well(self, searched):
        run, folder = searched
        assert run.code == 0, run.err
        assert {path.name for path in folder.iterdir()} >= set(FILES)
        assert not [path for path in folder.rglob("*") if "safetensors" in path.name]

    def test_a_line_for_each_trial(self, searched):
        run, folder = searched
        lines = [line for line in run.err.splitlines() if line.startswith("[")]
        assert [line.split()[0] for line in lines] == ["[1/4]", "[2/4]", "[3/4]", "[4/4]"]
        for line, one in zip(lines, records(folder), strict=True):
            assert f"adv_epsilon={one['params']['adv_epsilon']:.3g}" in line
            assert f"clean {one['clean']:.4f}, PGD ε=0.02 {one['robust']['0.02']:.4f}" in line
            assert f"objective {one['objective']:.4f}" in line

    def test_the_objective_is_the_stated_mix(self, searched):
        run, folder = searched
        found = records(folder)
        for one in found:
            robust = (one["robust"]["0.02"] + one["robust"]["0.2"]) / 2
            assert one["objective"] == pytest.approx(0.25 * one["clean"] + 0.75 * robust)
        assert len({one["objective"] for one in found}) > 1
        formula = study(folder).user_attrs["settings"]["objective"]
        assert "0.25·clean + 0.75·robust" in formula
        assert "validation" in formula
        assert "radii 0.02, 0.2" in formula
        assert f"Objective: {formula}." in run.out
        assert f"Objective: {formula}." in (folder / "sweep.md").read_text(encoding="utf-8")

    def test_the_draws_are_of_the_space(self, searched):
        found = [one["params"] for one in records(searched[1])]
        assert all(0.05 <= one["adv_epsilon"] <= 0.5 for one in found)
        assert all(1e-4 <= one["learning_rate"] <= 3e-2 for one in found)
        assert len({one["adv_epsilon"] for one in found}) == 4
        for one in records(searched[1]):
            assert one["method"]["method"] == "fgm"
            assert one["method"]["epsilon"] == one["params"]["adv_epsilon"]
            assert one["seed"] == 42

    def test_the_table_has_the_best_first(self, searched):
        run, folder = searched
        head, _, *rows = run.out.strip().splitlines()[:6]
        columns = (
            "trial adv_epsilon learning_rate clean clean, attacked rows PGD ε=0.02 PGD ε=0.2 "
            "objective seconds"
        )
        assert " ".join(head.split()) == columns
        best_first = sorted(records(folder), key=lambda one: (-one["objective"], one["number"]))
        assert [row.split()[0] for row in rows] == [str(one["number"]) for one in best_first]
        page = (folder / "sweep.md").read_text(encoding="utf-8")
        for row, one in zip(rows, best_first, strict=True):
            number, epsilon, _, clean, same, first, second, objective, _ = row.replace(
                " †", ""
            ).split()
            assert same == f"{one['clean_attacked']:.4f}" >= first
            assert row.count("†") == 3 * one["constant"]
            assert epsilon == f"{one['params']['adv_epsilon']:.3g}"
            assert clean == f"{one['clean']:.4f}"
            assert [first, second] == [f"{value:.4f}" for value in one["robust"].values()]
            assert objective == f"{one['objective']:.4f}"
            assert f"| {number} | {epsilon} |" in page

    def test_what_mattered_is_the_rank_correlation(self, searched):
        page = (searched[1] / "sweep.md").read_text(encoding="utf-8")
        found = records(searched[1])
        robust = [sum(one["robust"].values()) for one in found]
        measured = [[one["objective"] for one in found], [one["clean"] for one in found], robust]
        assert len(set(measured[0])) > 1
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        importance = optuna.importance.get_param_importances(
            study(searched[1]), evaluator=evaluator
        )
        assert sum(importance.values()) == pytest.approx(1)
        for name in ("adv_epsilon", "learning_rate"):
            values = [one["params"][name] for one in found]
            want = [
                f"{spearmanr(values, scores).statistic:+.2f}" if len(set(scores)) > 1 else "–"
                for scores in measured
            ]
            assert f"| {name} | {' | '.join(want)} | {importance[name]:.2f} |" in page

    def test_the_plot_has_a_panel_a_hyperparameter(self, searched):
        drawn = (searched[1] / "sweep.svg").read_text(encoding="utf-8")
        for words in ("adv_epsilon: ρ = ", "learning_rate: ρ = ", "n = 4", "robust", "objective"):
            assert words in drawn
        assert "importance (fANOVA)" in drawn
        assert drawn.count('id="axes_') == 3
        assert "![sweep.svg](sweep.svg)" in (searched[1] / "sweep.md").read_text(encoding="utf-8")

    @pytest.mark.parametrize("form", ["file", "printed"])
    def test_the_best_trial_can_be_trained(self, searched, work, form):
        """The same numbers, the loss to the last bit."""
        run, folder = searched
        best = max(records(folder), key=lambda one: (one["objective"], -one["number"]))
        argv = ["train", str(folder / "best.json")]
        if form == "printed":
            line = next(line for line in run.out.splitlines() if "nlp-adv train --" in line)
            argv = [*line.split()[1:], "--output_dir", "again"]
        assert main(argv) == 0
        trained = folder / "best" if form == "file" else work / "again"
        content = json.loads((trained / "nlp_adv_report.json").read_text(encoding="utf-8"))
        (numbers,) = content["runs"]
        assert content["split"] == "validation"
        assert numbers["metrics"]["validation_loss"] == best["loss"]
        assert numbers["metrics"]["validation_accuracy"] == best["clean"]
        assert numbers["accuracy_under_attack"] == best["robust"]
        assert numbers["epsilon"] == best["method"]["epsilon"]


class Killed(BaseException):
    """Nothing catches it, as nothing catches a killed process."""


def stop_after(monkeypatch, trials: int, how: type[BaseException]) -> list[dict]:
    """Let so many trainings end; the list fills with the arguments of those that begin."""
    begun = []
    train = AdversarialTrainer.train

    def counted(self, *args, **kwargs):
        begun.append(vars(self.args).copy())
        if len(begun) > trials:
            raise how
        return train(self, *args, **kwargs)

    monkeypatch.setattr(AdversarialTrainer, "train", counted)
    return begun


CHANGES = {
    "space": ({"space": "adv_epsilon=0.1,0.2"}, "another space"),
    "search": ({"search": "grid", "trials": 3}, "another search (random)"),
    "seed": ({"seed": 7}, "another seed (42)"),
    "objective": ({"clean_share": 1}, "another objective"),
    "attack": ({"attack_steps": 4}, "another objective"),
    "a flag": ({"max_steps": 9}, "another max_steps"),
    "a new flag": ({"weight_decay": 0.1}, "another weight_decay (not given)"),
}


class TestGoingOn:
    def test_a_killed_sweep_goes_on(self, searched, given, work):
        settings = given | {"space": SPACE, "trials": 4, "clean_share": 0.25, "output_dir": "out"}
        with pytest.MonkeyPatch.context() as patch:
            stop_after(patch, 2, Killed)
            with pytest.raises(Killed):
                sweep(settings)
        assert len(records(work / "out")) == 2
        with pytest.MonkeyPatch.context() as patch:
            begun = stop_after(patch, 9, Killed)
            run = sweep(settings)
        assert run.code == 0, run.err
        assert len(begun) == 2
        found = records(work / "out")
        assert list(map(without_time, found)) == list(map(without_time, records(searched[1])))

    def test_a_trial_of_another_process_is_left_to_it(self, searched, given, work):
        """The report is of what there is; the other process, or the same command, goes on."""
        settings = given | {"space": SPACE, "trials": 2, "clean_share": 0.25, "output_dir": "out"}
        (work / "out" / "trial-0").mkdir(parents=True)
        lock = FileLock(work / "out" / "trial-0" / ".lock")
        shutil.copy(searched[1] / "optuna_journal.log", work / "whole.log")
        lines = (work / "whole.log").read_text(encoding="utf-8").splitlines(keepends=True)
        begun = [line for line in lines if '"op_code":0' in line or '"op_code":2' in line]
        (work / "out" / "optuna_journal.log").write_text("".join(begun), encoding="utf-8")
        with lock:
            run = sweep(settings)
        assert run.code == 0, run.err
        assert "Trials that other processes are at: 1." in run.out
        assert [one["number"] for one in records(work / "out")] == [1]
        assert sweep(settings).code == 0
        want = records(searched[1])[:2]
        assert list(map(without_time, records(work / "out"))) == list(map(without_time, want))

    @pytest.mark.parametrize("failing", [1, 2])
    def test_a_trial_that_blows_up_is_no_end(self, given, work, monkeypatch, failing):
        begun, train = [], AdversarialTrainer.train

        def blows_up(self, *args, **kwargs):
            begun.append(self)
            if len(begun) <= failing:
                raise UserError("The loss is no number any more.")
            return train(self, *args, **kwargs)

        monkeypatch.setattr(AdversarialTrainer, "train", blows_up)
        run = sweep(given | {"space": SPACE, "trials": 2, "output_dir": "out"})
        assert "failed: The loss is no number any more." in run.err
        if failing == 2:
            assert run.code == 2
            assert "All trials failed: The loss is no number any more." in run.err
        else:
            assert run.code == 0
            assert "Trial 0 failed: The loss is no number any more." in run.out
            assert [one["number"] for one in records(work / "out")] == [1]

    def test_a_finished_sweep_is_only_shown(self, searched, given, monkeypatch):
        run, folder = searched
        before = snapshot(folder)
        begun = stop_after(monkeypatch, 0, Killed)
        settings = {"space": SPACE, "trials": 4, "clean_share": 0.25, "output_dir": folder}
        again = sweep(given | settings)
        assert again.code == 0
        assert begun == []
        assert again.out == run.out
        for name in FILES:
            assert (folder / name).read_bytes() == before[name]

    def test_an_interrupt_says_how_to_go_on(self, given, work, monkeypatch):
        stop_after(monkeypatch, 1, KeyboardInterrupt)
        run = sweep(given | {"trials": 3, "output_dir": "out"})
        assert run.code == 130
        assert run.err.splitlines()[-1].startswith("nlp-adv sweep: stopped; the same command")
        assert len(records(work / "out")) == 1

    @pytest.fixture(scope="class")
    @staticmethod
    def begun(given, tmp_path_factory):
        folder = tmp_path_factory.mktemp("begun") / "out"
        settings = given | {"space": SPACE[0], "trials": 1, "output_dir": folder}
        assert sweep(settings).code == 0
        return settings

    @pytest.mark.parametrize("case", CHANGES)
    def test_another_sweep_in_the_same_folder_is_refused(self, begun, case):
        change, words = CHANGES[case]
        folder = begun["output_dir"]
        refused_without_trace(folder, begun | change, [words, "--output_dir"], "sweep")

    def test_a_sweep_can_be_written_over(self, begun):
        folder = begun["output_dir"]
        new = begun | {"seed": 7, "overwrite_output_dir": True}
        assert sweep(new).code == 0
        assert [one["seed"] for one in records(folder)] == [7]
        assert "overwrite" not in (folder / "best.json").read_text(encoding="utf-8")

    def test_a_broken_journal_is_refused(self, begun, work):
        folder = work / "out"
        folder.mkdir()
        whole = (begun["output_dir"] / "optuna_journal.log").read_text(encoding="utf-8")
        (folder / "optuna_journal.log").write_text("{\n" + whole, encoding="utf-8")
        refused_without_trace(folder, begun | {"output_dir": folder}, ["cannot be read"], "sweep")

    @pytest.mark.parametrize("name", ["sweep.json", "trials.jsonl"])
    def test_a_sweep_of_the_version_before_is_refused(self, given, work, name):
        """0.5.0 kept its trials in files of its own."""
        (work / "out").mkdir()
        (work / "out" / name).write_text("{}\n", encoding="utf-8")
        settings = given | {"output_dir": "out"}
        words = ["out holds a sweep of version 0.5", "--overwrite_output_dir"]
        refused_without_trace(work, settings, words, "sweep")

    def test_a_folder_that_holds_something_else(self, begun, work):
        (work / "out").mkdir()
        (work / "out" / "notes.txt").write_text("mine", encoding="utf-8")
        refused_without_trace(work, begun | {"output_dir": "out"}, ["holds no sweep"], "sweep")
        (work / "file").write_text("mine", encoding="utf-8")
        refused_without_trace(work, begun | {"output_dir": "file"}, ["is a file"], "sweep")


class TestKindsOfSweep:
    def test_a_grid_over_methods(self, given, work):
        """Every flag follows the method, and clean accuracy alone needs no attack."""
        settings = given | {"search": "grid", "clean_share": 1, "output_dir": "out"}
        del settings["adv"], settings["attack_epsilons"]
        settings["space"] = ("adv=none,fgm,freelb", "weight_decay=0,0.1")
        run = sweep(settings)
        assert run.code == 0, run.err
        found = records(work / "out")
        assert sorted((one["params"]["adv"], one["params"]["weight_decay"]) for one in found) == [
            (adv, decay) for adv in ("fgm", "freelb", "none") for decay in (0, 0.1)
        ]
        assert [one["method"]["method"] for one in found] == [one["params"]["adv"] for one in found]
        assert all(one["objective"] == one["clean"] and one["robust"] == {} for one in found)
        assert "PGD" not in run.out
        assert "| adv | – |" in (work / "out" / "sweep.md").read_text(encoding="utf-8")

    @pytest.mark.parametrize("adv", ["none", "pgd"])
    def test_the_demo_with_nothing_named(self, work, adv):
        """ε and the learning rate from a third to thrice the demo's own."""
        settings = {**TINY_DEMO, "adv": adv, "trials": 2, "attack_steps": 2}
        run = sweep(settings | {"disable_tqdm": True})
        assert run.code == 0, run.err
        found = records(work / "runs" / f"sweep-{adv}")
        names = ["learning_rate"] if adv == "none" else ["adv_epsilon", "learning_rate"]
        for one in found:
            assert list(one["params"]) == names
            assert 5e-4 <= one["params"]["learning_rate"] <= 4.5e-3
            assert 0.0333 <= one["params"].get("adv_epsilon", 0.1) <= 0.3
            assert list(one["robust"]) == ["0.06"]
            assert one["method"]["start_step"] == (0 if adv == "none" else 0.4)
        best = json.loads((work / "runs" / f"sweep-{adv}" / "best.json").read_text())
        assert best["max_train_samples"] == "64"
        assert set(names) <= best.keys()

    def test_images_are_swept_alike(self, work):
        """All trials are attacked at the same radii, also where these follow from --adv_epsilon."""
        settings = {**TINY_DEMO, "modality": "image", "adv": "fgsm", "trials": 2}
        settings |= {"attack_steps": 2, "attack_examples": 16, "disable_tqdm": True}
        run = sweep(settings | {"output_dir": "out"})
        assert run.code == 0, run.err
        assert "under PGD-2 on the pixels, averaged over the L∞ radii 0.1" in run.out
        found = records(work / "out")
        assert [list(one["robust"]) for one in found] == [["0.1"], ["0.1"]]
        assert len({one["params"]["adv_epsilon"] for one in found}) == 2
        assert all(one["method"]["epsilon"] == one["params"]["adv_epsilon"] for one in found)

    def test_flags_follow_the_method_as_those_of_train_do(self, work):
        """The demo's warm-up is part of its adversarial runs, and no part of its plain ones."""
        settings = {**TINY_DEMO, "space": "adv=none,fgm,none,rdrop", "search": "grid"}
        run = sweep(settings | {"clean_share": 1, "disable_tqdm": True, "output_dir": "out"})
        assert run.code == 0, run.err
        methods = {one["method"]["method"]: one["method"] for one in records(work / "out")}
        assert len(methods) == len(records(work / "out")) == 3
        shown = {name: (one["start_step"], one["ramp_steps"]) for name, one in methods.items()}
        assert shown == {"none": (0, 0), "fgm": (0.4, 0.3), "rdrop": (0.4, 0)}
        assert methods["fgm"]["epsilon"] == 0.1

    def test_the_test_split_is_not_looked_at(self, given, searched, work):
        other = {"good": "bad", "bad": "good"}
        rows = [{**row, "label": other[row["label"]]} for row in SPLITS["validation"]]
        name = write(work / "wrong.jsonl", rows)
        settings = {"space": SPACE, "trials": 4, "clean_share": 0.25, "output_dir": "out"}
        assert sweep(given | settings | {"test_file": name}).code == 0
        found = records(work / "out")
        assert list(map(without_time, found)) == list(map(without_time, records(searched[1])))

    def test_loading_a_model_is_reported_once(self, given, work, monkeypatch):
        levels = []

        def seen(*args, **given):
            levels.append(hf_logging.get_verbosity())
            return from_pretrained(*args, **given)

        model = AutoModelForSequenceClassification
        from_pretrained = model.from_pretrained
        monkeypatch.setattr(model, "from_pretrained", seen)
        level = hf_logging.get_verbosity()
        hf_logging.set_verbosity_warning()
        try:
            settings = {"space": SPACE[0], "trials": 2, "output_dir": "out"}
            assert sweep(given | settings).code == 0
            assert hf_logging.get_verbosity() == hf_logging.WARNING
        finally:
            hf_logging.set_verbosity(level)
        assert levels == [hf_logging.WARNING] + 3 * [hf_logging.ERROR]

    def test_a_trial_is_scored_once_and_not_saved(self, given, work):
        settings = given | {"space": SPACE[0], "trials": 2, "output_dir": "out"}
        settings |= {"eval_strategy": "steps", "eval_steps": 2}
        settings |= {"save_strategy": "steps", "save_steps": 2}
        assert sweep(settings).code == 0
        assert not list((work / "out").rglob("checkpoint-*"))
        assert len(records(work / "out")) == 2
        best = json.loads((work / "out" / "best.json").read_text(encoding="utf-8"))
        assert best["save_strategy"] == "steps"  # the training of the best trial may save

    def test_flags_in_a_file(self, given, work):
        settings = given | {"space": list(SPACE), "trials": 1, "use_cpu": True, "output_dir": "out"}
        (work / "flags.json").write_text(json.dumps(settings), encoding="utf-8")
        assert main(["sweep", "flags.json"]) == 0
        assert len(records(work / "out")) == 1

    def test_a_best_trial_with_one_answer_is_named(self, given, work, monkeypatch):
        rows = [{**row, "label": "good"} for row in SPLITS["train"]] + SPLITS["train"][:2]
        name = write(work / "mostly.jsonl", rows)
        settings = given | {"train_file": name, "space": "learning_rate=0.01,0.02"}
        run = sweep(settings | {"search": "grid", "output_dir": "out", "max_steps": 30})
        assert all(one["constant"] for one in records(work / "out"))
        assert "† In trial 0, 1 every row, or nearly, got the same answer" in run.out
        assert "Warning: the best trial is one of them" in run.out

    def test_optuna_goes_on(self, given, work, monkeypatch):
        pytest.importorskip("optuna")
        settings = given | {"space": (*SPACE, "adv_start_step=0,0.4"), "search": "optuna"}
        settings |= {"trials": 4, "output_dir": "out"}
        with pytest.MonkeyPatch.context() as patch:
            stop_after(patch, 2, Killed)
            with pytest.raises(Killed):
                sweep(settings)
        with pytest.MonkeyPatch.context() as patch:
            begun = stop_after(patch, 9, Killed)
            run = sweep(settings)
        assert run.code == 0, run.err
        assert len(begun) == 2
        found = records(work / "out")
        assert len(found) == 4
        assert len({one["params"]["adv_epsilon"] for one in found}) == 4
        for one in found:
            assert one["method"]["start_step"] == one["params"]["adv_start_step"]

    @pytest.mark.parametrize("search", ["random", "optuna"])
    def test_optuna_that_is_not_installed(self, given, work, monkeypatch, search):
        monkeypatch.setitem(sys.modules, "optuna", None)
        monkeypatch.delitem(sys.modules, "nlp_adv.experiments.plan", raising=False)
        settings = given | {"search": search, "output_dir": "out"}
        refused_without_trace(work, settings, ["pip install optuna"], "sweep")


# flags, and what the one sentence must name
BAD = {
    "a misspelt name": ({"space": "adv_epsilonn=1,2"}, ["did you mean adv_epsilon?"]),
    "a flag that trains nothing": ({"space": "logging_steps=1,2"}, ["'logging_steps' is nothing"]),
    "no value": ({"space": "adv_epsilon"}, ["name=low:high"]),
    "a name twice": ({"space": ("adv_epsilon=1", "adv_epsilon=2")}, ["adv_epsilon twice"]),
    "backwards": ({"space": "adv_epsilon=2:1"}, ["adv_epsilon=2:1", "begin below its end"]),
    "logarithm of 0": ({"space": "adv_epsilon=0:1"}, ["low:high:linear"]),
    "also a flag": ({"space": SPACE, "adv_epsilon": 0.1}, ["--adv_epsilon is fixed"]),
    "nothing to vary": ({"adv_epsilon": 0.1, "learning_rate": 1e-3}, ["--space"]),
    "field that fgm lacks": ({"space": "adv_steps=1,2"}, ["adv_steps 1", "fgm has no steps"]),
    "one bad point of a grid": (
        {"space": "adv_clean_weight=0.5,1", "search": "grid"},
        ["adv_clean_weight 1.0", "clean_weight"],
    ),
    "one bad draw": (
        {"space": "adv_clean_weight=0:3", "trials": 6},
        ["The trial with adv_clean_weight", "cannot run"],
    ),
    "an unknown method": ({"space": "adv=fgm,nosuch", "search": "grid", "adv": None}, ["nosuch"]),
    "attack after the end": ({"space": "adv_start_step=0,9", "search": "grid"}, ["step 9"]),
    "no batch": ({"space": "per_device_train_batch_size=0,1"}, ["per_device_train_batch_size"]),
    "less than no epoch": ({"space": "num_train_epochs=-1,1", "max_steps": -1}, ["epochs"]),
    "a grid beyond its limit": (
        {"space": SPACE, "search": "grid", "trials": 8},
        ["more than 8 trials"],
    ),
    "no trials": ({"trials": 0}, ["--trials"]),
    "one point": ({"grid_points": 1}, ["--grid_points"]),
    "a share above 1": ({"clean_share": 1.5}, ["--clean_share", "[0, 1]"]),
    "no radii": ({"attack_epsilons": None}, ["--attack_epsilons", "--clean_share 1"]),
    "checkpoints": ({"load_best_model_at_end": True}, ["--load_best_model_at_end"]),
    "resuming": ({"resume_from_checkpoint": "last"}, ["--resume_from_checkpoint"]),
    "an unknown flag": ({"trialz": 3}, ["--trialz", "did you mean --trials?"]),
    "no validation split": ({"validation_file": None}, ["--validation_file"]),
    "unknown embedding": ({"adv_embedding": "nosuch"}, ["nosuch", "embedding"]),
}


class TestRefusals:
    @pytest.mark.parametrize("case", BAD)
    def test_a_bad_request(self, given, work, case):
        bad, words = BAD[case]
        settings = {"output_dir": "out", **given, **bad}
        settings = {name: value for name, value in settings.items() if value is not None}
        refused_without_trace(work, settings, words, "sweep")

    def test_scores_have_no_accuracy(self, given, work):
        rows = [{"text": row["text"], "label": i / 7} for i, row in enumerate(SPLITS["train"])]
        name = write(work / "scores.jsonl", rows)
        settings = given | {"train_file": name, "validation_file": name, "output_dir": "out"}
        run = sweep(settings)
        assert run.code == 2
        assert "name data with classes" in run.err.splitlines()[-1]
        assert not (work / "out").exists()

    def test_several_processes(self, given, work, monkeypatch):
        monkeypatch.setenv("WORLD_SIZE", "2")
        refused_without_trace(work, given | {"output_dir": "out"}, ["one process"], "sweep")

    def test_a_stray_word(self, work):
        run = call("stray", command="sweep")
        assert run.code == 2
        assert "There is no flag stray" in run.err
        assert snapshot(work) == {}

    def test_a_value_that_argparse_refuses(self, work):
        refused_without_trace(work, {"search": "nosuch"}, ["--search", "nosuch"], "sweep")

    def test_help_lists_the_flags_of_both(self, capsys):
        with pytest.raises(SystemExit) as caught:
            main(["sweep", "--help"])
        assert caught.value.code == 0
        shown = capsys.readouterr().out
        for flag in ("--space", "--clean_share", "--adv_epsilon", "--train_file"):
            assert f"{flag} " in shown
