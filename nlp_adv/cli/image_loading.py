"""Images, processor and model of `nlp-adv train`, from flags or made for the demo."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    PreTrainedModel,
)

from nlp_adv.cli.loading import PROCESSOR, load, load_classifier_of, say_new_head
from nlp_adv.data.image_demo import demo_images, small_resnet
from nlp_adv.data.image_sources import load_images
from nlp_adv.data.images import Images, check_grey, held_out, of_known_classes
from nlp_adv.data.labels import in_classes_of
from nlp_adv.errors import UserError
from nlp_adv.sites.normalisation import processor_statistics

if TYPE_CHECKING:
    from nlp_adv.cli.arguments import TrainArguments

from nlp_adv.cli.image_arguments import ImageModelArguments

Row = dict[str, Any]


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
        self.images, self._moved = images, flip_and_shift

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Row:
        x, label = self.images[index]
        if self._moved:
            x = _flipped_and_shifted(x)
        return {"pixel_values": (x - self._mean) / self._std, "labels": label}


def load_parts(arguments: TrainArguments) -> dict[str, Any]:
    """Read the images, check them, and find or make the processor: what an `ImageTask` is made of.

    Raises:
        UserError: images or processor cannot be had.
    """
    model, data, training = arguments.model, arguments.data, arguments.training
    name, processor = model.model_name_or_path, None
    if name is not None:
        processor = load(AutoImageProcessor, PROCESSOR, name, model.hub(name))
    config = _config(model)
    images = _images(arguments, processor, getattr(config, "num_channels", None))
    for key, split in images.items():
        split.check(key)
    if processor is None:
        processor = _processor(images["train"], model.pixel_mean, model.pixel_std)
    if config is not None:
        numbers, names = in_classes_of(config, images["train"].label_names)
        images = {key: split.in_classes(numbers, names) for key, split in images.items()}
        if name is not None:
            say_new_head(config, name, len(names))
    splits = {
        key: Normalised(split, processor, flip_and_shift=data.flip_and_shift and key == "train")
        for key, split in images.items()
    }
    parts: dict[str, Any] = {
        "splits": splits,
        "processor": processor,
        "label_names": images["train"].label_names,
        "new_model": _factory(arguments, config, images["train"]),
    }
    if training.do_predict and "test" in splits:
        parts["predicted"] = {"test": splits["test"]}
    return parts


def _images(arguments: TrainArguments, processor: Any, channels: int | None) -> dict[str, Images]:
    """The splits, checked, in the classes of the training images."""
    data, seed, name = arguments.data, arguments.training.seed, arguments.data.dataset_name
    hub = {"config": data.dataset_config_name, "token": arguments.model.token}
    splits = (
        demo_images()
        if name is None
        else load_images(name, processor=processor, channels=channels, **hub)
    )
    if "train" not in splits:
        raise UserError(f"{name} has no train split.")
    if "validation" not in splits:
        splits = held_out(splits, data.validation_examples, seed)
    if channels == 1 and name is not None:
        check_grey(load_images(name, channels=3, **hub)["train"])
    splits = of_known_classes(splits)
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
    return splits


def _config(model: ImageModelArguments) -> Any:
    name = model.config_name or model.model_name_or_path
    return None if name is None else load(AutoConfig, "configuration", name, model.hub(name))


def _factory(
    arguments: TrainArguments, config: Any, train: Images
) -> Callable[[], PreTrainedModel]:
    """A function that makes the model that training begins with."""
    model, names, seed = arguments.model, train.label_names, arguments.training.seed
    name, of_images = model.model_name_or_path, AutoModelForImageClassification
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
        if name is None:
            from_config: Any = of_images.from_config
            made = from_config(config, trust_remote_code=model.trust_remote_code)
            return made
        return load_classifier_of(
            of_images,
            "image classifier",
            name,
            model.hub(name),
            trained=not arguments.trains,
            config=config,
            ignore_mismatched_sizes=model.ignore_mismatched_sizes,
        )

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
