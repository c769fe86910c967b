"""SAM: sharpness-aware minimisation, the baseline that attacks the weights alone.

Foret et al., "Sharpness-Aware Minimization for Efficiently Improving Generalization", ICLR 2021,
https://arxiv.org/abs/2010.01412, Algorithm 1; adaptive: Kwon et al., "ASAM", ICML 2021,
https://arxiv.org/abs/2102.11600, eq. (5) and Algorithm 1. With g = ∇θ L(θ):

    v = ρ·g/‖g‖₂,   adaptive: v = ρ·T²g/‖T g‖₂, T = |θ| + η
    g_θ = ∇θ L(θ + v), applied to θ

‖·‖₂ is over all trained weights together.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nlp_adv.methods.awp import WeightObjective
from nlp_adv.methods.method import StepReport, check_nonnegative, replaced, trained_weights
from nlp_adv.perturbation import Objective, StepError, full_pass

ETA = 0.01  # of T, as in ASAM's code: a weight of 0 can move


@dataclass(frozen=True)
class SAM:
    """The gradient at the worst weights near the present ones.

    Args:
        rho: ρ, how far all weights together move.
        adaptive: ASAM: each weight moves in proportion to its size.

    Errors: StepError for an objective without weights; UserError in a Trainer that shards them.

    Deviations: v is that of each minibatch by itself: of a micro-batch under accumulation, of each
    process's batch under DDP. That is what the paper does on several accelerators (its
    m-sharpness, §4.1), and another method for every size of these; the gradient that is applied is
    averaged as ever. ASAM's code leaves biases out of T; here they have one. Where g holds an inf
    or a nan, v is 0. BatchNorm's running statistics are those of the second pass.

    Cost: 2, and a copy of the weights.
    """

    rho: float
    adaptive: bool = False

    name: ClassVar[str] = "sam"
    whole_weights: ClassVar[bool] = True
    passes: ClassVar[int] = 2
    inner_passes: ClassVar[int] = 0

    def __post_init__(self) -> None:
        check_nonnegative("rho", self.rho)

    @property
    def idle(self) -> str | None:
        """Why this is ordinary training, where it is."""
        if self.rho == 0:
            return "rho is 0, so that the weights stay where they are; give one > 0."
        return None

    def step(self, objective: Objective) -> StepReport:
        """One step of SAM."""
        if not isinstance(objective, WeightObjective):
            raise StepError("sam needs an objective that differentiates by the weights.")
        weights = list(trained_weights(objective.model).values())
        still = torch.zeros_like(objective.mask)
        grads = objective.weight_gradient(still, weights)
        moved = self._moved([weight.detach() for weight in weights], grads)
        del grads  # as large as the weights
        with replaced(weights, moved):
            loss = full_pass(objective, still).loss
        return StepReport(loss, adversarial=loss)

    def _moved(self, weights: list[Tensor], grads: list[Tensor]) -> list[Tensor]:
        """θ + v."""
        sizes = [weight.abs() + ETA if self.adaptive else 1.0 for weight in weights]
        scaled = [size * grad for size, grad in zip(sizes, grads, strict=True)]
        norms = [torch.linalg.vector_norm(one, dtype=_wide(one)) for one in scaled]
        length = torch.linalg.vector_norm(torch.stack(norms))
        usable = torch.isfinite(length) & (length > 0)
        return [
            torch.where(usable, weight + size * one * (self.rho / length), weight).to(weight.dtype)
            for weight, size, one in zip(weights, sizes, scaled, strict=True)
        ]

    @classmethod
    def preset(cls) -> "SAM":
        """The paper's ρ."""
        return cls(rho=0.05)


def _wide(values: Tensor) -> torch.dtype:
    return torch.promote_types(values.dtype, torch.float32)
