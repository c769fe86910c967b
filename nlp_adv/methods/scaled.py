"""A method whose lengths are measured in another unit: ε, α and random starts alike."""

from dataclasses import dataclass
from typing import Any, get_args

from nlp_adv.methods.method import BallMethod, Method, StepReport
from nlp_adv.perturbation import Ball, Objective, ScaledObjective, Unit, unit_length


@dataclass(frozen=True)
class Scaled:
    """`method`, with δ measured in factor·unit; it is a method itself.

    Args:
        method: any method with a ball.
        unit: "absolute"; "per_coordinate", ε per √(tokens·dim) for L2; or "relative", ε as a share
            of the embedding norm. See `nlp_adv.perturbation.units`.
        factor: multiplies the unit; a warm-up ramp is a factor that grows to 1.
    """

    method: BallMethod
    unit: Unit = "absolute"
    factor: float = 1.0

    def __post_init__(self) -> None:
        if not hasattr(self.method, "ball"):
            raise ValueError(f"{self.method.name} moves no δ in a ball: its ε has no other unit.")
        if self.unit not in get_args(Unit):
            raise ValueError(f"unit must be one of {', '.join(get_args(Unit))}, not {self.unit!r}.")

    @property
    def name(self) -> str:
        """The method's name."""
        return self.method.name

    @property
    def ball(self) -> Ball:
        """The method's ball, its ε in this unit."""
        return self.method.ball

    @property
    def passes(self) -> int:
        """The method's."""
        return self.method.passes

    @property
    def inner_passes(self) -> int:
        """The method's."""
        return self.method.inner_passes

    @property
    def forward_passes(self) -> int:
        """The method's."""
        return getattr(self.method, "forward_passes", 0)

    @property
    def prefix_passes(self) -> int:
        """The method's."""
        return getattr(self.method, "prefix_passes", 0)

    def step(self, objective: Objective) -> StepReport:
        """The method's step, on the minibatch as a function of δ / (factor·unit)."""
        length = self.factor * unit_length(objective, self.ball, self.unit)
        return self.method.step(ScaledObjective(objective, length))


def bare(method: Method) -> Any:
    """The method itself, without its unit."""
    return method.method if isinstance(method, Scaled) else method
