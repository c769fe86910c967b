"""When an attack begins, by the flags and by what a run has logged."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from difflib import get_close_matches
from fractions import Fraction
from numbers import Real
from typing import Any

import torch
from accelerate.utils import broadcast

from nlp_adv.errors import UserError
from nlp_adv.methods import Every, Linear, Method, NoAttack, Schedule, StartWhen, WarmUp
from nlp_adv.methods.condition import Condition

logger = logging.getLogger(__name__)


def schedule_of(method: Method, args: Any) -> Schedule:
    """The method with its beginning and its course, as the flags have them.

    Args:
        method: at full strength.
        args: training arguments; those without a flag have its default.

    Raises:
        ValueError: a flag is out of range or cannot be read.
    """

    def flag(name: str, default: Any = 0) -> Any:
        return getattr(args, f"adv_{name}", default)

    root = WarmUp(method, flag("start_step"), flag("ramp_steps"), flag("start_epoch"))
    schedule: Schedule = root
    when, linear, every = flag("start_when", None), flag("linear", None), flag("every", 1)
    if when is not None:
        schedule = StartWhen(schedule, when)
    if linear is not None:
        schedule = Linear(schedule, first_numbers(linear), flag("linear_steps"))
    elif flag("linear_steps"):
        raise ValueError("linear_steps (--adv_linear_steps) needs linear (--adv_linear).")
    if every != 1:
        schedule = Every(schedule, every)
    # A baseline keeps the flags of the run beside it, and has nothing to schedule.
    return root if isinstance(method, NoAttack) else schedule


def first_numbers(text: str) -> dict[str, float]:
    """`steps=1,epsilon=0.01` as numbers by name; a fraction such as 8/255 is one.

    Raises:
        ValueError: it is written otherwise, or has a name twice.
    """
    numbers: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = (one.strip() for one in part.partition("="))
        try:
            number = Fraction(value)
        except (ValueError, ZeroDivisionError):
            number = None
        if not name or number is None:
            raise ValueError(
                f"linear (--adv_linear) takes NAME=NUMBER with commas, such as "
                f"steps=1,epsilon=0.01, and {part.strip()!r} is none."
            )
        if name in numbers:
            raise ValueError(f"linear (--adv_linear) names {name} twice.")
        numbers[name] = int(number) if number.denominator == 1 else float(number)
    return numbers


def check_logs(schedule: Schedule, args: Any) -> None:
    """Refuse to wait for a number that the Trainer would never log.

    Raises:
        UserError: with the flag that makes it.
    """
    condition = schedule.waits_for
    if condition is None or isinstance(schedule.method, NoAttack):
        return
    evaluates = args.eval_strategy != "no" or getattr(args, "eval_on_start", False)
    if condition.metric.startswith("eval_") and not evaluates:
        raise UserError(
            f"--adv_start_when {condition} waits for an evaluation, and there is none: give "
            f"--eval_strategy epoch or steps."
        )
    if args.logging_strategy == "no" and not evaluates:
        raise UserError(
            f"--adv_start_when {condition} waits for a number of the log, and nothing is logged: "
            f"give --logging_strategy steps."
        )


class Beginning:
    """Sees in the log when an attack begins that waits for a metric.

    All is read from the Trainer's log history, which checkpoints hold: a resumed run decides as the
    whole one did. It is asked as an optimizer step begins, so that all its micro-batches have one
    answer; of several processes the first one decides, as their clocks or their accelerators may
    have written other numbers.

    Args:
        trainer: the Trainer.

    Cost: while it waits, one number is sent to each other process at every optimizer step.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._forget(None)

    def _forget(self, condition: Condition | None) -> None:
        self._condition = condition
        self._read = 0
        self._step: int | None = None
        self._seen: dict[str, Any] = {}
        self._nearest: float | None = None

    def of(self, schedule: Schedule) -> Schedule:
        """The schedule, begun if what it waits for has held.

        Raises:
            UserError: the evaluation is over, or the log is there, without the metric.
        """
        condition = schedule.waits_for
        if condition is None or isinstance(schedule.method, NoAttack):
            return schedule
        self._read_log(condition)
        step = self._agreed()
        if step is None:
            self._refuse_unknown(condition)
            return schedule
        return schedule.begun(step)

    def check_end(self, schedule: Schedule) -> None:
        """At the end of a run: did the attack begin?

        Raises:
            UserError: not in a run that was trained to its end; one that was stopped is warned of.
        """
        schedule, state = self.of(schedule), self._trainer.state
        begins = schedule.begins
        began = begins is not None and begins < state.global_step
        if began or not state.global_step or isinstance(schedule.method, NoAttack):
            return
        said = f"The attack never began in {state.global_step} steps, which were ordinary training"
        why = f"it was to begin at step {begins}"
        if schedule.waits_for is not None:
            why = self._why(schedule.waits_for)
        elif schedule.begun_at is not None:
            why = f"what it waited for (--adv_start_when) held at step {schedule.begun_at} only"
        if state.global_step < state.max_steps:
            logger.warning("%s: %s.", said, why)
            return
        raise UserError(f"{said}: {why}; let it begin earlier, or train longer.")

    def _read_log(self, condition: Condition) -> None:
        if condition != self._condition:  # a method may be set in mid-run
            self._forget(condition)
        history = self._trainer.state.log_history
        for entry in history[self._read :]:
            self._seen |= entry
            value = entry.get(condition.metric)
            if not isinstance(value, Real) or self._step is not None:
                continue
            number = float(value)
            if condition.holds(number):
                self._step = int(entry["step"])
                logger.info("The attack begins: %s is %g.", condition, number)
            if number == number:
                nearer = max if condition.wants_more else min
                self._nearest = nearer(number, number if self._nearest is None else self._nearest)
        self._read = len(history)

    def _agreed(self) -> int | None:
        args = self._trainer.args
        if args.world_size == 1:
            return self._step
        step = torch.tensor(-1 if self._step is None else self._step, device=args.device)
        first = int(broadcast(step))
        return None if first < 0 else first

    def _refuse_unknown(self, condition: Condition) -> None:
        """Once there was an evaluation, or a log where none is made, the metric must be there."""
        evaluates = self._trainer.args.eval_strategy != "no"
        over = (
            any(key.startswith("eval_") for key in self._seen)
            if evaluates
            else ("loss" in self._seen)
        )
        if over and condition.metric not in self._seen:
            raise UserError(unknown_metric(condition, self._seen))

    def _why(self, condition: Condition) -> str:
        if self._nearest is None:
            return f"{condition.metric} (--adv_start_when {condition}) was never logged"
        return f"{condition} (--adv_start_when) never held, {self._nearest:.4g} was nearest"


def unknown_metric(condition: Condition, names: Iterable[str]) -> str:
    """What to say where nobody logs the metric."""
    there = [name for name in names if name not in ("step", "epoch")]
    close = get_close_matches(condition.metric, there, n=1)
    meant = f", did you mean {close[0]}" if close else ""
    return (
        f"There is no metric {condition.metric!r} for --adv_start_when {condition}{meant}; there "
        f"are {', '.join(there)}."
    )
