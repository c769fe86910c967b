"""Ordinary training, as a method: what every other method is compared with."""

from dataclasses import dataclass
from typing import ClassVar

from nlp_adv.methods.method import StepReport
from nlp_adv.perturbation import Objective


@dataclass(frozen=True)
class NoAttack:
    """One pass at the clean point: ∇θ L(θ, x, y). Cost: 1."""

    name: ClassVar[str] = "none"
    passes: ClassVar[int] = 1
    inner_passes: ClassVar[int] = 0

    def step(self, objective: Objective) -> StepReport:
        """One ordinary step."""
        loss = objective.forward().loss
        objective.backward(loss)
        return StepReport(loss.detach(), clean=loss.detach())

    @classmethod
    def preset(cls) -> "NoAttack":
        """Nothing to set."""
        return cls()
