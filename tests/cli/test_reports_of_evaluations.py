"""What `attack`, `evaluate` and `report` say of a model: whose numbers, of which texts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from commands import TEXTS, Run, write
from commands import typed as call
from transformers import AutoTokenizer, BertForSequenceClassification

from nlp_adv.robustness.records import read_records

EPSILONS = [0.05, 0.3]


@pytest.fixture(scope="module")
def models(reader, tmp_path_factory) -> dict[str, Path]:
    """One that reads adjectives, and one that answers "good" whatever it reads."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(reader, folder / "reader")
    model = BertForSequenceClassification.from_pretrained(reader)
    with torch.no_grad():
        model.classifier.weight.mul_(0.01)
        model.classifier.bias.copy_(torch.tensor([-2.0, 2.0]))
    shutil.copytree(reader, folder / "constant")
    model.save_pretrained(folder / "constant")
    return {name: folder / name for name in ("reader", "constant")}


@pytest.fixture(scope="module")
def settings(models, tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("texts")
    return {
        "test_file": write(folder / "texts.jsonl", TEXTS),
        "attacks": ["deepwordbug"],
        "epsilons": EPSILONS,
        "embedding_steps": 3,
        "embedding_examples": 25,
        "check_examples": 12,
    }


@pytest.fixture(scope="module")
def whole(models, settings, tmp_path_factory) -> tuple[Run, Path]:
    folder = tmp_path_factory.mktemp("whole") / "answers"
    run = call("evaluate", model_name_or_path=models["reader"], **settings, output_dir=folder)
    assert run.code == 0, run
    return run, folder


@pytest.fixture(scope="module")
def shards(models, settings, tmp_path_factory) -> list[Path]:
    folders = [tmp_path_factory.mktemp("shards") / str(part) for part in (1, 2, 3)]
    for part, folder in enumerate(folders, 1):
        given = {"model_name_or_path": models["reader"], "shard": f"{part}/3"} | settings
        assert call("evaluate", **given, output_dir=folder).code == 0
    return folders


def content(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


@pytest.mark.fault("D1")
class TestShards:
    def test_every_number_is_that_of_the_whole(self, shards, whole, tmp_path):
        run = call("report", *shards, "--shards", output_dir=tmp_path / "all")
        assert run.code == 0, run
        (mine,), (theirs,) = (content(f)["models"] for f in (tmp_path / "all", whole[1]))
        assert mine["name"] == theirs["name"]
        assert mine["curves"] == theirs["curves"]
        assert mine["attacks"].keys() == theirs["attacks"].keys()
        for attack, found in mine["attacks"].items():
            for measure in ("examples", "clean", "under_attack", "success", "words_changed"):
                assert found[measure] == theirs["attacks"][attack][measure], (attack, measure)
        assert mine["curves"][0]["points"][0]["share"]["total"] == 25
        assert mine["clean_all_texts"] == theirs["clean_all_texts"]

    def test_the_cost_is_that_of_all(self, shards, tmp_path):
        assert call("report", *shards, "--shards", output_dir=tmp_path / "all").code == 0
        costs = [content(folder)["models"][0]["cost"] for folder in shards]
        (mine,) = (model["cost"] for model in content(tmp_path / "all")["models"])
        for kind in costs[0]:
            assert mine[kind] == pytest.approx(sum(cost[kind] for cost in costs))

    def test_checks_are_of_all_records_or_the_worst_of_all_shards(self, shards, tmp_path):
        assert call("report", *shards, "--shards", output_dir=tmp_path / "all").code == 0
        each = [content(folder)["models"][0]["checks"] for folder in shards]
        (mine,) = (model["checks"] for model in content(tmp_path / "all")["models"])
        assert len({check["name"] for check in mine}) == len(mine)
        assert {c["name"] for c in mine} == {c["name"] for checks in each for c in checks}
        found = {check["name"]: check for check in mine}
        assert f"of {len(TEXTS)} (" in found["answers"]["finding"]
        attacked = sum(
            r.outcome != "wrong" and r.attack == "deepwordbug"
            for folder in shards
            for r in read_records(folder / "records.jsonl")
        )
        assert f" of {attacked} attacks" in found["query budget (deepwordbug)"]["finding"]
        for name in ("noise", "large radius", "steps"):
            verdicts = [c["passed"] for checks in each for c in checks if c["name"] == name]
            worst = False if False in verdicts else None if None in verdicts else True
            assert found[name]["passed"] is worst
            for checks in each:
                (part,) = (c["finding"] for c in checks if c["name"] == name)
                assert part in found[name]["finding"]

    @pytest.mark.parametrize(
        ("chosen", "words"),
        [
            ([0, 2], ["2/3", "missing"]),
            ([1], ["1/3, 3/3", "missing"]),
            ([0, 1, 1, 2], ["2/3", "twice"]),
        ],
    )
    def test_a_shard_that_is_missing_or_there_twice(self, shards, tmp_path, chosen, words):
        folders = [shards[place] for place in chosen]
        run = call("report", *folders, "--shards", output_dir=tmp_path / "all")
        assert run.code == 2
        assert all(word in run.err for word in words), run.err
        assert not (tmp_path / "all").exists()

    def test_what_is_no_shard(self, whole, shards, tmp_path):
        run = call("report", whole[1], *shards, "--shards", output_dir=tmp_path / "all")
        assert run.code == 2
        assert "no shard" in run.err

    def test_shards_of_other_numbers(self, models, settings, shards, tmp_path):
        given = {"model_name_or_path": models["reader"], "shard": "1/2"} | settings
        assert call("attack", **_words_only(given), output_dir=tmp_path / "half").code == 0
        run = call("report", tmp_path / "half", shards[1], "--shards", output_dir=tmp_path / "all")
        assert run.code == 2
        assert "of 2 and of 3" in run.err

    def test_a_shard_that_lost_records(self, shards, tmp_path):
        copies = [tmp_path / folder.name for folder in shards]
        for folder, copy in zip(shards, copies, strict=True):
            shutil.copytree(folder, copy)
        lines = (copies[1] / "records.jsonl").read_text(encoding="utf-8").splitlines(True)
        (copies[1] / "records.jsonl").write_text("".join(lines[2:]), encoding="utf-8")
        run = call("report", *copies, "--shards", output_dir=tmp_path / "all")
        assert run.code == 2
        assert f"{len(TEXTS) - 2} of {len(TEXTS)} examples" in run.err

    def test_shards_of_another_model(self, models, settings, shards, tmp_path):
        given = {"model_name_or_path": models["constant"], "shard": "2/3"} | settings
        assert call("evaluate", **given, output_dir=tmp_path / "2").code == 0
        folders = [shards[0], tmp_path / "2", shards[2]]
        run = call("report", *folders, "--shards", output_dir=tmp_path / "all")
        assert run.code == 2
        assert "not of one run" in run.err


def _words_only(given: dict) -> dict:
    embeddings = ("epsilons", "embedding_steps", "embedding_examples", "check_examples")
    return {name: value for name, value in given.items() if name not in embeddings}


@pytest.mark.fault("U7")
class TestNames:
    def test_a_model_is_called_what_it_is(self, whole):
        """Not “answers”, as the folder of its results."""
        run, folder = whole
        assert content(folder)["models"][0]["name"] == "reader"
        assert "answers answers" not in (folder / "report.md").read_text(encoding="utf-8")
        assert run.out.splitlines()[2].startswith("reader ")

    @pytest.mark.parametrize("last", ["model", "checkpoint-12"])
    def test_a_folder_that_is_called_like_any_other(self, models, settings, tmp_path, last):
        shutil.copytree(models["reader"], tmp_path / "freelb-seed1" / last)
        given = {"model_name_or_path": tmp_path / "freelb-seed1" / last} | _words_only(settings)
        given |= {"max_examples": 4, "output_dir": tmp_path / "out"}
        assert call("attack", **given).code == 0
        assert content(tmp_path / "out")["models"][0]["name"] == f"freelb-seed1/{last}"

    def test_several_in_one_report(self, models, settings, whole, tmp_path):
        given = {"model_name_or_path": models["constant"]} | _words_only(settings)
        assert call("attack", **given, output_dir=tmp_path / "x").code == 0
        again = {"model_name_or_path": models["reader"]} | _words_only(settings)
        assert call("attack", **again, output_dir=tmp_path / "y").code == 0
        folders = [whole[1], tmp_path / "x", tmp_path / "y"]
        assert call("report", *folders, output_dir=tmp_path / "all").code == 0
        names = [model["name"] for model in content(tmp_path / "all")["models"]]
        assert names == ["reader (answers)", "constant", "reader (y)"]


@pytest.fixture(scope="module")
def constant(models, settings, tmp_path_factory) -> tuple[Run, Path]:
    folder = tmp_path_factory.mktemp("constant") / "out"
    given = {"model_name_or_path": models["constant"]} | settings
    run = call("evaluate", **given, output_dir=folder)
    assert run.code == 0, run
    return run, folder


@pytest.mark.fault("U1")
class TestConstantModels:
    def test_a_check_fails(self, constant):
        checks = content(constant[1])["models"][0]["checks"]
        (answers,) = (check for check in checks if check["name"] == "answers")
        assert answers["passed"] is False
        assert f"given to {len(TEXTS)} of {len(TEXTS)} (100.0 %)" in answers["finding"]
        assert "Check failed: answers:" in constant[0].out

    def test_without_checks_it_fails_as_well(self, models, settings, tmp_path):
        given = {"model_name_or_path": models["constant"], "checks": False} | settings
        run = call("evaluate", **given, output_dir=tmp_path / "out")
        assert "Check failed: answers:" in run.out

    def test_every_table_says_so(self, constant, whole):
        run, folder = constant
        assert "Warning: † constant answers class 1" in run.out
        rows = [line for line in run.out.splitlines() if line.startswith("constant ")]
        assert len(rows) == 3
        assert all("†" in row and row.endswith(" 100.0") for row in rows)
        for name in ("report.md", "report.html"):
            text = (folder / name).read_text(encoding="utf-8").replace("\xa0", " ")
            assert "says “good” to every text: its share is no robustness" in text
            assert "gives every text the same answer, so the number is the share of one" in text
        assert "†" not in whole[0].out
        assert (
            "every text"
            not in (whole[1] / "report.md")
            .read_text(encoding="utf-8")
            .split("## Checks")[0]
            .split("worst case” counts")[0]
        )

    def test_a_model_that_reads_passes(self, whole):
        (model,) = content(whole[1])["models"]
        (answers,) = (check for check in model["checks"] if check["name"] == "answers")
        assert answers["passed"] is True
        assert model["answers"]["largest"]["value"] < 0.7

    def test_clean_accuracy_is_of_the_texts_of_the_attack(self, whole):
        """25 texts on embeddings, 40 in words: two clean accuracies."""
        found = read_records(whole[1] / "records.jsonl")
        (method,) = content(whole[1])["methods"]
        for attack, score in method["accuracy"].items():
            mine = [r for r in found if attack in (r.title, "clean")]
            right = {r.id: r.outcome != "wrong" for r in mine}
            assert score["clean"] == pytest.approx(sum(right.values()) / len(right))
        assert len({r.id for r in found if "@" in r.title}) == 25


@pytest.mark.fault("E7")
def test_a_random_attack_is_called_random(models, settings, tmp_path, whole):
    text = (whole[1] / "report.md").read_text(encoding="utf-8")
    assert "deepwordbug draws its edits at random, here with seed 0" in text
    assert "about 3 points either way" in text
    given = {"model_name_or_path": models["reader"]} | _words_only(settings)
    given |= {"attacks": ["textbugger"], "seed": 5, "max_examples": 6}
    run = call("attack", **given, output_dir=tmp_path / "out")
    assert "textbugger draws its edits at random, here with seed 5" in run.out
    assert "was not measured" in run.out
    given |= {"attacks": ["hotflip"], "output_dir": tmp_path / "other"}
    assert "at random" not in call("attack", **given).out


@pytest.mark.fault("S3")
def test_what_epsilon_is_of_one_token_stands_beside_it(models, whole):
    tokenizer = AutoTokenizer.from_pretrained(models["reader"])
    lengths = sorted(len(tokenizer(row["text"])["input_ids"]) for row in TEXTS[:25])
    share = 100 * EPSILONS[1] * lengths[12] ** 0.5
    shown = f"embedding-pgd-l2@0.3 (up to {share:.2g} % of a token)"
    assert shown in (whole[1] / "report.md").read_text(encoding="utf-8")
    assert shown.replace("up to ", "") in whole[0].out


@pytest.mark.fault("E8")
@pytest.mark.parametrize("broken", [None, 3])
def test_a_row_without_text_is_named_with_its_file(models, settings, tmp_path, broken):
    rows = [{"text": broken, "label": "bad"}] * 2
    if broken is None:
        rows.append({"text": "the end is dull", "label": "bad"})
    file = write(tmp_path / "rows.jsonl", rows)
    given = {"model_name_or_path": models["reader"]} | _words_only(settings) | {"test_file": file}
    run = call("attack", **given, output_dir=tmp_path / "out")
    assert run.code == 2
    assert "Row 1 of rows.jsonl: 'text' is" in run.err


def test_a_model_that_says_it_was_trained_plainly_is_what_others_are_held_against(
    whole, settings, models, tmp_path
):
    """Otherwise the report would praise whoever stands highest under attack, however inaccurate."""
    constant = tmp_path / "constant"
    given = {"model_name_or_path": models["constant"], **settings}
    assert call("evaluate", **given, output_dir=constant).code == 0
    for method, at_equal_accuracy in (("none", True), ("freelb", False)):
        plain = tmp_path / method
        shutil.copytree(whole[1], plain)
        header = json.loads((plain / "evaluation.json").read_text(encoding="utf-8"))
        header["found"]["training"] = {"method": method}
        (plain / "evaluation.json").write_text(json.dumps(header), encoding="utf-8")
        run = call("report", plain, constant, output_dir=tmp_path / f"report-{method}")
        assert run.code == 0, run
        page = (tmp_path / f"report-{method}" / "report.md").read_text(encoding="utf-8")
        assert ("## At equal clean accuracy" in page) == at_equal_accuracy
        assert ("of the same clean accuracy" in page.splitlines()[2]) == at_equal_accuracy
