"""R-Drop: consistency under dropout, the baseline that moves no δ.

Liang et al., "R-Drop: Regularized Dropout for Neural Networks", NeurIPS 2021,
https://arxiv.org/abs/2106.14448, Algorithm 1. Two passes under two dropout masks:

    ½·( L₁ + L₂ ) + β·½·( KL(f₁ ‖ f₂) + KL(f₂ ‖ f₁) ) / 2
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from nlp_adv.methods.method import StepReport, check_nonnegative
from nlp_adv.perturbation import Objective, Output, StepError


@runtime_checkable
class RedrawnObjective(Objective, Protocol):
    """An objective that can draw a second dropout mask; only this method asks for it."""

    def forward_redrawn(self) -> Output:
        """The loss and logits at the clean point, under another mask."""
        ...


@dataclass(frozen=True)
class RDrop:
    """The loss under two dropout masks, and β times how far their outputs are apart.

    Args:
        beta: the paper's α, the weight of the divergence.

    Deviations: the paper adds up the two losses; here the whole is halved, so that the learning
    rate keeps its meaning. The released code doubles the batch, which draws the masks differently.
    Its regression branch uses one pass and no divergence; here (f₁ − f₂)² stands for the sum of
    the two. On a model without dropout both passes are the same, and this is ordinary training.

    Cost: 2; the graphs of two passes are held at once.
    """

    beta: float = 1.0

    name: ClassVar[str] = "rdrop"
    compares_outputs: ClassVar[bool] = True
    passes: ClassVar[int] = 2
    inner_passes: ClassVar[int] = 0

    def __post_init__(self) -> None:
        check_nonnegative("beta", self.beta)

    @property
    def idle(self) -> str | None:
        """Why this is ordinary training, where it is."""
        if self.beta == 0:
            return (
                "beta is 0, so that the divergence between the two masks has no weight; "
                "give one > 0."
            )
        return None

    def step(self, objective: Objective) -> StepReport:
        """One step of R-Drop."""
        if not isinstance(objective, RedrawnObjective):
            raise StepError("rdrop needs an objective that can draw a second dropout mask.")
        second = objective.forward_redrawn()
        first = objective.forward()
        clean = 0.5 * (first.loss + second.loss)
        apart = 0.5 * objective.divergence(first, second, symmetric=True)
        loss = clean + 0.5 * self.beta * apart
        objective.backward(loss)
        return StepReport(loss.detach(), clean=clean.detach(), divergence=apart.detach())

    @classmethod
    def preset(cls) -> "RDrop":
        """The default of the authors' code."""
        return cls(beta=1.0)
