"""Grid and random search behind the Trainer's `hyperparameter_search`, built in.

    trainer.hyperparameter_search(hp_space, backend="random", n_trials=20, direction="maximize")

The same `hp_space` serves both and Optuna: a function of a trial that asks it for values
(`trial.suggest_float("learning_rate", 1e-5, 1e-4, log=True)`) and returns them by the name of a
field of the training arguments.
"""

import copy
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_type_hints

from transformers.trainer_utils import (
    BestRun,
    HPSearchBackend,
    default_compute_objective,
)

from nlp_adv.errors import UserError
from nlp_adv.training.trials import HpSpace, Trial, planned

BUILT_IN = ("grid", "random")


def search(
    trainer: Any,
    hp_space: HpSpace | None,
    compute_objective: Callable[[dict[str, float]], float] | None,
    n_trials: int | None,
    direction: str | list[str],
    backend: str,
    hp_name: Callable[[Any], str] | None,
    *,
    seed: int = 0,
    points: int = 3,
    finished: Mapping[int, float] | None = None,
) -> BestRun:
    """`trainer.hyperparameter_search(backend="grid" or "random")`.

    Each trial starts from the trainer's arguments, changed by the trial's, and from a fresh model,
    and is evaluated at its end. The arguments are as before when the search ends or breaks off;
    the model is the last trial's.

    Args:
        trainer: with a `model_init`.
        hp_space, n_trials, seed, points: see `planned`.
        compute_objective: metrics of `trainer.evaluate()` → number; the Trainer's by default.
        direction: "minimize" or "maximize".
        backend: "grid" or "random".
        hp_name: trial → the folder of its checkpoints in `output_dir`; `run-0`, `run-1` … if None.
        finished: objectives of trials that ran earlier, by number; they are not run again.

    Raises:
        UserError: what cannot be searched so.
    """
    if direction not in ("minimize", "maximize"):
        raise UserError('The built-in searches have one direction, "minimize" or "maximize".')
    if hp_space is None:
        raise UserError(f"backend={backend!r} needs hp_space=…, a function of a trial.")
    if trainer.model_init is None:
        raise UserError("A search needs model_init=… in place of model=…: trials start afresh.")
    trials = planned(backend, hp_space, n_trials=n_trials, seed=seed, points=points)
    for trial in trials:
        _check_names(trainer, hp_space(trial))
    scores = dict(finished or {})
    with _searching(trainer, hp_space, compute_objective, hp_name) as run:
        for trial in trials:
            if trial.number not in scores:
                scores[trial.number] = run(trial)
    sign = 1 if direction == "minimize" else -1
    best = min(trials, key=lambda trial: _nan_last(sign * scores[trial.number]))
    return BestRun(str(best.number), scores[best.number], best.params)


def keep_floats(args: Any) -> None:
    """Write whole numbers in float fields as floats.

    The Trainer casts a trial's value to the type of the old one: 0.2 would become 0 wherever a
    float field, such as `warmup_steps` or `adv_start_step`, has the default 0.
    """
    for name, kind in get_type_hints(type(args)).items():
        if kind is float and type(getattr(args, name, None)) is int:
            setattr(args, name, float(getattr(args, name)))


def _check_names(trainer: Any, params: Mapping[str, Any]) -> None:
    unknown = [name for name in params if not hasattr(trainer.args, name)]
    if unknown:
        raise UserError(f"hp_space returns {unknown[0]!r}, which the arguments do not have.")
    settings = [name for name in params if name.startswith("adv")]
    if trainer.method is not None and settings:
        raise UserError(
            f"hp_space returns {settings[0]}, which has no effect beside method=…; give the method "
            f"by AdversarialTrainingArguments instead."
        )


def _nan_last(score: float) -> float:
    return math.inf if math.isnan(score) else score


_OF_A_SEARCH = ("hp_search_backend", "hp_space", "hp_name", "compute_objective", "model_init")


@contextmanager
def _searching(
    trainer: Any,
    hp_space: HpSpace,
    compute_objective: Callable[[dict[str, float]], float] | None,
    hp_name: Callable[[Any], str] | None,
) -> Iterator[Callable[[Trial], float]]:
    """How a trial is run, and the trainer as it was afterwards."""
    args, model_init = trainer.args, trainer.model_init
    kept_args = copy.copy(vars(args))
    kept = {name: getattr(trainer, name) for name in _OF_A_SEARCH if hasattr(trainer, name)}
    takes_trial = bool(inspect.signature(model_init).parameters)
    evaluate = compute_objective or default_compute_objective

    def restore_args() -> None:
        vars(args).clear()
        vars(args).update(kept_args)

    def run(trial: Trial) -> float:
        restore_args()
        keep_floats(args)
        args.output_dir = str(Path(args.output_dir) / _folder(trial, hp_name))
        if takes_trial:
            trainer.model_init = lambda: model_init(trial)
        _free(trainer)
        # Not `train(trial=…)`: it knows no trials but those of installed packages. Set up before
        # `train`, the trial's seed also holds for its model.
        trainer._hp_search_setup(trial)
        trainer.train()
        objective = float(evaluate(trainer.evaluate()))
        trainer.objective = objective
        return objective

    trainer.hp_space, trainer.hp_name, trainer.compute_objective = hp_space, hp_name, evaluate
    trainer.hp_search_backend = HPSearchBackend.OPTUNA  # whose trials ours look like
    try:
        yield run
    finally:
        restore_args()
        for name in _OF_A_SEARCH:
            vars(trainer).pop(name, None)
        vars(trainer).update(kept)
        trainer.optimizer = trainer.lr_scheduler = None
        trainer._train_batch_size = args.train_batch_size
        trainer.create_accelerator_and_postprocess()


def _folder(trial: Trial, hp_name: Callable[[Any], str] | None) -> str:
    return f"run-{trial.number}" if hp_name is None else hp_name(trial)


def _free(trainer: Any) -> None:
    """Let the last trial's model and optimizer go before the next ones are made."""
    trainer.model = trainer.model_wrapped = trainer.optimizer = trainer.lr_scheduler = None
    trainer.accelerator.clear()
