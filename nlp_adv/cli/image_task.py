"""Images: what `nlp-adv train` must know of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import transformers
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    PreTrainedModel,
)

from nlp_adv.attacks import PGD
from nlp_adv.cli.arguments import (
    LimitArguments,
    ModelArguments,
    ReportArguments,
    check_counts,
    flag,
)
from nlp_adv.cli.loading import PROCESSOR, load, load_classifier_of, say_new_head
from nlp_adv.cli.task import Measured, Task, has_ball
from nlp_adv.data.image_demo import demo_images, small_resnet
from nlp_adv.data.images import Images, check_grey, held_out, load_images, of_known_classes
from nlp_adv.data.labels import in_classes_of
from nlp_adv.errors import UserError
from nlp_adv.perturbation import LInfBall
from nlp_adv.robustness.evaluator import image_evaluator
from nlp_adv.robustness.image_evaluation import epsilon_sweep
from nlp_adv.sites.normalisation import Pixels, processor_statistics
from nlp_adv.training.callbacks import Evaluator

if TYPE_CHECKING:
    from nlp_adv.cli.arguments import TrainArguments
    from nlp_adv.training.arguments import AdversarialTrainingArguments

Row = dict[str, Any]
_BATCH = 256  # images attacked at once
_UNSET = 8 / 255  # the radius that is measured where none is named or trained on


@dataclass
class ImageModelArguments(ModelArguments):
    """Which classifier; without a model a small ResNet is trained from random weights.

    Raises:
        UserError: two models.
    """

    config_name: str | None = flag(
        "A configuration (a folder, a .json file or a name on the Hub): train it from random "
        "weights."
    )
    pixel_mean: list[float] = field(
        default_factory=lambda: [0.5],
        metadata={"help": "Normalisation of a model from random weights."},
    )
    pixel_std: list[float] = field(
        default_factory=lambda: [0.5],
        metadata={"help": "Normalisation of a model from random weights."},
    )
    ignore_mismatched_sizes: bool = flag(
        "A head for other labels than the data's begins anew.", True
    )

    def __post_init__(self) -> None:
        if self.model_name_or_path and self.config_name:
            raise UserError(
                "Give --model_name_or_path to go on from a saved model, or --config_name to begin "
                "from random weights, not both."
            )


@dataclass
class ImageDataArguments(LimitArguments):
    """Which images.

    Raises:
        UserError: a number of images below 1.
    """

    dataset_name: str | None = flag(
        "A folder of IDX files, a folder with one sub-folder of pictures a class, a saved data "
        "set, or a name on the Hub; digits of scikit-learn without."
    )
    dataset_config_name: str | None = flag("Configuration of a data set on the Hub.")
    validation_examples: int = flag(
        "Where there is no validation split, so many training images are held out for it.", 1000
    )
    flip_and_shift: bool = flag(
        "Training images are mirrored at random and moved by up to an eighth of their size.", False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "validation_examples")


@dataclass
class ImageReportArguments(ReportArguments):
    """What is measured, in training and after it."""

    attack_epsilons: list[float] = field(
        default_factory=list,
        metadata={
            "help": "Radii in pixels, such as 8/255, of the L∞ PGD that the table is about; "
            "--adv_epsilon, or 8/255, without."
        },
    )
    attack_examples: int = flag("Attack the first so many images.", 1000)
    watch_epsilon: float | None = flag(
        "Radius at which every evaluation measures accuracy under attack; the largest of "
        "--attack_epsilons without, 0 for none."
    )

    zero_is_unwatched: ClassVar[bool] = True

    def attack(self, epsilons: Sequence[float]) -> PGD:
        """PGD on the margin in the largest L∞ ball: K steps of 2.5·ε/K from a random start."""
        attacks = [
            PGD(
                LInfBall(epsilon),
                step_size=2.5 * epsilon / self.attack_steps,
                steps=self.attack_steps,
                loss="margin",
                until_fooled=True,
            )
            for epsilon in sorted(epsilons)
        ]
        return attacks[-1]


_RUN = {
    "num_train_epochs": "10",
    "per_device_train_batch_size": "64",
    "per_device_eval_batch_size": "256",
    "learning_rate": "2e-3",
    "warmup_steps": "0.1",
    "lr_scheduler_type": "cosine",
    "eval_strategy": "epoch",
    "logging_strategy": "epoch",
    "save_strategy": "no",
}
_DEMO = {"validation_examples": "200", "attack_epsilons": "0.1", "compare_plain": "true"}
_DEMO_BALL = {"adv_epsilon": "0.1", "adv_ramp_steps": "0.3"}


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


class ImageTask(Task):
    """Images of one size; the attack of the table is PGD in an L∞ ball of pixels."""

    modality, other = "image", "text"
    arguments = (ImageModelArguments, ImageDataArguments, ImageReportArguments)
    examples = "images"
    demo_note = (
        "The images are scikit-learn's 8×8 digits; the numbers show the tool at work and no more."
    )

    @classmethod
    def is_demo(cls, named: set[str]) -> bool:
        """No data is named; a model may be."""
        return "dataset_name" not in named

    @classmethod
    def defaults(cls, adv: str, *, demo: bool) -> dict[str, str]:
        """What suits small models, and the demo's sizes."""
        return _RUN | (_DEMO if demo else {}) | (_DEMO_BALL if demo and has_ball(adv) else {})

    @classmethod
    def complete(cls, arguments: TrainArguments) -> None:
        """What is measured follows what is trained."""
        report = arguments.report
        schedule = arguments.training.adversarial_schedule("image")
        if not report.attack_epsilons:
            ball = getattr(schedule.method, "ball", None)
            # The radius that is trained on, where it is one in L∞ and in pixels.
            own = isinstance(ball, LInfBall) and arguments.training.adv_unit in (None, "absolute")
            report.attack_epsilons = [float(ball.epsilon) if own and ball else _UNSET]
        if report.watch_epsilon is None:
            report.watch_epsilon = max(report.attack_epsilons)

    @classmethod
    def folder(cls, *, demo: bool) -> str:
        """Of a run."""
        return "demo-images" if demo else "images"

    @classmethod
    def load(cls, arguments: TrainArguments) -> ImageTask:
        """Read the images, check them, and find or make the processor."""
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
        new_model = _factory(arguments, config, images["train"])
        task = cls(splits, processor, images["train"].label_names, new_model)
        if training.do_predict and "test" in splits:
            task.predicted = {"test": splits["test"]}
        return task

    def labels(self, split: str) -> list[Any]:
        """Of the images of a split."""
        return list(self.images(split).labels)

    def images(self, split: str) -> Images:
        """A split's, in pixels."""
        images: Images = self.splits[split].images
        return images

    def pixels(self, model: nn.Module) -> Pixels:
        """The model on pixels in [0, 1]."""
        return Pixels.from_processor(model, self.processor)

    def check_fits(self, model: PreTrainedModel, arguments: TrainArguments) -> None:
        """All of it was looked at while the images were read."""

    def measure(
        self,
        model: PreTrainedModel,
        split: str,
        report: Any,
        training: AdversarialTrainingArguments,
        *,
        progress: str | None,
    ) -> Measured:
        """Under PGD on the pixels of the first images."""
        batches = self.images(split).head(report.attack_examples).batches(_BATCH)
        attack, radii = report.attack(report.attack_epsilons), sorted(report.attack_epsilons)
        found = epsilon_sweep(attack, self.pixels(model), batches, radii, progress=progress)
        return Measured(
            len(found.right),
            found.share(0.0).value,
            {epsilon: found.share(epsilon).value for epsilon in found.epsilons},
            f"PGD: accuracy on its first {len(found.right)} images, to be read beside the clean "
            f"one of these images, under projected gradient ascent on the logit margin in an L∞ "
            f"ball, ε in pixels of [0, 1].",
        )

    def evaluator(self, report: Any, training: AdversarialTrainingArguments) -> Evaluator:
        """PGD on the first validation images."""
        batches = self.images("validation").head(report.attack_examples).batches(_BATCH)
        return image_evaluator(list(batches), report.attack([report.watch_epsilon]), self.pixels)

    def attack_in_json(self, report: Any) -> dict[str, Any]:
        """The attack of the table."""
        return {
            "kind": "PGD on the logit margin, random start",
            "norm": "linf",
            "unit": "pixels in [0, 1]",
            "steps": report.attack_steps,
            "epsilons": report.attack_epsilons,
        }

    def shown_radius(self, epsilon: float) -> str:
        """Whole grey levels as people write them."""
        levels = epsilon * 255
        whole = abs(levels - round(levels)) < 1e-6
        return f"{levels:.0f}/255" if whole else super().shown_radius(epsilon)


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
