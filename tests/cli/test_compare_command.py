"""`nlp-adv compare`: every cell once, resumed, shared, and one report of all."""

import json
import zipfile

import pytest
import yaml
from commands import BRIEF, Run, refused_last
from filelock import FileLock

from nlp_adv.cli.comparison import ATTACK_FLAGS
from nlp_adv.cli.main import main
from nlp_adv.errors import UserError
from nlp_adv.experiments.recipe import read_recipe
from nlp_adv.robustness.saved import load

RECIPE = {
    "title": "Tiny",
    "train": {**BRIEF, "use_cpu": True},
    "attack": {
        "attacks": ["deepwordbug"],
        "max_examples": 6,
        "epsilons": [0.05],
        "embedding_steps": 2,
        "checks": False,
    },
    "methods": {
        "none": {"adv": "none"},
        "fgm": {"adv": "fgm"},
        "sharpened": {"of": "none", "logits_times": 30},
    },
    "seeds": [0, 1],
    "published": [
        {
            "method": "fgm",
            "attack": "deepwordbug",
            "metric": "under attack",
            "value": 12.5,
            "source": "Nobody, 2000, Table 3",
            "verified": False,
        },
    ],
}


@pytest.fixture
def recipe(work, files):
    path = work / "tiny.yaml"
    content = {**RECIPE, "train": {**RECIPE["train"], **files}}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def compare(capsys, *argv) -> Run:
    code = main(["compare", *map(str, argv)])
    captured = capsys.readouterr()
    return Run(code, captured.out, captured.err)


def test_every_cell_is_run_once_and_reported(recipe, work, capsys, monkeypatch):
    run = compare(capsys, recipe, "--output_dir", "out")
    assert run.code == 0, run
    report = (work / "out" / "report.md").read_text(encoding="utf-8")
    for name in ("none", "fgm", "sharpened", "Nobody, 2000, Table 3", "unverified"):
        assert name in report
    cells = {path.parent.name for path in (work / "out").glob("*/evaluation.json")}
    assert cells == {f"{name}-seed{seed}" for name in RECIPE["methods"] for seed in (0, 1)}
    # A control is the other's model: its answers are the same and its confidence is not.
    plain, sharp = (load(work / "out" / f"{name}-seed0").records for name in ("none", "sharpened"))
    assert [r.prediction for r in plain] == [r.prediction for r in sharp]
    texts = [[r.found.adversarial for r in each if r.changes_text] for each in (plain, sharp)]
    assert texts[0] == texts[1] != []
    assert all(s.confidence > p.confidence for p, s in zip(plain, sharp, strict=True))
    # Nothing is run again.
    for part in ("train.main", "evaluate.run"):
        monkeypatch.setattr(f"nlp_adv.cli.{part}", None)
    assert compare(capsys, recipe, "--output_dir", "out").code == 0


def test_less_trained_models_draw_the_curve_of_plain_training(recipe, work, capsys):
    content = yaml.safe_load(recipe.read_text())
    del content["published"]
    content["primary"] = [{"method": "fgm", "attack": "deepwordbug"}]
    content["methods"] = {
        "none": {"adv": "none"},
        "none at 0.5": {"of": "none", "at": 0.5},
        "fgm": {"adv": "fgm"},
        "sharpened": {"of": "none", "logits_times": 30},
    }
    without = {**content, "methods": {k: v for k, v in content["methods"].items() if k != "fgm"}}
    del without["methods"]["none at 0.5"], without["primary"]
    recipe.write_text(yaml.safe_dump(content, sort_keys=False))
    one = ("--output_dir", "out", "--seeds", "0")
    assert compare(capsys, recipe, *one).code == 0
    found = json.loads((work / "out" / "report.json").read_text(encoding="utf-8"))
    for measure in found["equal_clean_accuracy"]:
        # One whose logits were multiplied is no plain model: an attack may see it otherwise.
        assert measure["plain"] == ["none", "none at 0.5"]
        assert {name for name, gain in measure["methods"].items() if gain} == {"fgm", "sharpened"}
    tested = {
        (one["name"], measure)
        for one in found["methods"]
        for measure, score in one["accuracy"].items()
        if score["p_holm"] is not None
    }
    assert tested == {("fgm", "deepwordbug")}
    hashes = {load(work / "out" / f"{name}-seed0").model for name in content["methods"]}
    assert len(hashes) == 3  # the sharpened one is the plain one
    described = {one["name"]: one["description"] for one in found["models"]}
    assert described["none at 0.5"]["at"] == 0.5
    assert "at" not in described["none"]
    # A training that did not keep its states cannot give them afterwards.
    recipe.write_text(yaml.safe_dump(without, sort_keys=False))
    assert compare(capsys, recipe, "--output_dir", "bare", "--seeds", "0").code == 0
    recipe.write_text(yaml.safe_dump(content, sort_keys=False))
    refused_last(
        compare(capsys, recipe, "--output_dir", "bare", "--seeds", "0"), "at-0.5", "Remove"
    )


def test_a_cell_that_was_begun_is_finished(recipe, work, capsys, monkeypatch):
    one = ("--output_dir", "out", "--methods", "none", "--seeds", "0")
    assert compare(capsys, recipe, *one).code == 0
    header = work / "out" / "none-seed0" / "evaluation.json"
    content = json.loads(header.read_text())
    whole = (header.parent / "records.jsonl").read_bytes()
    del content["found"]
    header.write_text(json.dumps(content))
    (header.parent / "records.jsonl").write_bytes(b"".join(whole.splitlines(keepends=True)[:3]))
    monkeypatch.setattr("nlp_adv.cli.train.main", None)  # the model is there
    assert compare(capsys, recipe, *one).code == 0
    again = (header.parent / "records.jsonl").read_bytes()
    assert [said(line) for line in again.splitlines()] == [
        said(line) for line in whole.splitlines()
    ]


def said(line: bytes) -> dict:
    """A record; confidences as far as other texts in the batch leave them alone."""
    record = json.loads(line)
    for name in ("confidence", "adversarial_confidence"):
        record[name] = pytest.approx(record[name], abs=1e-6)
    return record


def test_a_cell_of_another_process_is_left_to_it(recipe, work, capsys):
    one = ("--output_dir", "out", "--seeds", "0")
    assert compare(capsys, recipe, *one, "--methods", "none").code == 0
    (work / "out" / "fgm-seed0").mkdir()
    with FileLock(work / "out" / "fgm-seed0" / ".lock"):
        run = compare(capsys, recipe, *one, "--methods", "none", "fgm")
    assert run.code == 0
    assert "Another process is at fgm, seed 0" in run.out
    assert not (work / "out" / "fgm-seed0" / "model").exists()


def test_an_archive_carries_finished_cells_to_another_machine(recipe, work, capsys, monkeypatch):
    """One half here, one there; the report is that of a machine that ran all of it."""
    archive = ("--archive", "carried", "--output_dir")
    assert compare(capsys, recipe, "--output_dir", "whole").code == 0
    here = compare(capsys, recipe, *archive, "here", "--seeds", "0")
    assert here.code == 0, here
    names = {path.name for path in (work / "carried").iterdir()}
    assert names == {f"{name}-seed0.zip" for name in RECIPE["methods"]}
    packed = {path.name: path.read_bytes() for path in (work / "carried").iterdir()}
    counted = compare(capsys, recipe, *archive, "there", "--dry_run").out
    lines = {line.split("  ")[0].strip(): line.split() for line in counted.splitlines()}
    assert lines["none"][1:3] == lines["fgm"][1:3] == ["2", "1"]  # cells, to train
    assert "3 cells" in counted
    assert "by the mean of 3 finished ones" in counted
    there = compare(capsys, recipe, *archive, "there")
    assert there.code == 0, there
    assert "none, seed 0" not in there.err
    assert "none, seed 1" in there.err
    assert not (work / "there" / "none-seed0" / "model").exists()
    record = json.loads((work / "there/none-seed0/records.jsonl").read_text().splitlines()[0])
    assert record["words"]["original"] == record["words"]["adversarial"] == ""
    assert record["example"]
    for part in ("train.main", "evaluate.run"):
        monkeypatch.setattr(f"nlp_adv.cli.{part}", None)
    assert compare(capsys, recipe, *archive, "there").code == 0  # nothing is run again
    whole, joined = (
        json.loads((work / name / "report.json").read_text()) for name in ("whole", "there")
    )
    assert whole["methods"] == joined["methods"]
    assert whole["equal_clean_accuracy"] == joined["equal_clean_accuracy"]
    # What was there already is not written again, and a third machine sees them all.
    assert {name: (work / "carried" / name).read_bytes() for name in packed} == packed
    assert compare(capsys, recipe, *archive, "third", "--report_only").code == 0
    page = (work / "third" / "report.html").read_text(encoding="utf-8")
    assert "came without their texts" in page


def test_a_control_stays_where_its_model_is(recipe, work, capsys):
    archive = ("--archive", "carried", "--output_dir")
    some = ("--methods", "none", "--seeds", "0")
    assert compare(capsys, recipe, *archive, "here", *some).code == 0
    run = compare(capsys, recipe, *archive, "there", "--seeds", "0")
    refused_last(run, "sharpened, seed 0", "finished elsewhere", "--methods")
    assert compare(capsys, recipe, *archive, "here", "--methods", "sharpened").code == 2  # seed 1
    assert compare(capsys, recipe, *archive, "here", "--seeds", "0").code == 0
    assert compare(capsys, recipe, *archive, "there", "--seeds", "0").code == 0


def test_an_archive_that_is_damaged(recipe, work, capsys, monkeypatch):
    (work / "carried").mkdir()
    path = work / "carried" / "none-seed0.zip"
    path.write_bytes(b"PK nothing")
    request = (recipe, "--archive", "carried", "--output_dir", "out")
    refused_last(compare(capsys, *request), "none-seed0.zip", "remove it")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("training.json", "{}")
        file.writestr("../evaluation.json", "{}")
    refused_last(compare(capsys, *request), "none-seed0.zip", "records.jsonl", "remove it")
    with zipfile.ZipFile(path, "w") as file:
        for name in ("training.json", "records.jsonl", "evaluation.json"):
            file.writestr(name, "{}" * 10)
    monkeypatch.setattr("nlp_adv.experiments.archive._LARGEST", 10)
    refused_last(compare(capsys, *request), "would fill the disk")
    assert not (work / "out").exists()
    assert not (work / "evaluation.json").exists()


def test_flags_win_over_the_recipe(recipe, files):
    overrides = {"max_steps": ["7"], "max_examples": ["3"], "attack.test_file": ["other.jsonl"]}
    read = read_recipe(recipe, overrides, ATTACK_FLAGS)
    trained = read.train_flags("fgm", 1, recipe)
    assert trained[trained.index("--max_steps") + 1] == "7"
    assert trained[trained.index("--test_file") + 1] == files["test_file"]
    attacked = read.attack_flags(recipe, recipe)
    assert attacked[attacked.index("--max_examples") + 1] == "3"
    assert attacked[attacked.index("--test_file") + 1] == "other.jsonl"
    assert "--train_file" not in attacked


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"title": None}, "title"),
        ({"methods": {}}, "no method"),
        ({"seeds": ["x"]}, "not in order"),
        ({"methods": {"sharp": {"of": "nobody", "logits_times": 3}}}, "nobody"),
        ({"methods": {"none": {}, "same": {"of": "none"}}}, "needs logits_times or at"),
        ({"methods": {"none": {}, "late": {"of": "none", "at": 1}}}, "between 0 and 1"),
        ({"methods": {"none": {}, "half": {"of": "none", "at": "half"}}}, "not in order"),
        ({"methods": {"none": {"keep_at": [0.5]}}}, "keep_at"),
        ({"primary": [{"method": "fgn", "attack": "deepwordbug"}]}, "fgn"),
        ({"primary": [{"method": "none", "attack": "deepwordbug"}]}, "other than its first"),
        ({"primary": [{"method": "fgm", "attack": "a"}] * 2}, "twice"),
        ({"primary": [{"method": "fgm"}]}, "a method and an attack"),
        ({"speed": 1}, "may hold"),
        ({"published": [{"method": "fgm"}]}, "not in order"),
    ],
)
def test_a_recipe_that_is_not_in_order_is_refused(recipe, change, words):
    content = yaml.safe_load(recipe.read_text()) | change
    content = {key: value for key, value in content.items() if value is not None}
    recipe.write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(UserError, match=words):
        read_recipe(recipe, {})


def test_other_bad_requests(recipe, work, capsys):
    refused_last(compare(capsys, "nowhere.yaml"), "nowhere.yaml")
    refused_last(compare(capsys, recipe, "--methods", "fgn"), "fgn", "fgm")
    refused_last(compare(capsys, recipe, "second.yaml"), "second.yaml")
    refused_last(compare(capsys, recipe, "--report_only"), "no finished cell")
    refused_last(compare(capsys, recipe, "--methods", "sharpened"), "of none")


def test_a_dry_run_says_what_it_takes_and_runs_nothing(recipe, work, capsys):
    content = yaml.safe_load(recipe.read_text())
    content["train"] |= {"max_steps": 10, "adv_start_step": 0.3}
    content["methods"] = {
        "none": {"adv": "none"},
        "none at 0.5": {"of": "none", "at": 0.5},
        "fgm": {"adv": "fgm"},
        "pgd": {"adv": "pgd", "adv_steps": 4},
    }
    recipe.write_text(yaml.safe_dump(content, sort_keys=False))
    run = compare(capsys, recipe, "--output_dir", "out", "--dry_run")
    assert run.code == 0, run
    assert not (work / "out").exists()
    lines = {line.split("  ")[0].strip(): line.split() for line in run.out.splitlines()}
    # 3 of 10 steps are ordinary ones; fgm costs 2, pgd 2 + ⅔·3 = 4.
    assert lines["none"][1:] == ["2", "2", "10", "1.00", "20"]
    assert lines["fgm"][1:] == ["2", "2", "10", "1.70", "34"]
    assert lines["pgd"][1:] == ["2", "2", "10", "3.10", "62"]
    assert "none's" in run.out
    assert "passes of 116 plain steps" in run.out
    assert "8 cells; how long one takes is known when one is finished" in run.out
    # Of what is there nothing is counted, and its evaluation says how long the others take.
    some = ("--methods", "none", "--seeds", "0")
    assert compare(capsys, recipe, "--output_dir", "out", *some).code == 0
    run = compare(capsys, recipe, "--output_dir", "out", "--dry_run")
    assert "passes of 106 plain steps" in run.out
    assert "by the mean of 1 finished" in run.out
    run = compare(capsys, recipe, "--output_dir", "out", "--dry_run", *some)
    assert "all runs are finished" in run.out
    assert "all cells are finished" in run.out


def test_a_dry_run_refuses_what_a_run_refuses(recipe, capsys):
    run = compare(capsys, recipe, "--dry_run", "--attacks", "textfooler")
    refused_last(run, "Nothing was run", "neighbours")
