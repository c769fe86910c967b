"""`nlp-adv attack --modality image`: from a folder of images to a report, and what is refused."""

import gzip
import json
import re
from pathlib import Path

import numpy
import pytest
import torch
from commands import Run, snapshot, typed
from PIL import Image
from transformers import (
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTImageProcessor,
)

from nlp_adv.cli.main import main
from nlp_adv.robustness.records import read_records

NAMES = ("top", "middle", "bottom")
SIDE = 12
ATTACKS = {"attacks": ["fgsm", "pgd"], "steps": 4, "epsilon": "12/255"}


def call(*argv, **settings) -> Run:
    return typed("attack", *argv, **settings)


def attack(folder: Path, **settings) -> Run:
    return call("--modality", "image", output_dir=folder, **settings)


def bands(count: int, seed: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Pictures with a brighter third, which is their class."""
    rng = numpy.random.default_rng(seed)
    labels = numpy.arange(count) % 3
    images = rng.normal(120, 25, (count, SIDE, SIDE))
    for image, label in zip(images, labels, strict=True):
        image[4 * label : 4 * label + 4] += 45
    return images.clip(0, 255).astype(numpy.uint8), labels.astype(numpy.uint8)


def write_idx(folder: Path, split: str, images: numpy.ndarray, labels: numpy.ndarray) -> None:
    for name, values in (("images", images), ("labels", labels)):
        header = bytes([0, 0, 8, values.ndim])
        header += b"".join(length.to_bytes(4, "big") for length in values.shape)
        path = folder / f"{split}-{name}-idx{values.ndim}-ubyte.gz"
        path.write_bytes(gzip.compress(header + values.tobytes()))


def write_pictures(folder: Path, count: int = 6) -> Path:
    images, labels = bands(count, seed=3)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / "test" / NAMES[label] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(numpy.stack([image] * 3, -1)).save(path)
    return folder


def named() -> dict:
    return {"id2label": dict(enumerate(NAMES)), "label2id": {n: i for i, n in enumerate(NAMES)}}


def save(model, folder: Path, **processor) -> str:
    model.save_pretrained(folder)
    settings = {"size": {"height": SIDE, "width": SIDE}} | processor
    ViTImageProcessor(**settings).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> dict[str, str]:
    """A small ResNet that knows the bands, and 24 grey images."""
    folder = tmp_path_factory.mktemp("given")
    shape = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = ResNetConfig(num_channels=1, downsample_in_first_stage=False, **shape, **named())
        model = ResNetForImageClassification(config)
        images, labels = bands(192, seed=0)
        x = (torch.tensor(images)[:, None] / 255 - 0.5) / 0.25
        y = torch.tensor(labels).long()
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        for rows in torch.arange(192).split(32) * 4:
            model(x[rows], labels=y[rows]).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    (folder / "idx").mkdir()
    write_idx(folder / "idx", "t10k", *bands(24, seed=1))
    return {
        "model_name_or_path": save(model, folder / "resnet", image_mean=[0.5], image_std=[0.25]),
        "dataset_name": str(folder / "idx"),
    }


FULL = ATTACKS | {"epsilons": ["6/255", "12/255", "40/255"], "check_examples": 12}


@pytest.fixture(scope="module")
def straight(given, tmp_path_factory) -> tuple[Run, Path]:
    folder = tmp_path_factory.mktemp("straight") / "out"
    return attack(folder, **given, **FULL), folder


def test_a_run_ends_in_a_table_and_a_report(straight):
    run, folder = straight
    assert run.code == 0, run.err
    lines = [line.split() for line in run.out.splitlines()]
    assert [line[1] for line in lines[2:5]] == ["fgsm", "pgd", "worst"]
    assert f"The report is {folder / 'report.html'}." in run.out
    assert "Attacking" in run.err
    names = {path.name for path in folder.iterdir()}
    assert {"records.jsonl", "report.html", "report.md", "report.json", "history.svg"} <= names
    assert {"epsilon_curve.svg", "pictures_fgsm.png", "pictures_pgd.png"} <= names


def test_the_report_says_what_was_done(straight):
    run, folder = straight
    content = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    (model,) = content["models"]
    assert model["clean"]["total"] == 24
    assert content["labels"] == list(NAMES)
    assert content["data"] == "24 images, idx, test split"
    assert model["clean"]["count"] > 20
    assert 0 < model["worst_case"]["count"] < model["clean"]["count"]
    assert content["protocol"]["seed"] == 0
    assert "epsilon=0.047" in content["protocol"]["pgd"]
    assert set(content["environment"]) >= {"torch", "nlp_adv", "device"}
    points = {curve["title"]: curve["points"] for curve in model["curves"]}["pgd"]
    assert [round(255 * point["x"]) for point in points] == [0, 6, 12, 40]
    names = {check["name"] for check in model["checks"]}
    assert {"logits", "repeatable", "large radius", "rounding to 8 bits (pgd)"} <= names
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert "nlp-adv attack --modality image" in text
    assert "12/255" in text
    rows = [re.findall(r"(?<![\w.,])(\d+\.\d) \[", line) for line in run.out.splitlines()[2:5]]
    under = [one["under_attack"] for one in model["attacks"].values()] + [model["worst_case"]]
    shown = [[f"{100 * one['value']:.1f}" for one in (model["clean"], left)] for left in under]
    assert rows == shown


def test_a_killed_run_goes_on(given, straight, tmp_path):
    _, finished = straight
    folder = tmp_path / "out"
    folder.mkdir()
    lines = (finished / "records.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "evaluation.json").write_bytes((finished / "evaluation.json").read_bytes())
    (folder / "records.jsonl").write_bytes(b"".join(lines[:17]) + lines[17][:30])
    run = attack(folder, **given, **FULL)
    assert run.code == 0, run.err

    def outcomes(one: Path) -> list:
        found = read_records(one / "records.jsonl")
        return sorted((r.attack, r.id, r.outcome, round(r.found.linf, 5)) for r in found)

    assert outcomes(folder) == outcomes(finished)
    before = snapshot(folder)
    assert attack(folder, **given, **FULL).code == 0  # nothing is left to do but to draw
    after = snapshot(folder)
    kept = ("records.jsonl", "finished.json", "report.json", "report.html", "history.svg")
    assert all(after[name] == before[name] for name in kept)
    refused = attack(folder, **given, **FULL | {"steps": 5})
    assert refused.code == 2
    assert "records of another pgd" in refused.err


def test_attacks_of_the_smallest_delta_count_where_it_is_in_the_ball(given, tmp_path):
    settings = {"attacks": ["pgd", "deepfool", "cw"], "cw_steps": 4, "cw_search_steps": 2}
    settings |= {"epsilon": 0.02, "max_examples": 5, "checks": "false", "epsilons": [0.01, 0.3]}
    run = attack(tmp_path / "out", **given, **settings)
    assert run.code == 0, run.err
    content = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert content["data"] == "5 of 24 images, idx, test split"
    (model,) = content["models"]
    deepfool = model["attacks"]["deepfool"]
    assert deepfool["fooled"]["value"] == 1.0
    assert deepfool["success"]["value"] < 1.0
    assert model["worst_case"]["count"] <= deepfool["under_attack"]["count"]
    assert {curve["title"] for curve in model["curves"]} == {"pgd", "deepfool", "cw"}
    checks = [check["name"] for check in model["checks"]]
    assert checks[0] == "answers"
    assert not {"large radius", "cross entropy", "restarts"} & set(checks)  # ask for more attacks
    radii = {one["attack"]: one["radii"] for one in content["robust_radii"]}
    assert radii.keys() == {"deepfool", "cw", "the smallest of these"}
    assert sum(radii["the smallest of these"]) <= min(sum(radii["deepfool"]), sum(radii["cw"]))
    assert main(["report", str(tmp_path / "out"), "--output_dir", str(tmp_path / "again")]) == 0
    again = json.loads((tmp_path / "again" / "report.json").read_text(encoding="utf-8"))
    assert again["models"][0]["attacks"] == model["attacks"]
    assert again["models"][0]["curves"] == model["curves"]


def test_a_target_and_other_norms(given, tmp_path):
    settings = {"attacks": ["fgm", "apgd", "noise"], "steps": 3, "checks": "false"}
    settings |= {"norm": "l2", "epsilon": 1.5, "target": "middle", "restarts": 2}
    run = attack(tmp_path / "out", **given, **settings)
    assert run.code == 0, run.err
    found = read_records(tmp_path / "out" / "records.jsonl")
    assert {record.label for record in found} == {0, 2}
    assert any(
        record.outcome == "fooled" and record.adversarial_prediction == 1 for record in found
    )
    assert all(record.adversarial_prediction == 1 for record in found if record.outcome == "fooled")
    assert max(record.found.l2 for record in found) <= 1.5 * (1 + 1e-5)
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "not led to “middle”" in text


def test_pictures_in_folders_and_a_mobilenet(tmp_path):
    config = MobileNetV2Config(image_size=32, depth_multiplier=0.35, **named())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MobileNetV2ForImageClassification(config)
    size = {"height": 32, "width": 32}
    run = attack(
        tmp_path / "out",
        model_name_or_path=save(model, tmp_path / "mobilenet", size=size),
        dataset_name=write_pictures(tmp_path / "pictures"),
        attacks=["fgsm"],
        checks="false",
        batch_size=4,
    )
    assert run.code == 0, run.err
    labels = {r.id: r.label for r in read_records(tmp_path / "out" / "records.jsonl")}
    # The folders' classes stand in the order of the alphabet, the model's do not.
    assert [labels[number] for number in range(6)] == [2, 2, 1, 1, 0, 0]


@pytest.mark.parametrize("options", [{}, {"target": "top"}, {"norm": "l2", "epsilon": 1.5}])
def test_auto_fools_what_its_members_fool(given, tmp_path, options):
    settings = {"attacks": ["fab-t", "auto"], "steps": 4, "queries": 30, "checks": False}
    run = attack(tmp_path / "out", **(given | {"epsilon": "12/255"} | settings | options))
    assert run.code == 0, run
    found = read_records(tmp_path / "out" / "records.jsonl")
    assert len(found) == (32 if "target" in options else 48)
    fooled = [
        {r.id for r in found if r.outcome == "fooled" and r.attack.startswith(name)}
        for name in settings["attacks"]
    ]
    assert fooled[0] <= fooled[1]
    assert fooled[1]


BAD = [
    ({"dataset_name": "/nowhere/images"}, ["/nowhere/images does not exist"]),
    ({"model_name_or_path": "/nowhere/model"}, ["/nowhere/model"]),
    ({"dataset_name": ""}, ["--dataset_name FOLDER"]),
    ({"epsilon": 8}, ["8.0/255"]),
    ({"epsilon": -0.1}, ["above 0"]),
    ({"epsilons": [0.1, 8]}, ["8.0/255"]),
    *(
        pytest.param({flag: value}, [f"--{flag} is", "above 0"], marks=pytest.mark.fault("U3"))
        for flag in ("epsilon", "epsilons")
        for value in (0, -1, "nan", "inf")
    ),
    pytest.param({"epsilons": [0.1, 0.1]}, ["twice: 0.1"], marks=pytest.mark.fault("U3")),
    ({"norm": "l3"}, ["linf", "l3"]),
    ({"norm": "l2"}, ["--norm l2 needs --epsilon"]),
    ({"norm": "l2", "epsilon": 1.0}, ["fgsm", "name fgm"]),
    ({"norm": "l1", "epsilon": 1.0, "attacks": ["apgd"]}, ["L1", "PGD"]),
    ({"norm": "l1", "epsilon": 1.0, "attacks": ["deepfool"]}, ["L2 or L∞"]),
    ({"norm": "l1", "epsilon": 1.0, "attacks": ["auto"]}, ["auto: APGD steps in L∞ and L2"]),
    ({"attacks": ["auto"], "queries": -1}, ["--queries is -1"]),
    ({"attacks": ["fgsm", "squares"]}, ["'squares'", "pgd"]),
    ({"attacks": ["deepfool"], "target": "top"}, ["no target"]),
    ({"target": "left"}, ["'left'", "top, middle, bottom"]),
    ({"split": "validation"}, ["'validation'", "test"]),
    ({"loss": "hinge"}, ["hinge", "margin"]),
    ({"steps": 0}, ["--steps is 0"]),
    ({"max_examples": 0}, ["--max_examples is 0"]),
    ({"step_size": -1.0}, ["step_size"]),
    ({"cw_steps": 0, "attacks": ["cw"]}, ["cw: steps"]),
    ({"protocol": "default"}, ["--protocol belongs to attacks on texts"]),
    ({"test_file": "x.csv"}, ["--test_file belongs to attacks on texts"]),
    ({"epsilom": 0.1}, ["did you mean --epsilon"]),
    ({"device": "nonsense"}, ["--device nonsense"]),
]


@pytest.mark.parametrize(("settings", "words"), BAD, ids=lambda value: str(value)[:40])
def test_what_is_wrong_is_said_in_a_sentence_and_nothing_is_written(
    given, tmp_path, settings, words
):
    run = attack(tmp_path / "out", **(given | settings))
    assert run.code == 2, run
    assert run.out == ""
    sentence = run.err.strip().splitlines()[-1]
    assert sentence.startswith("nlp-adv attack: error: ")
    assert "Traceback" not in run.err
    for word in words:
        assert word in sentence, sentence
    assert not (tmp_path / "out").exists()


def test_no_output_folder(given):
    run = call("--modality", "image", **given)
    assert run.code == 2
    assert "--output_dir FOLDER" in run.err


@pytest.mark.parametrize("kind", ["empty class", "unreadable", "none", "no classes"])
def test_bad_folders_of_pictures(given, tmp_path, kind):
    folder = write_pictures(tmp_path / "pictures")
    expected = {
        "unreadable": "cannot be read",
        "none": "holds no pictures",
        "no classes": "have no classes",
    }
    if kind == "empty class":  # is no class: the others are attacked
        (folder / "test" / "sideways").mkdir()
    elif kind == "unreadable":
        (folder / "test" / "top" / "0.png").write_bytes(b"\x89PNG nothing behind it")
    elif kind == "none":
        folder = tmp_path / "empty"
        folder.mkdir()
    else:
        folder = tmp_path / "flat"
        folder.mkdir()
        Image.new("L", (SIDE, SIDE)).save(folder / "a.png")
    run = attack(tmp_path / "out", **(given | {"dataset_name": folder}), **ATTACKS, checks="false")
    if kind == "empty class":
        assert run.code == 0, run.err
        assert len(read_records(tmp_path / "out" / "records.jsonl")) == 12
    else:
        assert run.code == 2
        assert expected[kind] in run.err


def test_channels_that_the_model_does_not_take(given, tmp_path):
    config = ResNetConfig(
        num_channels=4,
        embedding_size=8,
        hidden_sizes=[8],
        depths=[1],
        layer_type="basic",
        **named(),
    )
    name = save(ResNetForImageClassification(config), tmp_path / "four")
    run = attack(tmp_path / "out", **(given | {"model_name_or_path": name}), **ATTACKS)
    assert run.code == 2
    assert "1 channels and the model takes 4" in run.err


def test_flags_of_images_are_refused_without_the_modality():
    for settings in ({"epsilon": 0.1}, {"batch_size": 3}):
        run = call(model_name_or_path="m", test_file="t.csv", output_dir="o", **settings)
        assert run.code == 2
        assert "add --modality image" in run.err
    run = call("--modality", "sound")
    assert run.code == 2
    assert "text, image or chat" in run.err
    run = call("--modality=text", model_name_or_path="m", output_dir="o")
    assert run.code == 2
    assert "Name the texts" in run.err


def test_help_lists_the_flags(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["attack", "--modality", "image", "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    for flag in ("--epsilon ", "--epsilons", "--cw_search_steps", "--dataset_name", "--restarts"):
        assert flag in shown
    assert "--protocol" not in shown


def test_flags_may_stand_in_a_file(given, tmp_path):
    settings = given | ATTACKS | {"modality": "image", "checks": False, "max_examples": 3}
    path = tmp_path / "run.json"
    path.write_text(json.dumps(settings | {"output_dir": str(tmp_path / "out")}))
    run = call(str(path))
    assert run.code == 0, run.err
    assert len(read_records(tmp_path / "out" / "records.jsonl")) == 6
