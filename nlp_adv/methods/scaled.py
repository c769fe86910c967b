"""A method whose lengths are measured in another unit: ε, α and random starts alike."""

from dataclasses import dataclass
from typing import get_args

from nlp_adv.methods.around import Around, found_around
from nlp_adv.methods.method import Method, StepReport
from nlp_adv.perturbation import Objective, ScaledObjective, Unit, unit_length


@dataclass(frozen=True)
class Scaled(Around):
    """`method`, with δ measured in factor·unit; it is a method itself.

    Args:
        method: any method with a ball.
        unit: "absolute"; "per_coordinate", ε per √(tokens·dim) for L2; or "relative", ε as a share
            of the embedding norm. See `nlp_adv.perturbation.units`.
        factor: multiplies the unit; a warm-up ramp is a factor that grows to 1.
    """

    unit: Unit = "absolute"
    factor: float = 1.0

    def __post_init__(self) -> None:
        if not hasattr(self.method, "ball"):
            raise ValueError(f"{self.method.name} moves no δ in a ball: its ε has no other unit.")
        if self.unit not in get_args(Unit):
            raise ValueError(f"unit must be one of {', '.join(get_args(Unit))}, not {self.unit!r}.")

    def step(self, objective: Objective) -> StepReport:
        """The method's step, on the minibatch as a function of δ / (factor·unit)."""
        length = self.factor * unit_length(objective, self.ball, self.unit)
        return self.method.step(ScaledObjective(objective, length))


def unit_of(method: Method) -> Unit:
    """The unit of the method's ε."""
    scaled = found_around(method, Scaled)
    return "absolute" if scaled is None else scaled.unit
