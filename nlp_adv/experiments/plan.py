"""Which trials a search has: Optuna's samplers, asked for all of them before the first one runs."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, GridSampler, RandomSampler
from optuna.trial import FrozenTrial, Trial

from nlp_adv.errors import UserError

HpSpace = Callable[[Trial], Mapping[str, Any]]

_LARGEST_GRID = 10_000


def quiet_optuna() -> None:
    """Leave out what Optuna says of each study and trial: a command has lines of its own."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)


class ByNumber(BaseSampler):
    """An Optuna sampler whose draws are those of (seed, trial, name), whoever makes them.

    A sampler's own random stream runs on from trial to trial, so that a trial would depend on how
    many its process has drawn before.

    Args:
        kind: the sampler, one that draws each value by itself.
        seed: of the search.
        given: the sampler's other arguments.
    """

    def __init__(self, kind: Callable[..., BaseSampler], seed: int, **given: Any) -> None:
        self._kind, self._seed, self._given = kind, seed, given

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """No values are drawn together."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """None."""
        return {}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """A value, drawn by a sampler made for it."""
        key = f"{self._seed}/{trial.number}/{param_name}".encode()
        seed = int.from_bytes(hashlib.blake2b(key, digest_size=4).digest(), "big")
        sampler = self._kind(seed=seed, **self._given)
        return sampler.sample_independent(study, trial, param_name, param_distribution)


class _Grid(GridSampler):
    """Optuna's grid, which notes what it is asked for and does not hold yet."""

    def __init__(self, values: Mapping[str, Sequence[Any]], seed: int, points: int) -> None:
        super().__init__(values, seed)
        self._values, self._points = values, points
        self.missing: dict[str, list[Any]] = {}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        if param_name in self._values:
            return super().sample_independent(study, trial, param_name, param_distribution)
        values = self.missing.setdefault(param_name, spread(param_distribution, self._points))
        return values[0]


def spread(distribution: Any, points: int) -> list[Any]:
    """At most so many values of a range, its ends among them, evenly spaced on its own scale.

    Of a distribution of choices, all.
    """
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    low, high, step = distribution.low, distribution.high, distribution.step
    between = (np.geomspace if distribution.log else np.linspace)(low, high, points)[1:-1].tolist()
    if step is not None:
        between = [low + step * round((value - low) / step) for value in between]
    return list(dict.fromkeys([low, *between, high]))


def planned(
    search: str, hp_space: HpSpace, *, n_trials: int | None, seed: int, points: int = 3
) -> list[dict[str, Any]]:
    """The values of all trials of a search, before the first one runs.

    Args:
        search: "random"; "grid", the product of all values, in an order that the seed shuffles; or
            "tpe", which chooses when a trial's turn comes and plans nothing.
        hp_space: asks a trial for values; for some perhaps only where others ask for it.
        n_trials: how many there are; the most that a grid may have, where it has so many.
        seed: of the draws. Trial i is the same for every `n_trials`.
        points: of the grid in a range.

    Raises:
        UserError: a range that is none, or a grid that is too large.
    """
    if (n_trials is not None and n_trials < 1) or points < 2:
        raise UserError("A search needs at least one trial, and a grid 2 points in a range.")
    if search == "tpe":
        return [{} for _ in range(n_trials or 0)]
    try:
        if search == "random":
            return _asked(ByNumber(RandomSampler, seed), hp_space, n_trials or 0)
        return _grid(hp_space, min(n_trials or _LARGEST_GRID, _LARGEST_GRID), seed, points)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"The space to search is wrong: {error}") from error


def _asked(sampler: BaseSampler, hp_space: HpSpace, count: int) -> list[dict[str, Any]]:
    """What a space asks for, in trials that nobody runs."""
    study, plan = optuna.create_study(sampler=sampler), []
    for _ in range(count):
        trial = study.ask()
        hp_space(trial)
        plan.append(dict(trial.params))
    return plan


def _grid(hp_space: HpSpace, most: int, seed: int, points: int) -> list[dict[str, Any]]:
    """Questions that depend on answers are found by asking on, until nothing new is asked."""
    values: dict[str, list[Any]] = {}
    while True:
        sampler = _Grid(values, seed, points)
        asked = _asked(sampler, hp_space, _product(values))
        # An answer that asks nothing further stands in the product once for each of the others'.
        plan = list({json.dumps(params): params for params in asked}.values())
        if not sampler.missing and len(plan) <= most:
            return plan
        values |= sampler.missing
        if len(plan) > most or _product(values) > _LARGEST_GRID:
            raise UserError(
                f"The grid has more than {most} trials; give fewer values or points, allow more "
                f"trials, or search at random."
            )


def _product(values: Mapping[str, Sequence[Any]]) -> int:
    return math.prod(map(len, values.values()))
