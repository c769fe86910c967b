"""`nlp-adv train --modality image`: what cannot be trained is refused before it is begun."""

import numpy
import pytest
from commands import call, refused, snapshot
from PIL import Image
from transformers import AutoModelForImageClassification, ResNetConfig, ViTImageProcessor

pytestmark = pytest.mark.fault("U11")
SHORT = {
    "num_train_epochs": 1,
    "per_device_train_batch_size": 8,
    "attack_steps": 1,
    "validation_examples": 4,
    "disable_tqdm": True,
    "report_to": "none",
}


def pictures(folder, *, classes=("cat", "dog"), count=8, mode="RGB", size=(8, 8)):
    """A sub-folder of PNG files a class."""
    generator = numpy.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            levels = generator.integers(0, 256, (*size, 3), dtype=numpy.uint8)
            Image.fromarray(levels).convert(mode).save(folder / name / f"{number}.png")
    return folder


def model(folder, *, labels: int, channels: int):
    config = ResNetConfig(
        num_channels=channels,
        embedding_size=4,
        hidden_sizes=[4],
        depths=[1],
        layer_type="basic",
        num_labels=labels,
    )
    AutoModelForImageClassification.from_config(config).save_pretrained(folder)
    processor = ViTImageProcessor(
        size={"height": 8, "width": 8}, image_mean=[0.5] * channels, image_std=[0.5] * channels
    )
    processor.save_pretrained(folder)
    return folder


def train(**settings):
    return call("--modality", "image", output_dir="out", **(SHORT | settings))


def refused_at_once(work, *words, **settings):
    before = snapshot(work)
    run = train(**settings)
    refused(run, *words)
    assert snapshot(work) == before


def test_one_class(work):
    refused_at_once(work, "cat", "two classes", dataset_name=pictures(work / "d", classes=["cat"]))


def test_two_names_and_images_of_one(work):
    pictures(work / "d" / "train", classes=["cat"])
    pictures(work / "d" / "test")
    refused_at_once(work, "dog", "no training image", dataset_name=work / "d")


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_class_that_is_not_trained(work, split):
    pictures(work / "d" / "train")
    pictures(work / "d" / split, classes=["cat", "dog", "eel"])
    refused_at_once(work, split, "eel", "no training image", dataset_name=work / "d")


def test_a_class_that_is_only_trained_is_fine(work):
    pictures(work / "d" / "train", classes=["cat", "dog", "eel"])
    pictures(work / "d" / "validation")
    assert train(dataset_name=work / "d").code == 0


def test_a_grey_model_on_colours(work):
    name = model(work / "m", labels=10, channels=1)
    given = {"dataset_name": pictures(work / "d"), "model_name_or_path": name}
    refused_at_once(work, "in colour", "grey", **given)


def test_a_grey_model_on_grey_pictures_that_are_saved_in_colour(work):
    """Nothing is lost; that the head begins anew is said."""
    name = model(work / "m", labels=10, channels=1)
    grey = pictures(work / "d", mode="L")
    for path in grey.rglob("*.png"):
        Image.open(path).convert("RGB").save(path)
    run = train(dataset_name=grey, model_name_or_path=name)
    assert run.code == 0, run
    assert "10 classes" in run.err
    assert "begins anew" in run.err


@pytest.mark.parametrize("damage", ["empty", "cut", "text"])
@pytest.mark.parametrize("place", ["train/dog/7.png", "validation/cat/0.png"])
def test_an_image_that_cannot_be_read(work, damage, place):
    for split in ("train", "validation"):
        pictures(work / "d" / split, size=(64, 64))
    path = work / "d" / place
    content = path.read_bytes()
    path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "text": b"cat"}[damage])
    refused_at_once(work, "cannot be", dataset_name=work / "d")


def test_one_image_of_another_size(work):
    pictures(work / "d")
    Image.new("RGB", (9, 8)).save(work / "d" / "dog" / "7.png")
    refused_at_once(work, "differ in size", dataset_name=work / "d")
