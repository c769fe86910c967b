"""What `nlp-adv train --modality image` trains: images, processor and model."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    PreTrainedModel,
)

from nlp_adv.cli.train_image_arguments import TrainImageArguments
from nlp_adv.data.image_demo import demo_images, small_resnet
from nlp_adv.data.image_loading import cannot_load, load_processor
from nlp_adv.data.images import Images, load_images
from nlp_adv.data.labels import in_classes_of
from nlp_adv.errors import UserError
from nlp_adv.sites.normalisation import Pixels, processor_statistics

Row = dict[str, Any]
_AutoModel: Any = AutoModelForImageClassification  # its methods have no types


@dataclass
class ImageTask:
    """Everything a run needs but its arguments.

    Attributes:
        splits: "train", "validation", and "test" where there is one.
        processor: knows size, mean and std.
        new_model: a fresh model, the same each time.
        label_names: of the model's classes.
    """

    splits: dict[str, Images]
    processor: Any
    new_model: Callable[[], PreTrainedModel]
    label_names: tuple[str, ...]

    @property
    def reported(self) -> str:
        """The split that the table is about."""
        return "test" if "test" in self.splits else "validation"

    def pixels(self, model: nn.Module) -> Pixels:
        """The model on pixels in [0, 1]."""
        return Pixels.from_processor(model, self.processor)


class Normalised(torch.utils.data.Dataset[Row]):
    """Images as a model of transformers takes them: "pixel_values" normalised, "labels".

    Args:
        images: in pixels.
        processor: knows mean and std.
        flip_and_shift: mirror at random, and move by up to an eighth of the size, zeros behind.
    """

    def __init__(self, images: Images, processor: Any, *, flip_and_shift: bool = False) -> None:
        mean, std = processor_statistics(processor)
        self._mean, self._std = (torch.tensor(one).reshape(-1, 1, 1) for one in (mean, std))
        self._images, self._moved = images, flip_and_shift

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Row:
        x, label = self._images[index]
        if self._moved:
            x = _flipped_and_shifted(x)
        return {"pixel_values": (x - self._mean) / self._std, "labels": label}


def load_image_task(arguments: TrainImageArguments) -> ImageTask:
    """Read the images and find processor and model.

    Raises:
        UserError: one of them cannot be had.
    """
    model, data, seed = arguments.model, arguments.data, arguments.training.seed
    name = model.model_name_or_path
    processor = None
    if name is not None:
        revision = model.model_revision
        processor = load_processor(name, cache_dir=model.cache_dir, revision=revision)
    config = _config(arguments)
    channels = None if config is None else getattr(config, "num_channels", None)
    if data.dataset_name is None:
        splits = demo_images()
    else:
        splits = load_images(data.dataset_name, processor=processor, channels=channels)
    if "train" not in splits:
        raise UserError(f"{data.dataset_name} has no train split.")
    splits = _held_out(splits, data.validation_examples, seed)
    if channels == 1 and data.dataset_name is not None:
        _check_grey(load_images(data.dataset_name, channels=3)["train"])
    splits = _of_known_classes(splits)
    if data.max_train_samples is not None:
        splits["train"] = splits["train"].drawn(data.max_train_samples, seed)
    if data.max_eval_samples is not None:
        for key in splits.keys() - {"train"}:
            splits[key] = splits[key].head(data.max_eval_samples)
    classes = {splits["train"].label_names[label] for label in splits["train"].labels}
    if len(classes) < 2:
        raise UserError(
            f"All {len(splits['train'])} training images are of the class "
            f"{', '.join(classes) or 'none'}: give images of at least two classes."
        )
    for key, split in splits.items():
        split.check(key)
    if processor is None:
        processor = _processor(splits["train"], model.pixel_mean, model.pixel_std)
    if config is not None:
        splits = _as_the_model_has_them(splits, config)
    names = splits["train"].label_names
    new_model = _factory(arguments, config, splits["train"])
    return ImageTask(splits, processor, new_model, names)


def _as_the_model_has_them(splits: dict[str, Images], config: Any) -> dict[str, Images]:
    """The images with the model's class numbers and names, where it has classes of that kind."""
    numbers, names = in_classes_of(config, splits["train"].label_names)
    return {key: split.in_classes(numbers, names) for key, split in splits.items()}


def _held_out(splits: dict[str, Images], count: int, seed: int) -> dict[str, Images]:
    if "validation" in splits:
        return dict(splits)
    train = splits["train"]
    if count >= len(train):
        raise UserError(
            f"--validation_examples {count} leaves nothing of {len(train)} training images; give "
            f"fewer."
        )
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed)).tolist()
    kept = {"train": train.select(order[count:]), "validation": train.select(order[:count])}
    return kept | {key: split for key, split in splits.items() if key != "train"}


def _of_known_classes(splits: dict[str, Images]) -> dict[str, Images]:
    """The same, with the numbers of the training split's classes.

    Raises:
        UserError: another split has a class that is not trained.
    """
    train = splits["train"]
    known = {train.label_names[label] for label in train.labels}
    for key, split in splits.items():
        there = {split.label_names[label] for label in split.labels}
        if not there <= known:
            raise UserError(
                f"The {key} split has images of the class {min(there - known)}, of which there is "
                f"no training image: add some, or remove that class."
            )
    return {
        key: split if split.label_names == train.label_names else split.named_as(train.label_names)
        for key, split in splits.items()
    }


def _check_grey(images: Images) -> None:
    """Refuse to take the colours out of pictures for a model of grey ones.

    Args:
        images: in three channels; those of a grey picture are equal.

    Raises:
        UserError: one of a few pictures is in colour.
    """
    for number in range(0, len(images), max(1, len(images) // 8)):
        x = images[number][0]
        if bool((x != x[:1]).any()):
            raise UserError(
                "The images are in colour and the model takes grey ones: give a model of 3 "
                "channels, or grey images."
            )


def _config(arguments: TrainImageArguments) -> Any:
    model = arguments.model
    name = model.config_name or model.model_name_or_path
    if name is None:
        return None
    try:
        return AutoConfig.from_pretrained(
            name, cache_dir=model.cache_dir, revision=model.model_revision, trust_remote_code=False
        )
    except Exception as error:  # damaged files fail in any way
        raise cannot_load("configuration", name, error) from error


def _factory(
    arguments: TrainImageArguments, config: Any, train: Images
) -> Callable[[], PreTrainedModel]:
    """A function that makes the model that training begins with."""
    model, names, seed = arguments.model, train.label_names, arguments.training.seed
    before = None if config is None or model.config_name else config.num_labels
    if before not in (None, len(names)):
        print(
            f"Note: {model.model_name_or_path} tells {before} classes apart and the images have "
            f"{len(names)}: its head begins anew.",
            file=sys.stderr,
        )
    labels = {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {label: number for number, label in enumerate(names)},
    }

    def new() -> PreTrainedModel:
        made: PreTrainedModel
        if config is None:
            made = small_resnet(len(names), train[0][0].shape[0], seed)
            made.config.update(labels)
            return made
        config.update(labels)
        if model.model_name_or_path is None:
            made = _AutoModel.from_config(config, trust_remote_code=False)
            return made
        try:
            made = _AutoModel.from_pretrained(
                model.model_name_or_path,
                config=config,
                ignore_mismatched_sizes=True,  # a head for other classes begins anew
                cache_dir=model.cache_dir,
                revision=model.model_revision,
                trust_remote_code=False,
            )
        except Exception as error:  # damaged files fail in any way
            raise cannot_load("image classifier", model.model_name_or_path, error) from error
        return made

    return new


def _processor(train: Images, mean: list[float], std: list[float]) -> Any:
    """A processor for images of the training images' size, to be saved beside the model."""
    channels, height, width = train[0][0].shape
    for name, values in (("pixel_mean", mean), ("pixel_std", std)):
        if len(values) not in (1, channels):
            raise UserError(f"--{name} needs one number or {channels}, one a channel.")
    if min(std) <= 0:
        raise UserError(f"--pixel_std must be positive, not {min(std)}.")
    # It resizes with Pillow, not with torchvision, and is saved under its family's name.
    kind = getattr(transformers, "ViTImageProcessorPil", None) or transformers.ViTImageProcessor
    try:
        return kind(size={"height": height, "width": width}, image_mean=mean, image_std=std)
    except ImportError as error:
        raise UserError("Images need Pillow: pip install nlp_adv[images].") from error


def _flipped_and_shifted(x: Tensor) -> Tensor:
    height, width = x.shape[1:]
    if torch.rand(()) < 0.5:
        x = x.flip(2)
    down, right = (int(torch.randint(-size // 8, size // 8 + 1, ())) for size in (height, width))
    moved = torch.zeros_like(x)
    moved[:, max(0, down) : height + min(0, down), max(0, right) : width + min(0, right)] = x[
        :, max(0, -down) : height - max(0, down), max(0, -right) : width - max(0, right)
    ]
    return moved
