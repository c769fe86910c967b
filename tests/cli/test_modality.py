"""What a command is about is found from the model, and from the data, where it is not said."""

import json

import numpy
import pytest
from commands import call, refused
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from PIL import Image

from nlp_adv.cli.modality import modality
from nlp_adv.errors import UserError


def configured(folder, **config):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return ["--model_name_or_path", str(folder)]


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"architectures": ["ResNetForImageClassification"]}, "image"),
        ({"architectures": ["PerceiverForSequenceClassification"]}, "text"),
        ({"model_type": "vit"}, "image"),
        ({"model_type": "bert"}, "text"),
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "text"),
        ({"model_type": "vit", "architectures": ["ViTModel"]}, "image"),
        ({"model_type": "nobody knows"}, "text"),
        ({}, "text"),
    ],
    ids=str,
)
def test_a_models_configuration_says_it(tmp_path, config, found):
    argv = configured(tmp_path / "m", **config)
    assert modality(argv) == found
    assert modality(["--config-name", str(tmp_path / "m" / "config.json")]) == found
    other = {"text": "image", "image": "text"}[found]
    assert modality([*argv, "--modality", other]) == other  # what is said goes first


def test_a_damaged_configuration_is_left_to_the_loading(tmp_path):
    argv = configured(tmp_path / "m")
    for content in ("{", "[]", "null"):
        (tmp_path / "m" / "config.json").write_text(content)
        assert modality(argv) == "text"


def test_the_data_say_it_where_no_model_does(tmp_path):
    (tmp_path / "pictures" / "cat").mkdir(parents=True)
    Image.fromarray(numpy.zeros((4, 4), numpy.uint8)).save(tmp_path / "pictures/cat/1.png")
    (tmp_path / "idx").mkdir()
    (tmp_path / "idx" / "train-images-idx3-ubyte").write_bytes(b"")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "train.csv").write_text("text,label\na,b\n")
    features = Features({"text": Value("string"), "label": ClassLabel(names=["a", "b"])})
    rows = Dataset.from_dict({"text": ["x"], "label": [0]}, features=features)
    DatasetDict({"train": rows}).save_to_disk(tmp_path / "saved")
    found = {"pictures": "image", "idx": "image", "texts": "text", "saved": "text", "none": "text"}
    for name, kind in found.items():
        assert modality(["--dataset_name", str(tmp_path / name)]) == kind, name
    argv = configured(tmp_path / "m", model_type="bert")
    assert modality([*argv, "--dataset_name", str(tmp_path / "pictures")]) == "text"


def test_it_may_stand_in_a_file(tmp_path):
    (tmp_path / "flags.yaml").write_text("modality: image\n")
    assert modality([str(tmp_path / "flags.yaml")]) == "image"
    assert modality([]) == "text"


def test_another_one_is_refused():
    with pytest.raises(UserError, match="text, image or chat"):
        modality(["--modality=video"])
    refused(call("--modality", "sound"), "text, image or chat")
