"""Trials of the built-in searches: what Optuna's are to a function that describes a space."""

import itertools
import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nlp_adv.errors import UserError

_LARGEST_GRID = 10_000

HpSpace = Callable[[Any], Mapping[str, Any]]


@dataclass(frozen=True)
class Interval:
    """Numbers from low to high, both included.

    Args:
        low, high: the ends.
        log: evenly spread on a logarithmic scale; for whole numbers, each gets the weight of
            [n − ½, n + ½] on it.
        step: distance between values, counted from low; None for all real numbers.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise ValueError(f"a range needs low ≤ high, not {self.low:g} and {self.high:g}.")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range must begin above 0, not at {self.low:g}.")
        if self.step is not None and (self.step <= 0 or (self.log and self.step != 1)):
            raise ValueError("a step must be above 0, and a logarithmic range has none.")

    def at(self, share: float) -> float:
        """The value below which `share` of the distribution lies, 0 ≤ share < 1."""
        if self.step is None:
            value = self._between(self.low, self.high, share)
        elif self.log:
            value = round(self._between(self.low - 0.5, self.high + 0.5, share))
        else:
            value = self.low + self.step * math.floor(share * self._count)
        return min(max(value, self.low), self.high)

    def spread(self, points: int) -> list[float]:
        """At most so many values, the ends among them, evenly spaced on the interval's scale."""
        shares = [index / (points - 1) for index in range(points)]
        values = [self._between(self.low, self.high, share) for share in shares]
        if self.step is not None:
            nearest = (round((value - self.low) / self.step) for value in values)
            values = [self.low + self.step * min(index, self._count - 1) for index in nearest]
        else:
            values[0], values[-1] = self.low, self.high  # exp(log(x)) need not be x
        return list(dict.fromkeys(values))

    @property
    def _count(self) -> int:
        assert self.step is not None
        return math.floor((self.high - self.low) / self.step + 1e-9) + 1

    def _between(self, low: float, high: float, share: float) -> float:
        if not self.log:
            return low + (high - low) * share
        return math.exp(math.log(low) + (math.log(high) - math.log(low)) * share)


@dataclass(frozen=True)
class Choices:
    """One of several values, each as likely."""

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("there is nothing to choose from.")

    def at(self, share: float) -> Any:
        """The value below which `share` of the distribution lies."""
        return self.values[math.floor(share * len(self.values))]

    def spread(self, points: int) -> list[Any]:
        """All of them."""
        return list(self.values)


class Trial(ABC):
    """One point of a space, taken as an Optuna trial is: by asking for values.

    Args:
        number: of the trial, from 0.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.params: dict[str, Any] = {}

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A number of [low, high]."""
        return float(self._suggest(name, Interval(low, high, log, step)))

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        """A whole number of [low, high]."""
        return int(self._suggest(name, Interval(low, high, log, step)))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices."""
        return self._suggest(name, Choices(tuple(choices)))

    def _suggest(self, name: str, values: Interval | Choices) -> Any:
        if name not in self.params:
            whole = isinstance(values, Interval) and isinstance(values.step, int)
            value = self._pick(name, values)
            self.params[name] = int(value) if whole else value
        return self.params[name]

    @abstractmethod
    def _pick(self, name: str, values: Interval | Choices) -> Any: ...


class RandomTrial(Trial):
    """Values drawn by (seed, number, name): no trial depends on the ones before it."""

    def __init__(self, number: int, seed: int) -> None:
        super().__init__(number)
        self._seed = seed

    def _pick(self, name: str, values: Interval | Choices) -> Any:
        return values.at(random.Random(f"{self._seed}/{self.number}/{name}").random())


class GridTrial(Trial):
    """Values by their place: the n-th question is answered by the value with index path[n]."""

    def __init__(self, number: int, path: Sequence[int], points: int) -> None:
        super().__init__(number)
        self._path, self._points = path, points
        self._taken: list[int] = []
        self._counts: list[int] = []

    def next_path(self) -> list[int] | None:
        """Where the grid goes on, the last question changing fastest; None after its end."""
        path = list(self._taken)
        while path:
            path[-1] += 1
            if path[-1] < self._counts[len(path) - 1]:
                return path
            path.pop()
        return None

    def _pick(self, name: str, values: Interval | Choices) -> Any:
        options, depth = values.spread(self._points), len(self._taken)
        self._taken.append(self._path[depth] if depth < len(self._path) else 0)
        self._counts.append(len(options))
        return options[self._taken[-1]]


def planned(
    backend: str,
    hp_space: HpSpace,
    *,
    n_trials: int | None = None,
    seed: int = 0,
    points: int = 3,
) -> list[Trial]:
    """All trials of a built-in search, their values chosen.

    Args:
        backend: "grid", the product of all values, a range giving `points` of them; or "random".
        hp_space: asks a trial for values; for some perhaps only where others ask for it.
        n_trials: how many are drawn, 20 by default; the most that a grid may have.
        seed: of the draws; trial i is the same for every `n_trials`.
        points: of the grid in a range.

    Raises:
        UserError: a range that is none, or a grid of more than `n_trials`.
    """
    if (n_trials is not None and n_trials < 1) or points < 2:
        raise UserError("A search needs at least one trial, and a grid 2 points in a range.")
    trials: list[Trial]
    try:
        if backend == "random":
            trials = [RandomTrial(number, seed) for number in range(n_trials or 20)]
            for trial in trials:
                hp_space(trial)
            return trials
        most = min(n_trials or _LARGEST_GRID, _LARGEST_GRID)
        trials = list(itertools.islice(_grid(hp_space, points), most + 1))
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"The space to search is wrong: {error}") from error
    if len(trials) > most:
        raise UserError(
            f"The grid has more than {most} trials; give fewer values or points, allow more "
            f"trials, or search at random."
        )
    return trials


def _grid(hp_space: HpSpace, points: int) -> Iterator[Trial]:
    path: list[int] | None = []
    for number in itertools.count():
        if path is None:
            return
        trial = GridTrial(number, path, points)
        hp_space(trial)
        yield trial
        path = trial.next_path()
