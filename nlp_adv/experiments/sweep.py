"""A trial of a sweep: a model trained with its values, scored without and under attack.

    objective = share·clean + (1 − share)·robust, on the validation split

clean is the accuracy on the whole split, robust the accuracy under PGD on its first rows, averaged
over the radii.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel, PrinterCallback, ProgressCallback
from transformers.utils import logging as hf_logging

from nlp_adv.attacks import Measured
from nlp_adv.errors import UserError
from nlp_adv.robustness.answers import one_answer
from nlp_adv.training.inputs import modality_of
from nlp_adv.training.records import run_description
from nlp_adv.training.trainer import AdversarialTrainer

if TYPE_CHECKING:  # Optuna is an extra
    from optuna.trial import FrozenTrial, Trial

    from nlp_adv.experiments.study import StudyFolder


@dataclass(frozen=True)
class Scores:
    """What is measured of a trial; the study keeps it as the trial's user attributes.

    Args:
        clean: accuracy on the whole validation split.
        robust: accuracy under attack on its first rows, by radius.
        clean_attacked: accuracy on the attacked rows, without attack; None where none was attacked.
        loss: on the validation split, without attack.
        constant: whether the rows got one answer, or nearly: the attacked ones, or where none was
            attacked the whole split; their labels have more.
        seconds: wall-clock time of the training alone.
        seed: of the training.
        method: how it was trained, with its numbers.
    """

    clean: float
    robust: dict[str, float]
    clean_attacked: float | None
    loss: float
    constant: bool | None
    seconds: float
    seed: int
    method: dict[str, Any]

    def keep(self, trial: Trial) -> None:
        """Write them down with the trial."""
        for name, value in asdict(self).items():
            trial.set_user_attr(name, value)

    def __str__(self) -> str:
        robust = (f"PGD ε={float(e):g} {value:.4f}" for e, value in self.robust.items())
        return ", ".join([f"clean {self.clean:.4f}", *robust])

    @classmethod
    def of(cls, trial: FrozenTrial) -> Scores:
        """Those of a finished trial."""
        return cls(**{name: trial.user_attrs[name] for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class Objective:
    """What a sweep maximises.

    Args:
        share: of the clean accuracy, in [0, 1].
        attack: what the robust accuracy is measured with, in words; empty for the clean accuracy
            alone.
        radii: of the attack, in words.
        examples: how many rows are attacked at most.
    """

    share: float
    attack: str
    radii: str
    examples: int

    def value(self, scores: Scores) -> float:
        """What a trial is worth."""
        if not scores.robust:
            return scores.clean
        return self.share * scores.clean + (1 - self.share) * fmean(scores.robust.values())

    def __str__(self) -> str:
        if not self.attack or self.share == 1:
            return "accuracy on the validation split"
        return (
            f"{self.share:g}·clean + {1 - self.share:g}·robust, clean the accuracy on the "
            f"validation split and robust the accuracy on its first rows (at most {self.examples}) "
            f"under {self.attack}, averaged over the {self.radii}"
        )


def run_trials(
    folder: StudyFolder,
    total: int,
    values: Callable[[Trial], dict[str, Any]],
    objective: Objective,
    scores: Callable[[dict[str, Any], Path], Scores],
) -> None:
    """Run the trials that are left, a line on stderr for each.

    Args:
        folder: an open study.
        total: how many trials there are.
        values: asks a trial for its values.
        objective: what a trial is worth.
        scores: trains with some values and measures, given a folder for what it writes.

    Raises:
        UserError: all trials failed.
    """

    def run(trial: Trial, place: Path) -> float:
        params = values(trial)
        shown = " ".join(f"{name}={short(value)}" for name, value in params.items())
        shown = f"[{total - folder.unfinished(total) + 1}/{total}] {shown}"
        try:
            found = scores(params, place)
        except UserError as error:
            print(f"{shown}: failed: {error}", file=sys.stderr)
            raise
        found.keep(trial)
        value = objective.value(found)
        said = f"{found}, objective {value:.4f}, {found.seconds:.1f} s"
        print(f"{shown}: {said}", file=sys.stderr)
        return value

    folder.work(total, run)
    if not folder.ranked and not folder.unfinished(total):
        raise UserError(f"All trials failed: {folder.trials()[0].user_attrs['failed']}")


def scored(
    trainer: AdversarialTrainer,
    labels: Sequence[Any],
    attack: Callable[[PreTrainedModel], Measured] | None,
) -> Scores:
    """Train, evaluate and attack.

    Args:
        trainer: with the validation split as its `eval_dataset`, and metrics that hold `accuracy`
            and, of classes, `largest_answer`.
        labels: of the validation split.
        attack: of the trained model; none if None.
    """
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    args: Any = trainer.args
    if not args.disable_tqdm:
        trainer.add_callback(_Bar)
    outcome = trainer.train()
    metrics = trainer.evaluate()
    largest = Counter(labels).most_common(1)[0][1] / len(labels)
    constant, robust, same_rows = False, {}, None
    if "eval_largest_answer" in metrics:  # yes-or-no labels have none
        constant = one_answer(metrics["eval_largest_answer"], largest)
    if attack is not None:
        # Mixed precision wraps the model's forward; attacks look at it in its own precision.
        found = attack(trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False))
        radii = [radius for radius in found.radii if radius is not None]
        robust = {str(epsilon): found.accuracy(epsilon) for epsilon in radii}
        constant |= found.is_constant
        same_rows = found.clean_accuracy
    schedule = args.adversarial_schedule(modality_of(trainer.model))
    trainer.accelerator.free_memory()
    return Scores(
        clean=metrics["eval_accuracy"],
        robust=robust,
        clean_attacked=same_rows,
        loss=metrics["eval_loss"],
        constant=constant,
        seconds=outcome.metrics["train_runtime"],
        seed=args.seed,
        method=run_description(schedule, args.adv_exclude_special_tokens),
    )


def short(value: Any) -> str:
    """A value with three digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


@contextmanager
def quietly() -> Iterator[None]:
    """Without what loading says, which was said before the first trial."""
    logging: Any = hf_logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


class _Bar(ProgressCallback):
    """The Trainer's bar without its logs: a trial is one line."""

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        """Nothing."""
