"""`nlp-adv sweep`: search adversarial and training hyperparameters together."""

import os
from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedModel, set_seed

from nlp_adv.attacks import Measured
from nlp_adv.cli.arguments import TrainArguments
from nlp_adv.cli.settings import flags_of
from nlp_adv.cli.sweep_request import SweepRequest
from nlp_adv.cli.tables import table
from nlp_adv.cli.task import Task, load_task
from nlp_adv.cli.train import check_length
from nlp_adv.errors import UserError
from nlp_adv.experiments.space import hp_space
from nlp_adv.experiments.sweep import Scores, quietly, run_trials, scored
from nlp_adv.experiments.sweep_report import BEST_NAME, PLOT_NAME, TABLE_NAME, SweepReport
from nlp_adv.training.trainer import AdversarialTrainer


def main(argv: list[str]) -> None:
    """Run the command.

    Raises:
        UserError: anything that the user can mend, before a file is written; or all trials failed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            "A trial runs in one process: start it without a launcher; for several trials at once, "
            "run the same command several times."
        )
    request = SweepRequest(flags_of(argv))
    from nlp_adv.experiments.study import StudyFolder

    folder, seed = StudyFolder(request.output_dir), request.base.training.seed
    overwrite = request.report.overwrite_output_dir
    folder.check(request.settings, overwrite=overwrite)
    set_seed(seed)
    task = load_task(request.base)
    _check_before_training(request, task)

    def scores(params: dict[str, Any], place: Path) -> Scores:
        arguments = request.of_trial(params, place)
        training = arguments.training
        with quietly():
            trainer = _trainer(arguments, task)
        progress = None if training.disable_tqdm else "Attacking"

        def attacked(model: PreTrainedModel) -> Measured:
            found = task.measure(model, "validation", request.report, training, progress=progress)
            return cast(Measured, found)

        attack = attacked if request.report.attack_epsilons else None
        return scored(trainer, task.labels("validation"), attack)

    folder.open(request.settings, request.plan, seed=seed, overwrite=overwrite)
    run_trials(folder, request.total, hp_space(request.space), request.objective, scores)
    elsewhere = folder.unfinished(request.total)
    if elsewhere:
        print(f"Trials that other processes are at: {elsewhere}. The last to end reports on all.")
    if not folder.ranked:
        return
    with folder.alone():  # another process may be at its end as well
        best = folder.ranked[0].params
        _show(SweepReport(folder, request.space, str(request.objective), request.of_best(best)))


def _show(report: SweepReport) -> None:
    report.write()
    place = report.folder.path
    print(f"\n{table(report.trials)}\n")
    print("Rank correlation (Spearman) over the trials, and importance (fANOVA):")
    print(f"{table(report.mattered)}\n")
    print("\n".join(report.notes))
    print(f"Written to {place}: {TABLE_NAME}, {PLOT_NAME}.")
    print(
        f"Train the best trial with\n\n  {report.command}\n\nor nlp-adv train {place / BEST_NAME}"
    )


def _check_before_training(request: SweepRequest, task: Task) -> None:
    if "validation" not in task.splits:
        raise UserError("A sweep compares trials on a validation split: give --validation_file.")
    if task.label_names is None:
        raise UserError("A sweep compares classifiers by their accuracy; name data with classes.")
    for arguments in request.checked:
        check_length(len(task.splits["train"]), task, arguments.training)
    task.check_fits(task.new_model(), request.base)
    with quietly():  # what loading says was said just now
        _trainer(request.base, task)  # last, since it makes the folder


def _trainer(arguments: TrainArguments, task: Task) -> AdversarialTrainer:
    """The Trainer of `nlp-adv train`, from the same random state."""
    training = arguments.training
    set_seed(training.seed)
    try:
        return AdversarialTrainer(model=task.new_model(), args=training, **task.for_trainer())
    except ValueError as error:
        raise UserError(" ".join(str(error).split())) from error
