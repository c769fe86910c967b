"""`nlp-adv train --modality image`, in this process, on a few digits."""

import gzip
import json

import numpy
import pytest
from commands import call, columns
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    ResNetConfig,
    ViTImageProcessor,
)

from nlp_adv.attacks import PGD
from nlp_adv.cli.arguments import parse
from nlp_adv.cli.image_loading import Normalised
from nlp_adv.cli.loading import load_classifier
from nlp_adv.data.image_demo import demo_images
from nlp_adv.perturbation import LInfBall

SHORT = {
    "max_train_samples": 96,
    "max_eval_samples": 40,
    "num_train_epochs": 2,
    "per_device_train_batch_size": 32,
    "attack_steps": 4,
}


def train(folder, **settings):
    return call("--modality", "image", output_dir=folder, **(SHORT | settings))


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A short run of the demo under PGD, beside plain training."""
    folder = tmp_path_factory.mktemp("run") / "demo"
    return folder, train(folder, adv="pgd")


def test_the_demo_ends_in_a_table(demo):
    _, run = demo
    assert run.code == 0, run.err
    plain, pgd = columns(run)
    names = ["training", "accuracy", "f1_macro", "largest answer", "clean, first 40"]
    assert list(plain) == [*names, "PGD-4 ε=0.1", "seconds", "time ÷ plain"]
    assert (plain["training"], pgd["training"]) == ("plain", "pgd")
    assert "scikit-learn's 8×8 digits" in run.out
    assert "epsilon 0.1" in run.err


def test_the_report_holds_the_tables_numbers(demo):
    folder, run = demo
    report = json.loads((folder / "nlp_adv_report.json").read_text(encoding="utf-8"))
    for row, one in zip(columns(run), report["runs"], strict=True):
        assert one["attacked_examples"] == 40
        assert f"{one['accuracy_without_attack']:.4f}" == row["clean, first 40"]
        assert f"{one['accuracy_under_attack']['0.1']:.4f}" == row["PGD-4 ε=0.1"].split()[0]
        assert f"{one['metrics']['test_accuracy']:.4f}" == row["accuracy"]
    assert [one["method"] for one in report["runs"]] == ["none", "pgd"]


def test_every_epoch_has_clean_and_robust_accuracy(demo):
    folder, _ = demo
    report = json.loads((folder / "nlp_adv_report.json").read_text(encoding="utf-8"))
    for one in report["runs"]:
        epochs = [line["epoch"] for line in one["history"] if "eval_robust_accuracy" in line]
        assert epochs == [1, 2]
        assert [line["epoch"] for line in one["history"] if "eval_accuracy" in line] == [1, 2]


def test_the_curves_are_drawn(demo):
    pytest.importorskip("matplotlib")
    folder, _ = demo
    assert "<svg" in (folder / "training.svg").read_text(encoding="utf-8")


def test_the_saved_model_knows_its_normalisation(demo):
    folder, run = demo
    loaded = load_classifier(str(folder))
    assert loaded.channels == 1
    assert loaded.label_names == tuple("0123456789")
    x, y = next(demo_images()["test"].batches(40))
    right = loaded.model(x).logits.argmax(1) == y
    assert f"{right.double().mean():.4f}" == columns(run)[1]["clean, first 40"]
    processor = AutoImageProcessor.from_pretrained(folder)
    assert dict(processor.size) == {"height": 32, "width": 32}


@pytest.mark.parametrize(("first", "classes"), [(0, 10), (8, 11)])
def test_going_on_from_a_saved_model_with_other_classes(demo, tmp_path, first, classes):
    """On IDX files of three classes: of the model's, they keep its head; else it begins anew."""
    folder, _ = demo
    data = tmp_path / "data"
    data.mkdir()
    for name, count in (("train", 60), ("t10k", 20)):
        images = numpy.random.default_rng(0).integers(0, 256, (count, 32, 32), dtype=numpy.uint8)
        labels = first + numpy.arange(count) % 3
        for kind, values in (("images-idx3", images), ("labels-idx1", labels)):
            values = values.astype(numpy.uint8)
            header = bytes([0, 0, 8, values.ndim])
            header += b"".join(n.to_bytes(4, "big") for n in values.shape)
            path = data / f"{name}-{kind}-ubyte.gz"
            path.write_bytes(gzip.compress(header + values.tobytes()))
    run = train(
        tmp_path / "next",
        adv="fgsm",
        adv_epsilon="8/255",
        model_name_or_path=folder,
        dataset_name=data,
        max_train_samples=40,
        validation_examples=10,
        flip_and_shift=True,
    )
    assert run.code == 0, run.err
    assert "ε=8/255" in run.out
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "next")
    assert model.config.num_labels == classes


def test_a_configuration_begins_from_random_weights(tmp_path):
    config = ResNetConfig(
        num_channels=1, embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic"
    )
    config.save_pretrained(tmp_path / "config")
    run = train(tmp_path / "out", config_name=tmp_path / "config", adv="none")
    assert run.code == 0, run.err
    made = AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    assert made.config.hidden_sizes == [4]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adv": "tavat"}, "perturbs words"),
        ({"attack_epsilons": 8}, "for grey levels write 8.0/255"),
        *(
            pytest.param({flag: value}, f"--{flag}", marks=pytest.mark.fault("U3"))
            for flag in ("attack_epsilons", "watch_epsilon")
            for value in (-1, "nan", "inf")
        ),
        pytest.param({"attack_epsilons": 0}, "above 0", marks=pytest.mark.fault("U3")),
        ({"attack_examples": 0}, "at least 1"),
        ({"max_train_samples": 0}, "give at least 1"),
        ({"validation_examples": 5000}, "leaves nothing"),
        ({"dataset_name": "/nowhere/at/all"}, "does not exist"),
        ({"model_name_or_path": "/nowhere", "config_name": "x"}, "not both"),
        ({"model_name_or_path": "/nowhere/at/all"}, "image processor"),
        ({"pixel_std": 0}, "pixel_std must be positive"),
        ({"pixel_mean": [0.1, 0.2]}, "needs one number or 1"),
        ({"max_seq_length": 5}, "There is no flag --max_seq_length"),
        ({"adv": "pdg"}, "did you mean pgd"),
    ],
    ids=str,
)
def test_what_cannot_work_is_one_sentence(tmp_path, settings, message):
    run = train(tmp_path / "out", **settings)
    assert run.code == 2
    assert message in run.err
    assert "Traceback" not in run.err
    assert not (tmp_path / "out").exists()


def test_what_is_measured_follows_what_is_trained():
    given = ["--modality", "image", "--dataset_name", "x", "--adv", "pgd", "--adv_epsilon"]
    arguments = parse([*given, "4/255"])
    assert arguments.report.attack_epsilons == [4 / 255]
    assert arguments.report.watch_epsilon == 4 / 255
    attack = arguments.report.attack([1 / 255, 4 / 255])
    assert isinstance(attack.attack, PGD)
    assert attack.ball == LInfBall(4 / 255)
    assert attack.radii == (1 / 255, 4 / 255)
    assert parse([*given, "1", "--adv_norm", "l2"]).report.attack_epsilons == [8 / 255]


def test_flips_and_shifts_keep_the_pixels():
    images = demo_images()["train"].head(8)
    processor = ViTImageProcessor(image_mean=[0.0], image_std=[1.0])
    plain, moved = (Normalised(images, processor, flip_and_shift=on) for on in (False, True))
    changed = 0
    for index in range(8):
        one, other = plain[index]["pixel_values"], moved[index]["pixel_values"]
        assert other.shape == one.shape
        assert set(other.unique().tolist()) <= {*one.unique().tolist(), 0.0}
        changed += not one.equal(other)
    assert changed > 0
