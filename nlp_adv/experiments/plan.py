"""Which trials a search has, before the first one runs, and what draws their values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product
from random import Random
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler, RandomSampler

from nlp_adv.errors import UserError
from nlp_adv.experiments.space import Hyperparameter, hp_space

_LARGEST_GRID = 10_000


def quiet_optuna() -> None:
    """Leave out what Optuna says of each study and trial: a command has lines of its own."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def sampler_of_trial(
    kind: Callable[..., BaseSampler], seed: int, number: int, **given: Any
) -> BaseSampler:
    """A sampler for one trial alone: its draws are those of (seed, number), whoever makes them.

    The stream of one sampler for all would run on from trial to trial, so that a trial would depend
    on how many its process has drawn before.

    Args:
        kind: the sampler.
        seed: of the search.
        number: of the trial.
        given: the sampler's other arguments.
    """
    return kind(seed=int(np.random.SeedSequence([seed, number]).generate_state(1)[0]), **given)


def planned(
    search: str,
    space: Sequence[Hyperparameter],
    *,
    n_trials: int | None,
    seed: int,
    points: int = 3,
) -> list[dict[str, Any]]:
    """The values of all trials of a search.

    Args:
        search: "random"; "grid", the product of all values, in an order that the seed shuffles; or
            "tpe", which chooses when a trial's turn comes and plans nothing.
        space: what is varied.
        n_trials: how many there are; the most that a grid may have, where it has so many.
        seed: of the draws. Trial i is the same for every `n_trials`.
        points: of the grid in a range.

    Raises:
        UserError: a grid that is too large.
    """
    if search == "tpe":
        return [{} for _ in range(n_trials or 0)]
    if search == "random":
        return [_drawn(space, seed, number) for number in range(n_trials or 0)]
    values = [one.points(points) for one in space]
    most = min(n_trials or _LARGEST_GRID, _LARGEST_GRID)
    if math.prod(map(len, values)) > most:
        raise UserError(
            f"The grid has more than {most} trials; give fewer values or points, allow more "
            f"trials, or search at random."
        )
    names = [one.name for one in space]
    plan = [dict(zip(names, chosen, strict=True)) for chosen in product(*values)]
    Random(seed).shuffle(plan)
    return plan


def _drawn(space: Sequence[Hyperparameter], seed: int, number: int) -> dict[str, Any]:
    study = optuna.create_study(sampler=sampler_of_trial(RandomSampler, seed, number))
    return hp_space(space)(study.ask())
