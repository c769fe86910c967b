"""A linear change of a method's numbers, and steps that are left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from numbers import Real
from typing import Any, cast, get_type_hints

from nlp_adv.methods.around import bare, with_bare
from nlp_adv.methods.method import Method, check_steps
from nlp_adv.methods.none import NoAttack
from nlp_adv.methods.schedule import Schedule
from nlp_adv.methods.wrapped import Wrapped


@dataclass(frozen=True)
class Every(Wrapped):
    """An attack at every n-th step, the first one included; the steps between are ordinary.

    Of a method that gives each batch m times in a row (FreeAT) it attacks all m steps of every n-th
    batch.

    Args:
        schedule: the schedule or method.
        every: n.

    Errors: ValueError for an n that is no whole number ≥ 1.

    Cost: 1 + (c − 1)/n on average, c being the method's.
    """

    every: int

    def __post_init__(self) -> None:
        check_steps(self.every, at_least=1, name="every (--adv_every)")

    def at(self, step: int) -> Method:
        """The method at step `begins` and at every n-th one from there."""
        begins, replays = self.begins or 0, int(getattr(bare(self.method), "replays", 1))
        batches = step // replays - begins // replays
        return self.inner.at(step) if batches % self.every == 0 else NoAttack()

    def settings(self) -> dict[str, Any]:
        """The other's, and n."""
        return super().settings() | {"every": self.every}


@dataclass(frozen=True)
class Linear(Wrapped):
    """Numbers of the method that change linearly while it attacks.

    At the k-th step of the attack, k = 0, 1, …, a number that begins at a and is b in the method is
    a + (b − a)·min(1, k/n); a whole number, such as the steps K, is rounded to the nearest one.

    Args:
        schedule: the schedule or method.
        first: a by the field's name: any number of the method, and `epsilon`, in the unit that the
            method has for it. Each changes by itself: a step size does not follow ε.
        linear_steps: n; below 1, this share of the run; 0 ends the change with the run's last step.

    Errors: ValueError for a name that the method has no number for, and a value that it refuses.
    """

    first: Mapping[str, float]
    linear_steps: float = 0
    total_steps: int | None = None
    """Of the run; `over` fills it in."""

    def __post_init__(self) -> None:
        if not 0 <= self.linear_steps < float("inf"):
            raise ValueError(
                f"linear_steps (--adv_linear_steps) must be a finite number ≥ 0, not "
                f"{self.linear_steps}."
            )
        if isinstance(self.method, NoAttack):  # a baseline keeps the flags of the run beside it
            return
        known = _numbers(self.method)
        given = self.first.values() if isinstance(self.first, Mapping) else [self.first]
        if not all(isinstance(one, Real) for one in given):
            raise ValueError(
                f"linear (--adv_linear) takes a number for each name, such as "
                f'{{"steps": 1, "epsilon": 0.01}}, not {self.first!r}.'
            )
        for name, value in self.first.items():
            if name not in known:
                raise ValueError(
                    f"linear (--adv_linear) cannot change {name!r}: the numbers of "
                    f"{self.method.name} are {', '.join(known) or 'none'}."
                )
            last = known[name]
            if not (abs(value) < float("inf") and abs(last) < float("inf")):
                raise ValueError(
                    f"linear (--adv_linear) needs two finite ends, and {name} goes from {value} to "
                    f"{last}."
                )
            if _is_whole(self.method, name) and value != int(value):
                raise ValueError(
                    f"linear (--adv_linear) must begin {name} at a whole number, not {value}."
                )
        try:
            self._changed(self.method, 0.0)
        except ValueError as error:
            raise ValueError(f"linear (--adv_linear) begins out of range: {error}") from error

    def over(self, total_steps: int, epoch_steps: int = 0) -> Schedule:
        """The other over a run, in this; the change may end with the run."""
        share = 0 < self.linear_steps < 1
        steps = max(1, round(self.linear_steps * total_steps)) if share else int(self.linear_steps)
        schedule = self.inner.over(total_steps, epoch_steps)
        return replace(self, schedule=schedule, linear_steps=steps, total_steps=total_steps)

    def at(self, step: int) -> Method:
        """The method with its numbers of this step."""
        method = self.inner.at(step)
        if isinstance(method, NoAttack):
            return method
        if 0 < self.linear_steps < 1 or (not self.linear_steps and self.total_steps is None):
            raise ValueError("The change has no end yet; call over(total_steps) first.")
        begins = self.begins or 0
        steps = self.linear_steps or cast(int, self.total_steps) - 1 - begins
        return self._changed(method, min(1.0, (step - begins) / steps) if steps > 0 else 1.0)

    def settings(self) -> dict[str, Any]:
        """The other's, where the numbers begin, and over how many steps they change.

        `total_steps` stands there where the change ends with the run, which makes it another one.
        """
        own = {"linear": dict(self.first), "linear_steps": self.linear_steps}
        ends_with_run = not self.linear_steps and self.total_steps is not None
        return (
            super().settings() | own | ({"total_steps": self.total_steps} if ends_with_run else {})
        )

    def _changed(self, method: Method, share: float) -> Method:
        """`method` this share of the way from its first numbers to its own."""
        inner, known = bare(method), _numbers(method)
        values: dict[str, Any] = {}
        for name, first in self.first.items():
            last = known[name]
            value = last if share == 1 else first + (last - first) * share
            values[name] = int(value + 0.5) if _is_whole(method, name) else value
        if "epsilon" in values and hasattr(inner, "ball"):
            values["ball"] = replace(inner.ball, epsilon=values.pop("epsilon"))
        return with_bare(method, replace(inner, **values))


def _is_whole(method: Method, name: str) -> bool:
    """By its type, since an ε of 1 is no whole number."""
    return get_type_hints(type(bare(method))).get(name) is int


def _numbers(method: Method) -> dict[str, float]:
    """The numbers of a method by name, but for what the data loader has to know."""
    inner = bare(method)
    names = [one.name for one in fields(inner)] if is_dataclass(inner) else []
    found = {name: getattr(inner, name) for name in names}
    if hasattr(inner, "ball"):
        found = {"epsilon": inner.ball.epsilon} | found
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name != "replays"
    }
