"""`nlp-adv train`: fine-tune a model of texts or images and show what an attack leaves."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import set_seed

from nlp_adv.cli.arguments import TrainArguments, parse
from nlp_adv.cli.report import RunResult, print_report, write_report
from nlp_adv.cli.running import (
    alone_in_output,
    announce,
    check_output_folder,
    plain_arguments,
    use_one_gpu,
)
from nlp_adv.cli.task import Task, load_task
from nlp_adv.errors import UserError
from nlp_adv.folders import write_whole
from nlp_adv.training.arguments import AdversarialTrainingArguments
from nlp_adv.training.beginning import check_logs, unknown_metric
from nlp_adv.training.callbacks import RobustnessCallback
from nlp_adv.training.inputs import site_text
from nlp_adv.training.on_the_way import KeptOnTheWay
from nlp_adv.training.records import run_description
from nlp_adv.training.refusals import check_model
from nlp_adv.training.trainer import AdversarialTrainer


def main(argv: list[str]) -> None:
    """Run the command.

    Raises:
        UserError: anything that the user can mend, before a file is written.
    """
    arguments = parse(argv)
    with alone_in_output(arguments.training):
        _run(arguments)


def _run(arguments: TrainArguments) -> None:
    training, report = arguments.training, arguments.report
    check_output_folder(training, overwrite=report.overwrite_output_dir)
    use_one_gpu(training)
    set_seed(training.seed)
    with training.main_process_first():
        task = load_task(arguments)
    check_before_training(arguments, task)
    runs = [_one_run(task, arguments)]
    if report.compare_plain and arguments.attacks != "none" and arguments.trains:
        plain = arguments._replace(training=plain_arguments(training), words=None)
        runs.insert(0, _one_run(task, plain))
    for one in runs if task.attacks_after(report) else ():
        attacking = f"Attacking {one.name}"
        one.measured = task.measure(
            one.model, str(task.reported), report, training, progress=attacking
        )
    if training.process_index == 0:
        write_report(runs, arguments, task)
        print_report(runs, arguments, task)


def check_before_training(arguments: TrainArguments, task: Task) -> None:
    """Refuse what would end the run after its training, or in it.

    Raises:
        UserError: with the way out.
    """
    training, report = arguments.training, arguments.report
    task.check_attack(arguments)
    if training.eval_strategy != "no" and "validation" not in task.splits:
        raise UserError("--eval_strategy needs a validation split (--validation_file).")
    if training.do_predict and not task.predicted:
        raise UserError("--do_predict needs a test split; it may be without labels.")
    best = (training.metric_for_best_model or "loss").removeprefix("eval_")
    names = task.metric_names(report)
    if best not in ("loss", *names):
        listed = ", ".join(names)
        raise UserError(f"There is no metric {best!r}; --metric_for_best_model can be {listed}.")
    if arguments.trains:
        words = task.attacked_texts(arguments)
        if words is not None and training.max_steps <= 0:
            words.check_epochs(training.num_train_epochs)
        check_length(task.rows_of_an_epoch(arguments), task, training)
        check_beginning(names, task, training)


def check_length(rows: int, task: Task, training: AdversarialTrainingArguments) -> None:
    """Whether there are batches and steps, and the attack begins before they end.

    Args:
        rows: of an epoch.
        task, training: of the run.

    Raises:
        UserError: not so.
    """
    try:
        training.adversarial_schedule(task.modality).over(*steps_of(rows, training))
    except ValueError as error:
        raise UserError(str(error)) from error


def steps_of(rows: int, training: AdversarialTrainingArguments) -> tuple[int, int]:
    """The optimizer steps of a run, and of one epoch of so many rows."""
    rows_a_batch = int(training.train_batch_size) * training.world_size
    batches = math.ceil(rows / rows_a_batch)
    epoch = math.ceil(batches / training.gradient_accumulation_steps)
    if training.max_steps > 0:
        return training.max_steps, epoch
    return math.ceil(epoch * training.num_train_epochs), epoch


def check_beginning(
    metrics: Sequence[str], task: Task, training: AdversarialTrainingArguments
) -> None:
    """Whether the run logs what the attack waits for.

    Raises:
        UserError: not so.
    """
    schedule = training.adversarial_schedule(task.modality)
    check_logs(schedule, training)
    measured = ["loss", *metrics, *(["largest_answer"] if task.label_names is not None else [])]
    names = ["loss", "grad_norm", "learning_rate", *(f"eval_{name}" for name in measured)]
    if schedule.waits_for is not None and schedule.waits_for.metric not in names:
        raise UserError(unknown_metric(schedule.waits_for, names))


def _one_run(task: Task, arguments: TrainArguments) -> RunResult:
    """Train, unless that is not asked for, score the splits, and write what is asked for."""
    training, report = arguments.training, arguments.report
    schedule = training.adversarial_schedule(task.modality)
    set_seed(training.seed)  # the same head and the same order of batches in every run
    model = task.new_model()
    task.check_fits(model, arguments)
    check_model(schedule.method, model)
    given = task.for_trainer()
    words = task.attacked_texts(arguments) if arguments.trains else None
    if words is not None:
        given["train_dataset"] = words
    try:
        trainer = AdversarialTrainer(model=model, args=training, **given)
    except ValueError as error:
        raise UserError(" ".join(str(error).split())) from error
    if words is not None:
        words.attack_with(trainer)
    if report.watch_epsilon and arguments.trains:
        evaluator = task.evaluator(report, training)
        trainer.add_callback(RobustnessCallback(trainer, evaluator))
    if report.keep_at and arguments.trains:
        trainer.add_callback(KeptOnTheWay(trainer, report.keep_at))
    seconds = None
    if arguments.trains:
        announce(training, schedule.method, "" if words is None else f", and {words}")
        if training.process_index == 0:
            radius = task.radius_in_words(schedule.method, model, training)
            print(radius or "", end="\n" * bool(radius), file=sys.stderr)
        outcome = trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
        seconds = None if training.resume_from_checkpoint else outcome.metrics["train_runtime"]
        trainer.save_model()
        trainer.save_state()
    history = [dict(line) for line in trainer.state.log_history]
    metrics: dict[str, float] = {}
    for name in task.evaluated if arguments.scores else ():
        scores = trainer.evaluate(task.splits[name], metric_key_prefix=name)
        scores |= task.after_scoring(scores, name)
        trainer.save_metrics(name, scores)
        metrics |= scores
    for name, rows in task.predicted.items():
        _write_predictions(trainer, name, rows, task)
    if arguments.trains:
        trainer.create_model_card(tasks=task.hub_task)
    # Mixed precision wraps the model's forward; attacks look at it in its own precision.
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    description: dict[str, Any] = {"model": arguments.model.model_name_or_path}
    if arguments.trains:
        excluded = training.adv_exclude_special_tokens
        site = site_text(training, schedule.method, model)
        description = run_description(schedule, excluded, site, words, training.adv_span)
        if "begun_at" in description:
            description["begun_at"] = trainer.attack_schedule.begun_at
    return RunResult(
        name=_name(arguments),
        description=description,
        seed=training.seed,
        model=model,
        trained=arguments.trains,
        seconds=seconds,
        split=task.reported,
        metrics=metrics,
        labels=[] if task.reported is None else task.labels(task.reported),
        history=history,
        warnings=[] if words is None else words.warnings,
    )


def _name(arguments: TrainArguments) -> str:
    """The row's name in the table."""
    if not arguments.trains:
        return Path(arguments.model.model_name_or_path).name
    return "plain" if arguments.attacks == "none" else arguments.attacks


def _write_predictions(trainer: AdversarialTrainer, name: str, rows: Any, task: Task) -> None:
    """`predict_results_NAME.txt`, as run_glue writes it: a row's number, and what was said."""
    found = trainer.predict(rows, metric_key_prefix="predict").predictions
    if not trainer.is_world_process_zero():
        return
    said = task.in_words(found, rows)
    lines = ["index\tprediction", *(f"{number}\t{one}" for number, one in enumerate(said))]
    path = Path(str(trainer.args.output_dir)) / f"predict_results_{name}.txt"
    write_whole(path, "\n".join(lines) + "\n")
