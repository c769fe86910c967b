"""Attack warm-up: ordinary steps first, then a growing ε.

From a fresh classification head a full-size attack from the first step can leave nothing to learn
but a constant answer. The FreeLB authors' code delays the attack (`adv-begin-iter`); robust vision
training ramps ε.
"""

from dataclasses import dataclass, replace
from typing import cast

from nlp_adv.methods.method import BallMethod, Method
from nlp_adv.methods.none import NoAttack
from nlp_adv.methods.scaled import Scaled


@dataclass(frozen=True)
class WarmUp:
    """Which method an optimizer step uses.

    Args:
        method: the method after the warm-up.
        start_step: this many optimizer steps are ordinary ones; below 1, this share of the run.
        ramp_steps: over the next so many, ε, α and random starts grow linearly to full size.

    Errors: ValueError for numbers that are negative or not finite, and for a ramp of a method
    without a ball.
    """

    method: Method
    start_step: float = 0
    ramp_steps: float = 0

    def __post_init__(self) -> None:
        if not all(0 <= length < float("inf") for length in (self.start_step, self.ramp_steps)):
            raise ValueError("start_step and ramp_steps must be finite numbers ≥ 0.")
        if isinstance(self.method, NoAttack):  # a baseline keeps the flags of the run beside it
            return
        if self.ramp_steps > 0 and not hasattr(self.method, "ball"):
            raise ValueError(f"{self.method.name} has no ball to ramp; use start_step alone.")

    def over(self, total_steps: int) -> "WarmUp":
        """The same with shares turned into steps of a run of so many.

        Raises:
            ValueError: the run would be over before the attack begins.
        """
        start, ramp = (
            round(length * total_steps) if 0 < length < 1 else int(length)
            for length in (self.start_step, self.ramp_steps)
        )
        if 0 < total_steps <= start and not isinstance(self.method, NoAttack):
            raise ValueError(
                f"The attack would begin at step {start} of a run of {total_steps} steps: lower "
                f"start_step (--adv_start_step)."
            )
        return replace(self, start_step=start, ramp_steps=ramp)

    def at(self, step: int) -> Method:
        """The method of optimizer step `step`, counted from 0."""
        if 0 < self.start_step < 1 or 0 < self.ramp_steps < 1:
            raise ValueError("start_step and ramp_steps are shares; call over(total_steps) first.")
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
