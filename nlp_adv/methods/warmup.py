"""Attack warm-up: ordinary steps first, then a growing ε.

From a fresh classification head a full-size attack from the first step can leave nothing to learn
but a constant answer. The FreeLB authors' code delays the attack (`adv-begin-iter`); robust vision
training ramps ε.
"""

from dataclasses import dataclass, replace
from typing import Any, cast

from nlp_adv.methods.method import BallMethod, Method
from nlp_adv.methods.none import NoAttack
from nlp_adv.methods.scaled import Scaled
from nlp_adv.methods.schedule import Schedule


@dataclass(frozen=True)
class WarmUp(Schedule):
    """Ordinary steps, then a growing attack.

    Args:
        method: the method after the warm-up.
        start_step: this many optimizer steps are ordinary ones; below 1, this share of the run.
        ramp_steps: over the next so many, ε, α and random starts grow linearly to full size.
        start_epoch: this many epochs are ordinary ones, such as 1 or 0.5; with a start_step as
            well, the later of both begins the attack.

    Errors: ValueError for numbers that are negative or not finite, and for a ramp of a method
    without a ball.
    """

    method: Method
    start_step: float = 0
    ramp_steps: float = 0
    start_epoch: float = 0

    def __post_init__(self) -> None:
        for name in ("start_step", "ramp_steps", "start_epoch"):
            length = getattr(self, name)
            if not 0 <= length < float("inf"):
                raise ValueError(
                    f"{name} (--adv_{name}) must be a finite number ≥ 0, not {length}."
                )
        if isinstance(self.method, NoAttack):  # a baseline keeps the flags of the run beside it
            return
        if self.ramp_steps > 0 and not hasattr(self.method, "ball"):
            raise ValueError(f"{self.method.name} has no ball to ramp; use start_step alone.")

    @property
    def begins(self) -> int:
        """The first step of the attack."""
        return int(self.start_step)

    def over(self, total_steps: int, epoch_steps: int = 0) -> "WarmUp":
        """The same with shares and epochs turned into steps of a run of so many.

        Raises:
            ValueError: the run would be over before the attack begins, or an epoch has no length.
        """
        start, ramp = (
            round(length * total_steps) if 0 < length < 1 else int(length)
            for length in (self.start_step, self.ramp_steps)
        )
        attacks = not isinstance(self.method, NoAttack)
        if self.start_epoch and not epoch_steps and attacks:
            raise ValueError(
                "start_epoch (--adv_start_epoch) needs training data with a length; give "
                "start_step (--adv_start_step)."
            )
        start = max(start, round(self.start_epoch * epoch_steps))
        if 0 < total_steps <= start and attacks:
            late = "start_epoch" if self.start_epoch else "start_step"
            raise ValueError(
                f"The attack would begin at step {start} of a run of {total_steps} steps: lower "
                f"{late} (--adv_{late})."
            )
        return replace(self, start_step=start, ramp_steps=ramp, start_epoch=0)

    def begun(self, step: int) -> "WarmUp":
        """The same, beginning no earlier than at this step."""
        return replace(self, start_step=max(self.start_step, step))

    def at(self, step: int) -> Method:
        """The method of optimizer step `step`, counted from 0."""
        if 0 < self.start_step < 1 or 0 < self.ramp_steps < 1 or self.start_epoch:
            raise ValueError("Shares and epochs are no steps yet; call over(total_steps) first.")
        done = step - self.start_step
        if done < 0 or isinstance(self.method, NoAttack):
            return NoAttack()
        if done >= self.ramp_steps:
            return self.method
        scaled = (
            self.method
            if isinstance(self.method, Scaled)
            else Scaled(cast(BallMethod, self.method))
        )
        return replace(scaled, factor=scaled.factor * (done + 1) / (self.ramp_steps + 1))

    def settings(self) -> dict[str, Any]:
        """Its numbers; `start_epoch` where it is one."""
        numbers = {"start_step": self.start_step, "ramp_steps": self.ramp_steps}
        return numbers | ({"start_epoch": self.start_epoch} if self.start_epoch else {})
