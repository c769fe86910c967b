"""What every training method is: a frozen dataclass that takes one step on an objective."""

from typing import NamedTuple, Protocol

from torch import Tensor

from nlp_adv.perturbation import Ball, Objective


class StepReport(NamedTuple):
    """The losses of one step, each (), detached, unscaled."""

    loss: Tensor
    """What ∇θ is the gradient of: the weighted sum."""
    adversarial: Tensor | None = None
    """The loss at the perturbed points, averaged where there are several."""
    clean: Tensor | None = None
    """The loss at δ = 0, where the method passes there."""


class Method(Protocol):
    """A training method; its fields are its configuration."""

    @property
    def name(self) -> str:
        """What follows `--adv`."""
        ...

    @property
    def passes(self) -> int:
        """Backward passes that reach θ: one clean step each."""
        ...

    @property
    def inner_passes(self) -> int:
        """Passes that compute ∇δ alone: ⅔ of a clean step each."""
        ...

    def step(self, objective: Objective) -> StepReport:
        """Accumulate ∇θ on one minibatch."""
        ...


class BallMethod(Method, Protocol):
    """A method that moves δ in a ball."""

    @property
    def ball(self) -> Ball:
        """The constraint on δ."""
        ...


def mixed(clean_weight: float, clean: Tensor | None, adversarial: Tensor) -> StepReport:
    """The report on w·clean + (1−w)·adversarial; the clean loss may be unknown when w is 0."""
    if clean_weight == 0 or clean is None:
        return StepReport(adversarial, adversarial=adversarial, clean=clean)
    loss = clean_weight * clean + (1 - clean_weight) * adversarial
    return StepReport(loss, adversarial=adversarial, clean=clean)


def floor_cost(method: Method) -> float:
    """The least a step can cost, in clean steps: one forward and two halves of a backward each.

    A full pass is 1; a pass for ∇δ alone skips the weight gradients, a third of the work.
    """
    return method.passes + 2 / 3 * method.inner_passes


def check_weight(clean_weight: float) -> None:
    """Refuse a `clean_weight` outside [0, 1)."""
    if not 0 <= clean_weight < 1:
        raise ValueError(
            f"clean_weight must be in [0, 1), the rest goes to the adversarial loss; "
            f"{clean_weight} is not."
        )


def check_steps(steps: int, *, at_least: int) -> None:
    """Refuse a number of steps that the method cannot make."""
    if steps < at_least or steps != int(steps):
        raise ValueError(f"steps must be an integer ≥ {at_least}, not {steps}.")


def check_nonnegative(name: str, value: float | Tensor) -> None:
    """Refuse a negative or non-finite length."""
    if not isinstance(value, Tensor) and not 0 <= value < float("inf"):
        raise ValueError(f"{name} must be a finite number ≥ 0, not {value}.")
