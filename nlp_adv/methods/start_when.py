"""An attack that waits until a logged number passes a threshold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from nlp_adv.methods.condition import Condition
from nlp_adv.methods.method import Method
from nlp_adv.methods.none import NoAttack
from nlp_adv.methods.schedule import Schedule
from nlp_adv.methods.wrapped import Wrapped


@dataclass(frozen=True)
class StartWhen(Wrapped):
    """Ordinary steps until a number of the log passes a threshold, then the other schedule.

    Whether it does is the Trainer's to see, which logs the training loss every `logging_steps` and
    the metrics of each evaluation; it says so by `begun`, once. The attack begins at the step after
    that log, or later where the other schedule begins later.

    Args:
        schedule: the schedule or method.
        start_when: such as "eval_accuracy>0.8" or "loss<0.4", the mean since the last log.
        begun_at: the step at which the condition held; None where it has not yet.

    Errors: ValueError for a condition that cannot be read.
    """

    start_when: str
    begun_at: int | None = None

    def __post_init__(self) -> None:
        Condition.parse(self.start_when)

    @property
    def waits_for(self) -> Condition | None:  # type: ignore[override]
        """The condition, until it has held."""
        return None if self.begun_at is not None else Condition.parse(self.start_when)

    @property
    def begins(self) -> int | None:
        """The first step of the attack; None while it waits."""
        return None if self.begun_at is None else self.inner.begun(self.begun_at).begins

    def begun(self, step: int) -> Schedule:
        """The same when the condition held at this step."""
        return replace(self, begun_at=step)

    def at(self, step: int) -> Method:
        """Ordinary training until the condition has held."""
        return NoAttack() if self.begun_at is None else self.inner.begun(self.begun_at).at(step)

    def settings(self) -> dict[str, Any]:
        """The other's, the condition, and when it held."""
        own = {"start_when": str(Condition.parse(self.start_when)), "begun_at": self.begun_at}
        return super().settings() | own
