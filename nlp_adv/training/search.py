"""What the Trainer's `hyperparameter_search` lacks for methods that are built from arguments.

    trainer.hyperparameter_search(hp_space, backend="optuna", n_trials=20, direction="maximize")

The search is the Trainer's, with everything that Optuna has: `sampler=`, `storage=`, `study_name=`.
Here each trial starts from the arguments that the trainer was made with, not from those of the
trial before; a float field whose default is whole keeps its fractions; a name that would change
nothing is an error; and the trainer is left as it was.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, get_type_hints

from nlp_adv.errors import UserError


def with_backend(backend: Any, options: dict[str, Any]) -> Any:
    """The backend to search with; "random" is one of Optuna's samplers now.

    Raises:
        UserError: "grid", with what to write instead.
    """
    if backend == "grid":
        raise UserError(
            'backend="grid" is backend="optuna" with '
            "sampler=optuna.samplers.GridSampler({name: values, …}), or BruteForceSampler() where "
            "some values are only asked for beside others."
        )
    if backend != "random":
        return backend
    warnings.warn(
        'backend="random" is backend="optuna" with sampler=optuna.samplers.RandomSampler(seed=0).',
        DeprecationWarning,
        stacklevel=3,
    )
    from optuna.samplers import RandomSampler

    options["sampler"] = RandomSampler(seed=options.pop("seed", 0))
    return "optuna"


def set_up(trainer: Any, trial: Any) -> None:
    """Give the trainer its own arguments back, and look at what a trial is about to change.

    Args:
        trainer: in a search.
        trial: Optuna's.

    Raises:
        UserError: `hp_space` returns a name that would have no effect.
    """
    _restore(trainer)
    keep_floats(trainer.args)
    params = trainer.hp_space(trial)
    unknown = [name for name in params if not hasattr(trainer.args, name)]
    if unknown:
        raise UserError(f"hp_space returns {unknown[0]!r}, which the arguments do not have.")
    settings = [name for name in params if name.startswith("adv")]
    if trainer.method is not None and settings:
        raise UserError(
            f"hp_space returns {settings[0]}, which has no effect beside method=…; give the method "
            f"by AdversarialTrainingArguments instead."
        )


def keep_floats(args: Any) -> None:
    """Write whole numbers in float fields as floats.

    The Trainer casts a trial's value to the type of the old one: 0.2 would become 0 wherever a
    float field, such as `warmup_steps` or `adv_start_step`, has the default 0.
    """
    for name, kind in get_type_hints(type(args)).items():
        if kind is float and type(getattr(args, name, None)) is int:
            setattr(args, name, float(getattr(args, name)))


def _restore(trainer: Any) -> None:
    vars(trainer.args).clear()
    vars(trainer.args).update(trainer._before_search)


_OF_A_SEARCH = ("hp_search_backend", "hp_space", "hp_name", "compute_objective")


@contextmanager
def searching(trainer: Any) -> Iterator[None]:
    """A search, and the trainer as it was afterwards.

    Raises:
        UserError: there is no `model_init`.
    """
    if trainer.model_init is None:
        raise UserError("A search needs model_init=… in place of model=…: trials start afresh.")
    trainer._before_search = copy.copy(vars(trainer.args))
    kept = {name: getattr(trainer, name) for name in _OF_A_SEARCH if hasattr(trainer, name)}
    try:
        yield
    finally:
        _restore(trainer)
        trainer._before_search = None
        for name in _OF_A_SEARCH:
            vars(trainer).pop(name, None)
        vars(trainer).update(kept)
        trainer.optimizer = trainer.lr_scheduler = None
        trainer._train_batch_size = trainer.args.train_batch_size
        trainer.create_accelerator_and_postprocess()
