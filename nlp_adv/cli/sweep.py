"""`nlp-adv sweep`: search adversarial and training hyperparameters together.

    objective = share·clean + (1 − share)·robust, on the validation split

clean is the accuracy on the whole split, robust the accuracy under PGD on the embeddings of its
first rows, averaged over the radii.
"""

import os

from transformers import set_seed

from nlp_adv.cli.settings import flags_of
from nlp_adv.cli.sweep_records import SweepFolder
from nlp_adv.cli.sweep_report import report_sweep
from nlp_adv.cli.sweep_request import SweepRequest
from nlp_adv.cli.sweep_run import SweepRun
from nlp_adv.cli.task import Task, load_task
from nlp_adv.cli.train import check_length
from nlp_adv.errors import UserError
from nlp_adv.folders import alone_in


def main(argv: list[str]) -> None:
    """Run the command.

    Raises:
        UserError: anything that the user can mend, before a file is written.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("A sweep runs in one process: start it without a launcher.")
    request = SweepRequest(flags_of(argv))
    with alone_in(request.output_dir):
        _run(request)


def _run(request: SweepRequest) -> None:
    folder = SweepFolder(request.output_dir)
    folder.check(request.settings, overwrite=request.base.report.overwrite_output_dir)
    set_seed(request.base.training.seed)
    task = load_task(request.base)
    _check_before_training(request, task)
    run = SweepRun(request, folder, task)
    folder.open(request.settings)
    run.search()
    best = request.flags_of_best(folder.best.params)
    report_sweep(folder, request.space, request.formula, best)


def _check_before_training(request: SweepRequest, task: Task) -> None:
    if "validation" not in task.splits:
        raise UserError("A sweep compares trials on a validation split: give --validation_file.")
    if task.label_names is None:
        raise UserError("A sweep compares accuracies; regression has none.")
    for arguments in request.trials:
        check_length(task, arguments.training)
    task.check_fits(task.new_model(), request.base)
