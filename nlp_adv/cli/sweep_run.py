"""The trials of a sweep, run through the Trainer's `hyperparameter_search`."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from transformers import (
    PreTrainedModel,
    PrinterCallback,
    ProgressCallback,
    set_seed,
)
from transformers.utils import logging as hf_logging

from nlp_adv.cli.sweep_records import STUDY_NAME, SweepFolder, TrialRecord
from nlp_adv.cli.sweep_report import mean, trial_line
from nlp_adv.cli.sweep_request import SweepRequest
from nlp_adv.cli.sweep_space import hyperparameters
from nlp_adv.cli.task import Task
from nlp_adv.errors import UserError
from nlp_adv.robustness.answers import one_answer
from nlp_adv.training.records import run_description
from nlp_adv.training.search import BUILT_IN
from nlp_adv.training.trainer import AdversarialTrainer


class SweepRun:
    """One Trainer for all trials.

    Args:
        request: what to search.
        folder: where finished trials are, and are written.
        task: data, tokenizer and model.

    Raises:
        UserError: a set-up that the Trainer refuses.
    """

    def __init__(self, request: SweepRequest, folder: SweepFolder, task: Task) -> None:
        self._request, self._folder, self._task = request, folder, task
        self._args = request.base.training
        self._trial: Any = None
        try:
            self._trainer = AdversarialTrainer(
                model_init=self._model,
                args=self._args,
                **task.for_trainer(),
            )
        except ValueError as error:
            raise UserError(" ".join(str(error).split())) from error
        self._trainer.remove_callback(PrinterCallback)
        self._trainer.remove_callback(ProgressCallback)
        if not self._args.disable_tqdm:
            self._trainer.add_callback(_Bar)

    def search(self) -> None:
        """Run the trials that are not finished, writing each down."""
        arguments, done = self._request.arguments, self._folder.records
        given: dict[str, Any] = {"backend": arguments.search, "n_trials": self._request.drawn}
        if arguments.search in BUILT_IN:
            given["seed"], given["points"] = self._args.seed, arguments.grid_points
            given["finished"] = {record.number: record.objective for record in done}
        else:
            given["n_trials"] = self._request.total - len(done)
            if given["n_trials"] <= 0:
                return
            given |= self._study(len(done))
        self._trainer.hyperparameter_search(
            hp_space=self._space,
            compute_objective=self._objective,
            direction="maximize",
            **given,
        )

    def _study(self, done: int) -> dict[str, Any]:
        """Optuna's study, which it keeps in a file of its own."""
        optuna, journal = import_module("optuna"), import_module("optuna.storages.journal")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        file = journal.JournalFileBackend(str(self._folder.path / STUDY_NAME))
        return {
            "study_name": "sweep",
            "storage": optuna.storages.JournalStorage(file),
            "load_if_exists": True,
            # A sampler made anew must not repeat the draws of the trials that are there.
            "sampler": optuna.samplers.TPESampler(seed=self._args.seed + done),
        }

    def _model(self) -> PreTrainedModel:
        """A fresh one, and then the random state in which `nlp-adv train` begins to train."""
        set_seed(self._args.seed)
        with _quietly():  # what loading says was said before the first trial
            model: PreTrainedModel = self._task.new_model()
        set_seed(self._args.seed)
        return model

    def _space(self, trial: Any) -> dict[str, Any]:
        """The trial's values; its other arguments follow them as those of `nlp-adv train` do."""
        self._trial = trial
        values = self._request.values(trial)
        arguments = self._request.of_trial(values).training
        for name in hyperparameters():
            setattr(self._args, name, getattr(arguments, name))
        return {name: getattr(arguments, name) for name in values}

    def _objective(self, metrics: dict[str, float]) -> float:
        """Attack the trained model, and write the trial down."""
        trainer, report, share = self._trainer, self._request.base.report, self._request.share
        clean, robust, same_rows = metrics["eval_accuracy"], {}, None
        labels = self._task.labels("validation")
        largest = Counter(labels).most_common(1)[0][1] / len(labels)
        constant = one_answer(metrics["eval_largest_answer"], largest)
        objective = clean
        if report.attack_epsilons:
            # Mixed precision wraps the model's forward; attacks look at it in its own precision.
            model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
            progress = None if self._args.disable_tqdm else "Attacking"
            measured = self._task.measure(
                model, "validation", report, self._args, progress=progress
            )
            robust = {str(e): measured.under[e] for e in sorted(measured.under)}
            objective = share * clean + (1 - share) * mean(list(robust.values()))
            constant |= measured.constant
            same_rows = measured.clean
        times = [
            log["train_runtime"] for log in trainer.state.log_history if "train_runtime" in log
        ]
        schedule = self._args.adversarial_schedule(self._task.modality)
        record = TrialRecord(
            number=self._trial.number,
            params=dict(self._trial.params),
            clean=clean,
            robust=robust,
            objective=objective,
            loss=metrics["eval_loss"],
            constant=constant,
            seconds=times[-1],
            seed=self._args.seed,
            method=run_description(
                schedule, self._args.adv_exclude_special_tokens, self._args.adv_site
            ),
            clean_attacked=same_rows,
        )
        self._folder.add(record)
        done = len(self._folder.records)
        print(f"[{done}/{self._request.total}] {trial_line(record)}", file=sys.stderr)
        return objective


@contextmanager
def _quietly() -> Iterator[None]:
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
