"""A schedule around another one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from nlp_adv.methods.condition import Condition
from nlp_adv.methods.method import Method
from nlp_adv.methods.schedule import Schedule
from nlp_adv.methods.warmup import WarmUp


@dataclass(frozen=True)
class Wrapped(Schedule):
    """Another schedule, in all that a subclass does not change.

    Args:
        schedule: the other one; a method stands for the `WarmUp` that begins at once.
    """

    schedule: Schedule | Method

    @property
    def inner(self) -> Schedule:
        """The other schedule."""
        own = self.schedule
        return own if isinstance(own, Schedule) else WarmUp(own)

    @property
    def method(self) -> Method:  # type: ignore[override]
        """The other's."""
        return self.inner.method

    @property
    def waits_for(self) -> Condition | None:  # type: ignore[override]
        """The other's."""
        return self.inner.waits_for

    @property
    def begun_at(self) -> int | None:  # type: ignore[override]
        """The other's."""
        return self.inner.begun_at

    @property
    def begins(self) -> int | None:
        """The other's."""
        return self.inner.begins

    def over(self, total_steps: int, epoch_steps: int = 0) -> Schedule:
        """The other over a run, in this."""
        return replace(self, schedule=self.inner.over(total_steps, epoch_steps))

    def begun(self, step: int) -> Schedule:
        """The other begun, in this."""
        return replace(self, schedule=self.inner.begun(step))

    def at(self, step: int) -> Method:
        """The other's."""
        return self.inner.at(step)

    def settings(self) -> dict[str, Any]:
        """The other's."""
        return self.inner.settings()
