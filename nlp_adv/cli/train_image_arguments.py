"""The flags of `nlp-adv train --modality image`."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from nlp_adv.attacks import PGD
from nlp_adv.cli.arguments import check_radii, unused_folder
from nlp_adv.cli.flags import FlagParser, flag_names, method_name
from nlp_adv.cli.modality import with_numbers
from nlp_adv.cli.numbers import check_numbers
from nlp_adv.cli.settings import flags_of
from nlp_adv.errors import UserError
from nlp_adv.methods import all_methods
from nlp_adv.perturbation import LInfBall
from nlp_adv.training.arguments import AdversarialTrainingArguments


def _flag(text: str, default: Any = None) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class ImageModelArguments:
    """Which classifier; without a model a small ResNet is trained from random weights."""

    modality: str = _flag("image.", "image")
    model_name_or_path: str | None = _flag(
        "A folder with a saved model and its image processor, or a name on the Hub."
    )
    config_name: str | None = _flag(
        "A configuration (a folder, a .json file or a name on the Hub): train it from random "
        "weights."
    )
    cache_dir: str | None = _flag("Where downloads from the Hub are kept.")
    model_revision: str = _flag("Branch, tag or commit on the Hub.", "main")
    pixel_mean: list[float] = field(
        default_factory=lambda: [0.5],
        metadata={"help": "Normalisation of a model from random weights."},
    )
    pixel_std: list[float] = field(
        default_factory=lambda: [0.5],
        metadata={"help": "Normalisation of a model from random weights."},
    )


@dataclass
class ImageDataArguments:
    """Which images.

    Raises:
        UserError: a number of images below 1.
    """

    dataset_name: str | None = _flag(
        "A folder of IDX files, a folder with one sub-folder of pictures a class, a saved data "
        "set, or a name on the Hub; digits of scikit-learn without."
    )
    max_train_samples: int | None = _flag("Train on a random draw of so many images.")
    max_eval_samples: int | None = _flag("Evaluate on the first so many images of each split.")
    validation_examples: int = _flag(
        "Where there is no validation split, so many training images are held out for it.", 1000
    )
    flip_and_shift: bool = _flag(
        "Training images are mirrored at random and moved by up to an eighth of their size.", False
    )

    def __post_init__(self) -> None:
        for name in ("max_train_samples", "max_eval_samples", "validation_examples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name} is {value}; give at least 1.")


@dataclass
class ImageReportArguments:
    """What is measured, in training and after it.

    Raises:
        UserError: a setting of the attack that is out of range.
    """

    attack_epsilons: list[float] = field(
        default_factory=list,
        metadata={
            "help": "Radii in pixels, such as 8/255, of the L∞ PGD that the table is about; "
            "--adv_epsilon, or 8/255, without."
        },
    )
    watch_epsilon: float | None = _flag(
        "Radius at which every evaluation measures accuracy under attack; the largest of "
        "--attack_epsilons without, 0 for none."
    )
    attack_steps: int = _flag("Steps of that attack.", 20)
    attack_examples: int = _flag("Attack the first so many images.", 1000)
    compare_plain: bool = _flag(
        "Train without attack from the same initialisation as well, for the table.", False
    )
    overwrite_output_dir: bool = _flag("Write over another run in --output_dir.", False)

    def __post_init__(self) -> None:
        if self.attack_examples < 1 or self.attack_steps < 1:
            raise UserError("--attack_examples and --attack_steps must be at least 1.")
        check_radii("attack_epsilons", self.attack_epsilons)
        if self.watch_epsilon:  # 0 is for none
            check_radii("watch_epsilon", [self.watch_epsilon])
        for epsilon in [*self.attack_epsilons, self.watch_epsilon or 0.0]:
            self.attack(epsilon)

    def attack(self, epsilon: float) -> PGD:
        """PGD on the margin in the L∞ ball: K steps of 2.5·ε/K from a random start."""
        try:
            return PGD(
                LInfBall(epsilon),
                step_size=2.5 * epsilon / self.attack_steps,
                steps=self.attack_steps,
                loss="margin",
                until_fooled=True,
            )
        except ValueError as error:
            raise UserError(f"--attack_epsilons, --watch_epsilon: {error}") from error


class TrainImageArguments(NamedTuple):
    """All flags of `nlp-adv train --modality image`."""

    model: ImageModelArguments
    data: ImageDataArguments
    report: ImageReportArguments
    training: AdversarialTrainingArguments

    @property
    def demo(self) -> bool:
        """No data named."""
        return self.data.dataset_name is None


_DEFAULTS = {
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
_DEMO = {
    "validation_examples": "200",
    "attack_epsilons": "0.1",
    "compare_plain": "true",
}
_DEMO_BALL = {"adv_epsilon": "0.1", "adv_ramp_steps": "0.3"}


def parse(argv: list[str]) -> TrainImageArguments:
    """Flags, or a file of them, as dataclasses.

    Raises:
        UserError: an unknown flag, or a value that is refused.
    """
    groups = (
        ImageModelArguments,
        ImageDataArguments,
        ImageReportArguments,
        AdversarialTrainingArguments,
    )
    parser = FlagParser(
        groups,
        prog="nlp-adv train --modality image",
        usage="nlp-adv train --modality image [flags]   (--help lists them)",
    )
    argv = with_numbers(flags_of(argv))
    named = flag_names(argv)
    if {"model_name_or_path", "config_name"} <= named:
        raise UserError(
            "Give --model_name_or_path to go on from a saved model, or --config_name to begin from "
            "random weights, not both."
        )
    defaults = _DEFAULTS | ({} if "dataset_name" in named else _demo_defaults(argv))
    if not torch.accelerator.is_available():
        defaults |= {"dataloader_pin_memory": "false"}
    flags = [part for name, value in defaults.items() for part in (f"--{name}", value)]
    # argparse lets the last of a repeated flag win, so defaults go first
    parsed, unknown = parser.read([*flags, *argv])
    if unknown:
        raise parser.unknown(unknown[0])
    arguments = TrainImageArguments(*parsed)
    check_numbers(arguments.training)
    if not arguments.report.attack_epsilons:
        arguments.report.attack_epsilons = [_trained_epsilon(arguments.training)]
    if arguments.report.watch_epsilon is None:
        arguments.report.watch_epsilon = max(arguments.report.attack_epsilons)
    if "output_dir" not in named:
        kind = "demo-images" if arguments.demo else "images"
        arguments.training.output_dir = unused_folder(f"runs/{kind}-{arguments.training.adv}")
    return arguments


def _demo_defaults(argv: list[str]) -> dict[str, str]:
    method = all_methods().get(method_name(argv))
    has_ball = method is not None and hasattr(method.preset(), "ball")
    return _DEMO | (_DEMO_BALL if has_ball else {})


def _trained_epsilon(training: AdversarialTrainingArguments) -> float:
    """The radius that is trained on, where it is one in L∞ and in pixels."""
    ball = getattr(training.adversarial_schedule("image").method, "ball", None)
    if isinstance(ball, LInfBall) and training.adv_unit in (None, "absolute"):
        return float(ball.epsilon)
    return 8 / 255
