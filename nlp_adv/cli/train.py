"""`nlp-adv train`: fine-tune a sentence or sentence-pair model and show what an attack leaves."""

import math
import sys
from collections.abc import Callable
from importlib import import_module

from transformers import (
    DataCollatorWithPadding,
    EvalPrediction,
    set_seed,
)

from nlp_adv.cli.arguments import ReportArguments, TrainArguments, parse
from nlp_adv.cli.modality import modality
from nlp_adv.cli.radius import radius_in_words
from nlp_adv.cli.report import RunResult, attack_batches, measure, print_report, write_report
from nlp_adv.cli.running import (
    alone_in_output,
    announce,
    check_output_folder,
    plain_arguments,
    use_one_gpu,
)
from nlp_adv.cli.task import Task, load_task
from nlp_adv.errors import UserError
from nlp_adv.methods import all_methods
from nlp_adv.robustness.evaluator import embedding_evaluator
from nlp_adv.sites.embeddings import find_embedding
from nlp_adv.training.arguments import AdversarialTrainingArguments
from nlp_adv.training.callbacks import RobustnessCallback
from nlp_adv.training.metrics import compute_metrics_for, metric_names, with_largest_answer
from nlp_adv.training.records import run_description
from nlp_adv.training.trainer import AdversarialTrainer

_DEMO_RUN = {
    "num_train_epochs": "4",
    "per_device_train_batch_size": "32",
    "per_device_eval_batch_size": "64",
    "learning_rate": "1.5e-3",
    "weight_decay": "0.01",
    "warmup_steps": "0.1",
    "logging_steps": "94",
    "save_strategy": "no",
    "attack_epsilons": "0.06",
    "compare_plain": "true",
}
# The demo trains from random weights, where an attack from the first step leaves a model that
# answers one class: two fifths of the run are ordinary, and ε then grows over three tenths.
_DEMO_START = {"adv_start_step": "0.4"}
_DEMO_BALL = {"adv_epsilon": "0.1", "adv_ramp_steps": "0.3"}


def demo_flags(adv: str) -> list[str]:
    """The demo's defaults, found by measurement; the flags that the user gives win over them."""
    settings = _DEMO_RUN | (_DEMO_START if adv != "none" else {})
    method = all_methods().get(adv)
    if method is not None and hasattr(method.preset(), "ball"):
        settings |= _DEMO_BALL
    return [part for name, value in settings.items() for part in (f"--{name}", value)]


def main(argv: list[str]) -> None:
    """Run the command.

    Raises:
        UserError: anything that the user can mend, before a file is written.
    """
    if modality(argv) == "image":
        import_module("nlp_adv.cli.train_images").main(argv)
        return
    arguments = parse(argv, demo_flags)
    with alone_in_output(arguments.training):
        _run(arguments)


def _run(arguments: TrainArguments) -> None:
    training = arguments.training
    check_output_folder(training, overwrite=arguments.report.overwrite_output_dir)
    use_one_gpu(training)
    set_seed(training.seed)
    with training.main_process_first():
        task = load_task(arguments)
    check_before_training(arguments, task)
    attacked = bool(arguments.report.attack_epsilons)
    results = [_train(task, training, arguments.report)]
    if arguments.report.compare_plain and training.adv != "none":
        results.insert(0, _train(task, plain_arguments(training), arguments.report))
    if attacked:
        for one in results:
            rows = task.attacked(arguments.report.attack_examples)
            attack = arguments.report.attack()
            measure(one, rows, attack, embedding=training.adv_embedding)
    if training.process_index == 0:
        write_report(training.output_dir, results, arguments.report, demo=arguments.demo)
        print_report(results, arguments.report, demo=arguments.demo)


def check_before_training(arguments: TrainArguments, task: Task) -> None:
    """Refuse what would end the run after its training, or in it.

    Raises:
        UserError: with the way out.
    """
    training = arguments.training
    if task.reported is None and (
        training.eval_strategy != "no" or arguments.report.attack_epsilons
    ):
        raise UserError(
            "There is nothing to evaluate on: give a validation or test split, or leave out "
            "--eval_strategy and --attack_epsilons."
        )
    if training.eval_strategy != "no" and "validation" not in task.splits:
        raise UserError("--eval_strategy needs a validation split (--validation_file).")
    if task.data.label_names is None and arguments.report.attack_epsilons:
        raise UserError("--attack_epsilons measures accuracy; regression has none.")
    watched = arguments.report.watch_epsilon is not None
    if watched and (training.eval_strategy == "no" or task.data.label_names is None):
        raise UserError(
            "--watch_epsilon measures accuracy under attack at every evaluation: it needs classes, "
            "and --eval_strategy epoch or steps."
        )
    best = (training.metric_for_best_model or "loss").removeprefix("eval_")
    names = metric_names(task.task_name, task.data.label_names) + ["robust_accuracy"] * watched
    if best not in ("loss", *names):
        listed = ", ".join(names)
        raise UserError(f"There is no metric {best!r}; --metric_for_best_model can be {listed}.")
    check_length(task, training)


def check_length(task: Task, training: AdversarialTrainingArguments) -> None:
    """Whether there are batches and steps, and the attack begins before they end.

    Raises:
        UserError: not so.
    """
    try:
        training.adversarial_schedule().over(_steps(task, training))
    except ValueError as error:
        raise UserError(str(error)) from error


def _steps(task: Task, training: AdversarialTrainingArguments) -> int:
    """Optimizer steps of the run."""
    if training.max_steps > 0:
        return int(training.max_steps)
    rows_a_batch = int(training.train_batch_size) * training.world_size
    batches = math.ceil(len(task.splits["train"]) / rows_a_batch)
    updates = math.ceil(batches / training.gradient_accumulation_steps)
    steps: float = updates * training.num_train_epochs
    return math.ceil(steps)


def _train(
    task: Task, training: AdversarialTrainingArguments, report: ReportArguments
) -> RunResult:
    schedule = training.adversarial_schedule()
    watched = report.watch_epsilon is not None
    method = schedule.method
    set_seed(training.seed)  # the same head and the same order of batches in every run
    model = task.new_model()
    if report.attack_epsilons or watched or method.name != "none":
        find_embedding(model, training.adv_embedding)  # refused now, not after the training
    task.check_fits(model)
    try:
        trainer = AdversarialTrainer(
            model=model,
            args=training,
            train_dataset=task.splits["train"],
            eval_dataset=task.splits.get("validation"),
            data_collator=DataCollatorWithPadding(task.tokenizer),
            processing_class=task.tokenizer,
            compute_metrics=_metrics(task),
        )
    except ValueError as error:
        raise UserError(" ".join(str(error).split())) from error
    announce(training, method)
    if watched:
        rows = task.attacked(report.attack_examples, "validation")
        batches = attack_batches(rows, task.tokenizer)
        evaluator = embedding_evaluator(batches, report.watched(), embedding=training.adv_embedding)
        trainer.add_callback(RobustnessCallback(trainer, evaluator))
    if training.process_index == 0:
        radius = radius_in_words(method, model, task.tokenizer, task.splits["train"], training)
        print(radius or "", end="\n" * bool(radius), file=sys.stderr)
    outcome = trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    trainer.save_model()
    trainer.save_state()
    metrics: dict[str, float] = {}
    for name in task.evaluated:
        scores = trainer.evaluate(task.splits[name], metric_key_prefix=name)
        trainer.save_metrics(name, scores)
        metrics |= scores
    trainer.create_model_card(tasks="text-classification")
    # Mixed precision wraps the model's forward; attacks look at it in its own precision.
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    return RunResult(
        schedule=schedule,
        description=run_description(schedule, training.adv_exclude_special_tokens),
        seed=training.seed,
        model=model,
        tokenizer=task.tokenizer,
        seconds=None if training.resume_from_checkpoint else outcome.metrics["train_runtime"],
        split=task.reported,
        metrics=metrics,
        labels=[] if task.reported is None else list(task.splits[task.reported]["labels"]),
    )


def _metrics(task: Task) -> Callable[[EvalPrediction], dict[str, float]]:
    names = task.data.label_names
    compute = compute_metrics_for(task.task_name, names)
    return compute if names is None else with_largest_answer(compute)
