"""The flags of `nlp-adv train` on images, beside those of every kind of data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from nlp_adv.attacks import PGD, Ladder, ladder
from nlp_adv.cli.arguments import (
    LimitArguments,
    ModelArguments,
    ReportArguments,
    check_counts,
    flag,
)
from nlp_adv.errors import UserError
from nlp_adv.perturbation import LInfBall

if TYPE_CHECKING:
    pass


@dataclass
class ImageModelArguments(ModelArguments):
    """Which classifier; without a model a small ResNet is trained from random weights.

    Raises:
        UserError: two models.
    """

    config_name: str | None = flag(
        "Train a model of this configuration (a folder, a .json file or a name on the Hub) from "
        "random weights."
    )
    pixel_mean: list[float] = field(
        default_factory=lambda: [0.5],
        metadata={"help": "A model from random weights subtracts this mean of each channel first."},
    )
    pixel_std: list[float] = field(
        default_factory=lambda: [0.5],
        metadata={"help": "It divides by this standard deviation of each channel next."},
    )
    ignore_mismatched_sizes: bool = flag(
        "Let a head for other labels than the data's begin anew.", True
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
        "Train on these images: a folder of IDX files, a folder with one sub-folder of pictures a "
        "class, a saved data set, or a name on the Hub; without the flag on scikit-learn's digits."
    )
    dataset_config_name: str | None = flag("Take this configuration of a data set on the Hub.")
    validation_examples: int = flag(
        "Hold out so many training images where there is no validation split.", 1000
    )
    flip_and_shift: bool = flag(
        "Mirror training images at random and move them by up to an eighth of their size.", False
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
            "help": "Measure accuracy under L∞ PGD at these radii in pixels, such as 8/255; "
            "--adv_epsilon, or 8/255, without."
        },
    )
    attack_examples: int = flag("Attack the first so many images.", 1000)
    watch_epsilon: float | None = flag(
        "Measure accuracy under attack at this radius at every evaluation; without the flag at the "
        "largest of --attack_epsilons; 0 for none."
    )

    zero_is_unwatched: ClassVar[bool] = True

    def attack(self, epsilons: Sequence[float]) -> Ladder:
        """PGD on the margin in L∞ balls: K steps of 2.5·ε/K from a random start."""
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
        return ladder(attacks[-1], epsilons)
