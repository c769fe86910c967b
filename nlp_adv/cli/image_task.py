"""Images: what `nlp-adv train` must know of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import (
    PreTrainedModel,
)

from nlp_adv.attacks import Measured
from nlp_adv.attacks.subject import Batch, Subject
from nlp_adv.cli.task import Task, has_ball
from nlp_adv.data.images import Images
from nlp_adv.perturbation import LInfBall
from nlp_adv.sites.normalisation import Pixels

if TYPE_CHECKING:
    from nlp_adv.cli.arguments import TrainArguments
    from nlp_adv.training.arguments import AdversarialTrainingArguments

from nlp_adv.cli.image_arguments import (
    ImageDataArguments,
    ImageModelArguments,
    ImageReportArguments,
)
from nlp_adv.cli.image_loading import load_parts

_BATCH = 256  # images attacked at once
_UNSET = 8 / 255  # the radius that is measured where none is named or trained on


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


class ImageTask(Task):
    """Images of one size; the attack of the table is PGD in an L∞ ball of pixels."""

    modality, about, other = "image", "image", "text"
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
        return cls(**load_parts(arguments))

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

    def subject(self, model: nn.Module, training: AdversarialTrainingArguments) -> Subject:
        """Its pixels."""
        return Subject(self.pixels(model))

    def attacked(self, split: str, count: int) -> Iterator[Batch]:
        """Images in pixels."""
        return self.images(split).head(count).batches(_BATCH)

    def meaning(self, found: Measured) -> str:
        """PGD on the pixels."""
        return (
            f"PGD: accuracy on its first {found.examples} images, to be read beside the clean "
            f"one of these images, under projected gradient ascent on the logit margin in an L∞ "
            f"ball, ε in pixels of [0, 1]."
        )

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
