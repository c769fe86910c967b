"""The flags that the commands share, whatever a model takes in, and the reading of `train`'s."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from nlp_adv.cli.flags import flag_names, values_of
from nlp_adv.cli.modality import modality
from nlp_adv.cli.numbers import check_numbers
from nlp_adv.cli.parser import FlagParser
from nlp_adv.cli.settings import flags_of
from nlp_adv.errors import UserError

if TYPE_CHECKING:
    from nlp_adv.cli.task import Task
    from nlp_adv.training.arguments import AdversarialTrainingArguments


def flag(text: str, default: Any = None) -> Any:
    """A field of a dataclass of flags."""
    return field(default=default, metadata={"help": text})


@dataclass
class ModelArguments:
    """Which model."""

    modality: str | None = flag(
        "What the model takes in: text or image. It is found from its configuration, or else from "
        "the data; without both it is text. chat is a language model that answers prompts."
    )
    model_name_or_path: str | None = flag(
        "Start from this model: a folder with a saved one, or a name on the Hub."
    )
    cache_dir: str | None = flag("Keep downloads from the Hub in this folder.")
    model_revision: str = flag("Take this branch, tag or commit of the model from the Hub.", "main")
    token: str | None = flag(
        "Show the Hub this token, for what is not public; without it, that of `hf auth login`. It "
        "is written down nowhere."
    )
    trust_remote_code: bool = flag(
        "Run the code that a model, a tokenizer or an image processor brings along. Read it first.",
        False,
    )

    def hub(self, name: str) -> dict[str, Any]:
        """How `from_pretrained` finds something: the revision is the model's alone."""
        own = self.model_name_or_path in (None, "", name)
        return {
            "cache_dir": self.cache_dir,
            "revision": self.model_revision if own else "main",
            "token": self.token,
            "trust_remote_code": self.trust_remote_code,
        }


@dataclass
class LimitArguments:
    """How much of the data.

    Raises:
        UserError: less than one example.
    """

    max_train_samples: int | None = flag("Train on a random draw of so many examples.")
    max_eval_samples: int | None = flag("Evaluate on the first so many examples of each split.")

    def __post_init__(self) -> None:
        check_counts(self, "max_train_samples", "max_eval_samples")


@dataclass
class ReportArguments:
    """What is measured, and where it may be written.

    Raises:
        UserError: a setting of the attack that is out of range.
    """

    attack_epsilons: list[float] = field(
        default_factory=list, metadata={"help": "Measure accuracy under PGD at these radii."}
    )
    attack_steps: int = flag("Give that attack so many steps.", 20)
    attack_examples: int = flag("Attack the first so many examples of the evaluation split.", 500)
    watch_epsilon: float | None = flag(
        "Measure accuracy under that attack at this radius at every evaluation; "
        "--metric_for_best_model robust_accuracy then keeps the most robust checkpoint."
    )
    compare_plain: bool = flag(
        "Train without attack from the same initialisation as well, for the table.", False
    )
    keep_at: list[float] = field(
        default_factory=list,
        metadata={
            "help": "Keep the model as it is after these shares of the training too, such as 0.25 "
            "0.5, in OUTPUT_DIR/at-SHARE: less trained models, to compare others with at equal "
            "clean accuracy."
        },
    )
    overwrite_output_dir: bool = flag("Write over another run in --output_dir.", False)

    zero_is_unwatched: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_counts(self, "attack_examples", "attack_steps")
        watched = [] if self.watch_epsilon is None else [self.watch_epsilon]
        if self.zero_is_unwatched and watched == [0]:
            watched = []
        if wrong := [share for share in self.keep_at if not 0 < share < 1]:
            raise UserError(f"--keep_at takes shares between 0 and 1, not {wrong[0]:g}.")
        check_radii("attack_epsilons", self.attack_epsilons)
        check_radii("watch_epsilon", watched)
        try:
            self.attack([*self.attack_epsilons, *watched] or [1.0])  # the steps, without radii too
        except UserError:
            raise
        except ValueError as error:
            flags = "--attack_epsilons, --watch_epsilon, --attack_steps"
            raise UserError(f"{flags}: {error}") from error

    def attack(self, epsilons: Sequence[float]) -> Any:
        """The attack of the table at these radii."""
        raise NotImplementedError


class TrainArguments(NamedTuple):
    """All flags of `nlp-adv train`.

    Attributes:
        model, data, report, training: the flags, in the classes of the task.
        kind: text or images.
        demo: no data were named.
        trains: not with `--do_train false`.
        scores: the splits, not with `--do_eval false`.
        words: flags of attacks on words while training; None where there are none.
    """

    model: Any
    data: Any
    report: Any
    training: AdversarialTrainingArguments
    kind: type[Task]
    demo: bool
    trains: bool = True
    scores: bool = True
    words: Any = None

    @property
    def attacks(self) -> str:
        """What the run is called: its method, its attack on words, or both."""
        words = "none" if self.words is None else self.words.adv_words
        names = [name for name in (self.training.adv, words) if name != "none"]
        return "+".join(names) or "none"


def parse(
    argv: list[str],
    *,
    command: str = "train",
    more: tuple[type, ...] = (),
    demo: Sequence[str] = (),
) -> TrainArguments:
    """Flags, or a file of them, as dataclasses.

    Args:
        argv: the command line after the command.
        command: its name, for the help.
        more: dataclasses of further flags, which are taken here and read elsewhere.
        demo: flags that the command's demo has beside those of the task's.

    Raises:
        UserError: a value that TrainingArguments or a method refuses, or half of model and data.
    """
    import torch

    from nlp_adv.cli.task import task_of
    from nlp_adv.training.arguments import AdversarialTrainingArguments

    kind = task_of(modality(argv), values_of(argv, ["task"])["task"])
    own = kind.of_training if command == "train" else ()
    if command != "train" and kind.about == "chat":
        raise UserError(f"nlp-adv {command} is for texts and images, not for --modality chat.")
    parser = FlagParser(
        (*more, *kind.arguments, *own, AdversarialTrainingArguments),
        presets=kind.modality,
        prog=f"nlp-adv {command}",
        usage=f"nlp-adv {command} [flags]",
        epilog=f"These are the flags for {kind.about}; --modality {kind.other} --help lists "
        f"those for {kind.other}.",
    )
    argv = flags_of(argv)
    named = flag_names(argv)
    is_demo = kind.is_demo(named)
    adv = values_of(argv, ["adv"])["adv"] or (kind.demo_method if is_demo else "none")
    defaults = kind.defaults(adv, demo=is_demo)
    if not torch.accelerator.is_available():
        defaults = {"dataloader_pin_memory": "false"} | defaults
    flags = [part for name, value in defaults.items() for part in (f"--{name}", *value.split())]
    # argparse lets the last of a repeated flag win, so defaults go first.
    parsed = parser.read_all([*flags, *(demo if is_demo else ()), *argv])
    model, data, report, *first, training = parsed[len(more) :]
    words = first[0] if first else None
    check_numbers(training)
    trains = training.do_train or "do_train" not in named
    if not trains and model.model_name_or_path is None:
        raise UserError("--do_train false needs a trained model: name it, --model_name_or_path.")
    if "output_dir" not in named:
        name = TrainArguments(model, data, report, training, kind, is_demo, words=words).attacks
        training.output_dir = unused_folder(f"runs/{kind.folder(demo=is_demo)}-{name}")
    scores = training.do_eval or "do_eval" not in named
    arguments = TrainArguments(model, data, report, training, kind, is_demo, trains, scores, words)
    kind.complete(arguments)
    return arguments


def check_counts(arguments: Any, *names: str) -> None:
    """Refuse numbers of things that are less than one.

    Raises:
        UserError: one is.
    """
    for name in names:
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} is {value}; give at least 1.")


def check_radii(flag: str, epsilons: Sequence[float]) -> None:
    """Refuse radii that are none.

    Raises:
        UserError: one is not finite and above 0, or two are written alike.
    """
    for epsilon in epsilons:
        if not 0 < epsilon < math.inf:
            raise UserError(
                f"--{flag} is {epsilon:g}: a radius is a finite number above 0; accuracy without "
                f"attack is measured anyway."
            )
    named = [f"{epsilon:g}" for epsilon in epsilons]
    if len(set(named)) < len(named):
        raise UserError(f"--{flag} names a radius twice: {', '.join(named)}.")


def unused_folder(stem: str) -> str:
    """`stem`, or with the first number after it that gives a folder that is not there.

    Raises:
        UserError: several processes would each choose one.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("Several processes must share one folder: name it with --output_dir.")
    number, folder = 1, stem
    while Path(folder).exists():
        number, folder = number + 1, f"{stem}-{number + 1}"
    return folder
