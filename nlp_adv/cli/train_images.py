"""`nlp-adv train --modality image`: train an image classifier and show what an attack leaves."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, set_seed

from nlp_adv.cli.image_task import ImageTask, Normalised, load_image_task
from nlp_adv.cli.report import REPORT_NAME, table
from nlp_adv.cli.running import (
    alone_in_output,
    announce,
    check_output_folder,
    plain_arguments,
    use_one_gpu,
)
from nlp_adv.cli.train_image_arguments import ImageReportArguments, TrainImageArguments, parse
from nlp_adv.errors import UserError
from nlp_adv.folders import write_whole
from nlp_adv.methods import Method
from nlp_adv.robustness.answers import Answers
from nlp_adv.robustness.images.evaluator import image_evaluator
from nlp_adv.robustness.images.running import clean_look
from nlp_adv.robustness.images.sweep import EpsilonSweep, epsilon_sweep
from nlp_adv.training.arguments import AdversarialTrainingArguments
from nlp_adv.training.callbacks import RobustnessCallback
from nlp_adv.training.curves import training_curves
from nlp_adv.training.metrics import compute_metrics_for
from nlp_adv.training.records import run_description
from nlp_adv.training.trainer import AdversarialTrainer

_BATCH = 256  # images attacked at once


@dataclass
class ImageRun:
    """One trained model and what was measured of it.

    Attributes:
        method: how it was trained.
        description: the same with its numbers.
        model: what was trained.
        seconds: of the training alone; None where it was resumed.
        metrics: scores of all evaluated splits, as the Trainer names them.
        history: the Trainer's log.
        sweep: accuracy under attack.
        answers: on the same images, without attack.
    """

    method: Method
    description: dict[str, Any]
    model: PreTrainedModel
    seconds: float | None
    metrics: dict[str, float]
    history: list[dict[str, float]]
    sweep: EpsilonSweep
    answers: Answers

    @property
    def name(self) -> str:
        """The row's name in the table."""
        return "plain" if self.method.name == "none" else self.method.name


def main(argv: list[str]) -> None:
    """Run the command.

    Raises:
        UserError: anything that the user can mend, before a file is written.
    """
    arguments = parse(argv)
    with alone_in_output(arguments.training):
        _run(arguments)


def _run(arguments: TrainImageArguments) -> None:
    training, report = arguments.training, arguments.report
    check_output_folder(training, overwrite=report.overwrite_output_dir)
    use_one_gpu(training)
    set_seed(training.seed)
    with training.main_process_first():
        task = load_image_task(arguments)
    try:
        training.adversarial_schedule("image")
    except ValueError as error:
        raise UserError(str(error)) from error
    runs = [_train(task, training, arguments)]
    if report.compare_plain and training.adv != "none":
        runs.insert(0, _train(task, plain_arguments(training), arguments))
    if training.process_index == 0:
        _write(arguments, task, runs)
        print(_shown(arguments, task, runs))


def _train(
    task: ImageTask, training: AdversarialTrainingArguments, arguments: TrainImageArguments
) -> ImageRun:
    report = arguments.report
    schedule = training.adversarial_schedule("image")
    set_seed(training.seed)  # the same weights and the same order of batches in every run
    model = task.new_model()
    moved = arguments.data.flip_and_shift
    try:
        trainer = AdversarialTrainer(
            model=model,
            args=training,
            train_dataset=Normalised(task.splits["train"], task.processor, flip_and_shift=moved),
            eval_dataset=Normalised(task.splits["validation"], task.processor),
            processing_class=task.processor,
            compute_metrics=compute_metrics_for(None, task.label_names),
        )
    except ValueError as error:
        raise UserError(" ".join(str(error).split())) from error
    announce(training, schedule.method)
    if report.watch_epsilon:
        held_out = task.splits["validation"].head(report.attack_examples)
        watched = report.attack(report.watch_epsilon)
        evaluator = image_evaluator(list(held_out.batches(_BATCH)), watched, task.pixels)
        trainer.add_callback(RobustnessCallback(trainer, evaluator))
    outcome = trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    trainer.save_model()
    trainer.save_state()
    metrics: dict[str, float] = {}
    # The last evaluation of the training would stand in the log twice.
    history = [dict(line) for line in trainer.state.log_history]
    for name in task.splits.keys() - {"train", "validation"}:
        scores = trainer.evaluate(
            Normalised(task.splits[name], task.processor), metric_key_prefix=name
        )
        trainer.save_metrics(name, scores)
        metrics |= scores
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    sweep, answers = _attacked(task, model, report, schedule.method.name)
    return ImageRun(
        method=schedule.method,
        description=run_description(schedule, False) | {"seed": training.seed},
        model=model,
        seconds=None if training.resume_from_checkpoint else outcome.metrics["train_runtime"],
        metrics=metrics,
        history=history,
        sweep=sweep,
        answers=answers,
    )


def _attacked(
    task: ImageTask, model: PreTrainedModel, report: ImageReportArguments, name: str
) -> tuple[EpsilonSweep, Answers]:
    rows = task.splits[task.reported].head(report.attack_examples)
    radii = sorted(report.attack_epsilons)
    pixels = task.pixels(model)
    sweep = epsilon_sweep(
        report.attack(radii[-1]),
        pixels,
        rows.batches(_BATCH),
        radii,
        progress=f"Attacking {name}",
    )
    looks = [clean_look(pixels, x, y) for x, y in rows.batches(_BATCH)]
    answers = [answer for look in looks for answer in look.logits.argmax(1).tolist()]
    return sweep, Answers.of(answers, [label for look in looks for label in look.y.tolist()])


def _shown(arguments: TrainImageArguments, task: ImageTask, runs: list[ImageRun]) -> str:
    radii = runs[-1].sweep.epsilons
    attack = f"PGD-{arguments.report.attack_steps}"
    under = [f"{attack} ε={_levels(e)}" for e in radii]
    header = ["training", "clean", *under, "largest answer", "seconds"]
    rows = [header]
    for run in runs:
        shares = [run.sweep.share(epsilon).value for epsilon in (0.0, *radii)]
        seconds = "resumed" if run.seconds is None else f"{run.seconds:.1f}"
        mark = " †" if run.answers.constant else ""
        shown = [f"{shares[0]:.4f}", *(f"{share:.4f}{mark}" for share in shares[1:])]
        rows.append([run.name, *shown, f"{run.answers.largest.value:.4f}", seconds])
    lines = [
        f"Accuracy on the first {len(runs[-1].sweep.right)} images of the {task.reported} split, "
        f"and under {attack} on the logit margin in an L∞ ball, ε in pixels of [0, 1].",
    ]
    lines += [
        f"Warning: † {run.name} gives {run.answers.largest.count} of {run.answers.largest.total} "
        f"images the same answer: its training collapsed, or has hardly begun. Its accuracy is "
        f"the share of one class, under attack as well, and no robustness."
        for run in runs
        if run.answers.constant
    ]
    if arguments.demo:
        lines.append(
            "The images are scikit-learn's 8×8 digits; the numbers show the tool at work and no "
            "more."
        )
    lines.append(f"Model, {REPORT_NAME} and curves are in {arguments.training.output_dir}.")
    return "\n" + table(rows) + "\n\n" + "\n".join(lines)


def _levels(epsilon: float) -> str:
    """Whole grey levels as people write them."""
    levels = epsilon * 255
    return f"{levels:.0f}/255" if abs(levels - round(levels)) < 1e-6 else f"{epsilon:g}"


def _write(arguments: TrainImageArguments, task: ImageTask, runs: list[ImageRun]) -> None:
    folder = Path(str(arguments.training.output_dir))
    content = {
        "demo": arguments.demo,
        "split": task.reported,
        "attack": {
            "kind": "PGD on the logit margin, random start",
            "norm": "linf",
            "unit": "pixels in [0, 1]",
            "steps": arguments.report.attack_steps,
        },
        "runs": [
            {
                **run.description,
                "train_seconds": run.seconds,
                "metrics": run.metrics,
                "attacked_images": len(run.sweep.right),
                "accuracy_without_attack": run.sweep.share(0.0).value,
                "largest_answer": run.answers.largest.value,
                "accuracy_under_attack": {
                    str(epsilon): run.sweep.share(epsilon).value for epsilon in run.sweep.epsilons
                },
                "history": run.history,
            }
            for run in runs
        ],
    }
    write_whole(folder / REPORT_NAME, json.dumps(content, indent=2) + "\n")
    try:
        training_curves({run.name: run.history for run in runs}, str(folder / "training.svg"))
    except UserError as error:  # the training is done, and a picture is not worth its loss
        print(f"Note: no curves were drawn. {error}", file=sys.stderr)
