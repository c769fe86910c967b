"""Images from where people have them, as pixels in [0, 1]."""

import gzip

import numpy
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from PIL import Image as Picture
from transformers import ViTImageProcessor

from nlp_adv import UserError
from nlp_adv.data.image_sources import load_images


def idx(values: numpy.ndarray) -> bytes:
    header = bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape)
    return header + values.tobytes()


def write_idx(folder, name: str, count: int, *, gz: bool = True):
    generator = numpy.random.default_rng(count)
    images = generator.integers(0, 256, (count, 5, 4), dtype=numpy.uint8)
    labels = (numpy.arange(count) % 3).astype(numpy.uint8)
    for kind, values in (("images-idx3", images), ("labels-idx1", labels)):
        content = gzip.compress(idx(values)) if gz else idx(values)
        (folder / f"{name}-{kind}-ubyte{'.gz' if gz else ''}").write_bytes(content)
    return images, labels


def picture(path, colour, size=(6, 5)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Picture.new("RGB", size, colour).save(path)


@pytest.mark.parametrize("gz", [True, False])
def test_idx_files(tmp_path, gz):
    images, labels = write_idx(tmp_path, "train", 7, gz=gz)
    write_idx(tmp_path, "t10k", 4, gz=gz)
    splits = load_images(str(tmp_path))
    assert set(splits) == {"train", "test"}
    assert len(splits["test"]) == 4
    x, y = next(splits["train"].batches(10))
    assert torch.equal(x[:, 0], torch.from_numpy(images) / 255)
    assert y.tolist() == labels.tolist()
    assert splits["train"].label_names == ("0", "1", "2")


def test_idx_class_names_and_channels(tmp_path):
    write_idx(tmp_path, "train", 5)
    (tmp_path / "labels.txt").write_text("shirt\ncoat\nbag\n", encoding="utf-8")
    train = load_images(str(tmp_path), channels=3)["train"]
    assert train.label_names == ("shirt", "coat", "bag")
    pixels, _ = train[0]
    assert pixels.shape == (3, 5, 4)
    assert torch.equal(pixels[0], pixels[2])


def test_a_folder_of_pictures(tmp_path):
    for split in ("train", "test"):
        for name, colour in (("cat", (255, 0, 0)), ("dog", (0, 51, 0))):
            picture(tmp_path / split / name / "one.png", colour)
    splits = load_images(str(tmp_path))
    assert set(splits) == {"train", "test"}
    x, y = next(splits["test"].batches(2))
    assert x.shape == (2, 3, 5, 6)
    by_name = dict(zip((splits["test"].label_names[label] for label in y), x, strict=True))
    assert by_name["cat"][:, 0, 0].tolist() == [1.0, 0.0, 0.0]
    assert by_name["dog"][:, 0, 0].tolist() == pytest.approx([0.0, 0.2, 0.0])
    assert load_images(str(tmp_path), channels=1)["test"][0][0].shape == (1, 5, 6)


def test_a_processor_brings_pictures_to_one_size_and_does_not_normalise(tmp_path):
    picture(tmp_path / "a" / "1.png", (255, 255, 255), (9, 7))
    picture(tmp_path / "b" / "1.png", (0, 0, 0), (4, 4))
    with pytest.raises(UserError, match="differ in size"):
        next(load_images(str(tmp_path))["train"].batches(2))
    processor = ViTImageProcessor(size={"height": 6, "width": 6})
    x, _ = next(load_images(str(tmp_path), processor=processor)["train"].batches(2))
    assert x.shape == (2, 3, 6, 6)
    assert sorted(x.flatten(1).mean(1).tolist()) == [0.0, 1.0]


def test_a_saved_data_set(tmp_path):
    features = Features({"img": Image(), "label": ClassLabel(names=["x", "y"])})
    rows = {"img": [Picture.new("L", (3, 3), 51)] * 2, "label": [1, 0]}
    saved = Dataset.from_dict(rows, features=features)
    DatasetDict({"test": saved}).save_to_disk(str(tmp_path / "saved"))
    test = load_images(str(tmp_path / "saved"))["test"]
    pixels, label = test[0]
    assert pixels.shape == (1, 3, 3)
    assert pixels[0, 0, 0].item() == pytest.approx(0.2)
    assert test.label_names[label] == "y"


def test_parts_of_the_images(tmp_path):
    _, labels = write_idx(tmp_path, "train", 9)
    train = load_images(str(tmp_path))["train"]
    drawn = train.drawn(4, seed=1)
    assert len(drawn) == 4
    assert torch.equal(drawn[0][0], train.drawn(4, seed=1)[0][0])
    assert train.head(2).labels == labels[:2].tolist()
    assert len(train.head(99)) == 9
    sizes = [len(x) for x, _ in train.batches(4)]
    assert sizes == [4, 4, 1]


def test_classes_go_by_name_where_the_model_knows_them(tmp_path):
    write_idx(tmp_path, "train", 3)
    train = load_images(str(tmp_path))["train"]
    assert train.named_as(["2", "1", "0"]).labels == [2, 1, 0]
    assert train.named_as(["a", "b", "c", "d"]).labels == [0, 1, 2]
    with pytest.raises(UserError, match="3 classes and the model 2"):
        train.named_as(["a", "b"])


def without_labels(folder):
    write_idx(folder, "train", 3)
    (folder / "train-labels-idx1-ubyte.gz").unlink()


def short_labels(folder):
    write_idx(folder, "train", 3)
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(
        gzip.compress(idx(numpy.zeros(2, dtype=numpy.uint8)))
    )


def no_classes(folder):
    picture(folder / "one.png", (0, 0, 0))


def other_split(folder):
    rows = Dataset.from_dict({"image": [0], "label": [0]})
    DatasetDict({"extra": rows}).save_to_disk(str(folder / "x"))
    for file in (folder / "x").iterdir():
        file.rename(folder / file.name)


def no_image_column(folder):
    Dataset.from_dict({"text": ["a"], "label": [0]}).save_to_disk(str(folder))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (without_labels, "no labels beside it"),
        (short_labels, r"should be \(N, H, W\) and \(N,\)"),
        (no_classes, "one sub-folder a class"),
        (lambda folder: None, "holds no pictures"),
        (other_split, "no split named train, validation or test"),
        (no_image_column, "has the columns text, label"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path, make, message):
    folder = tmp_path / "data"
    folder.mkdir()
    make(folder)
    with pytest.raises(UserError, match=message):
        load_images(str(folder))


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load_images(str(tmp_path / "nowhere"))


def test_a_damaged_picture_is_named(tmp_path):
    picture(tmp_path / "a" / "1.png", (0, 0, 0))
    (tmp_path / "a" / "2.png").write_bytes(b"no picture")
    train = load_images(str(tmp_path))["train"]
    with pytest.raises(UserError, match="Image 1 of"):
        next(train.batches(2))
