"""What every schedule is: it says which method an optimizer step uses."""

from __future__ import annotations

from typing import Any

from nlp_adv.methods.condition import Condition
from nlp_adv.methods.method import Method


class Schedule:
    """Which method an optimizer step uses.

    `WarmUp` is the first of all; `StartWhen`, `Linear` and `Every` go around it, or around each
    other, in any order. A subclass may say by `at` alone when its method acts. Steps are optimizer
    steps, counted from 0: all micro-batches of one have the same method.
    """

    method: Method
    """At full strength."""
    waits_for: Condition | None = None
    """What must hold before the attack begins; None where it waits for nothing (any more)."""
    begun_at: int | None = None
    """The step at which what it waited for held; None where it has not, or never waited."""

    @property
    def begins(self) -> int | None:
        """The first step of the attack; None while it waits."""
        raise NotImplementedError

    def over(self, total_steps: int, epoch_steps: int = 0) -> Schedule:
        """The same with shares and epochs turned into steps.

        Args:
            total_steps: of the run.
            epoch_steps: of one epoch; 0 where nobody knows.

        Raises:
            ValueError: the run would be over before the attack begins, or an epoch has no length.
        """
        raise NotImplementedError

    def begun(self, step: int) -> Schedule:
        """The same when what it waits for held at this step: the attack begins there, or later."""
        raise NotImplementedError

    def at(self, step: int) -> Method:
        """The method of optimizer step `step`, counted from 0."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """Its numbers, flat, as JSON holds them."""
        raise NotImplementedError
