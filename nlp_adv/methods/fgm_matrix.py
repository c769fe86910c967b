"""The folk FGM, which writes the perturbation into the embedding matrix W ∈ R^{V×D}.

The ten-line snippet in circulation under the name of FGM, without a paper of its own:

    r = ε · G / ‖G‖_F,   G = ∂L/∂W over the whole batch,   g_θ = ½∇θ L(W) + ½∇θ L(W + r)

Another threat model than FGM's: every occurrence of a word moves alike, the norm is one for the
whole batch, so that one hard sentence takes the budget of the others, and a tied output layer is
perturbed as well. It is here for comparison with results obtained by it.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from nlp_adv.methods.method import StepReport, check_nonnegative, replaced
from nlp_adv.perturbation import Objective, StepError


@runtime_checkable
class TableObjective(Objective, Protocol):
    """An objective whose x is looked up in a matrix; only this method asks for it."""

    @property
    def table(self) -> nn.Parameter | None:
        """W, (V, D)."""
        ...

    def note(self, value: Tensor) -> None:
        """Remember whether a gradient that the objective did not see is finite."""
        ...


@dataclass(frozen=True)
class FGMMatrix:
    """Perturb the embedding matrix by one normalised gradient.

    Args:
        epsilon: ‖r‖_F, absolute, one number for the whole batch.

    Deviations: the snippet adds the two gradients, here they are averaged, so that the learning
    rate keeps its meaning. It reads W.grad, which holds earlier micro-batches when gradients are
    accumulated; here G is this batch's. Each DDP process perturbs by its own G.

    Errors: StepError where the embedding is frozen or x is not looked up in a matrix.

    Cost: 2, and copies of W and of its gradient.
    """

    epsilon: float

    name: ClassVar[str] = "fgm_matrix"
    whole_weights: ClassVar[bool] = True
    text_only: ClassVar[bool] = True
    passes: ClassVar[int] = 2
    inner_passes: ClassVar[int] = 0

    def __post_init__(self) -> None:
        check_nonnegative("epsilon", self.epsilon)

    def step(self, objective: Objective) -> StepReport:
        """One step of matrix FGM."""
        objective, weight = _table_of(objective)
        earlier, weight.grad = weight.grad, None
        try:
            clean = objective.forward().loss
            objective.backward(0.5 * clean)
            batch_grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
            objective.note(batch_grad)
            # As few passes as can be: the matrix is the largest tensor of a small model.
            wide = torch.promote_types(batch_grad.dtype, torch.float32)
            norm = torch.linalg.vector_norm(batch_grad, dtype=wide)
            usable = torch.isfinite(norm) & (norm > 0)
            shift = torch.where(usable, batch_grad * (self.epsilon / norm), 0.0)
        finally:
            weight.grad = _sum(earlier, weight.grad)
        with replaced([weight], [weight.detach() + shift]):
            adversarial = objective.forward().loss
            objective.backward(0.5 * adversarial)
        clean, adversarial = clean.detach(), adversarial.detach()
        return StepReport(0.5 * (clean + adversarial), adversarial=adversarial, clean=clean)

    @classmethod
    def preset(cls) -> "FGMMatrix":
        """ε as the snippet is usually run."""
        return cls(epsilon=1.0)


def _table_of(objective: Objective) -> tuple[TableObjective, nn.Parameter]:
    if not isinstance(objective, TableObjective) or objective.table is None:
        raise StepError("fgm_matrix needs inputs that are looked up in an embedding matrix.")
    if not objective.table.requires_grad:
        raise StepError(
            "fgm_matrix perturbs the embedding matrix, which is frozen in this model; use fgm."
        )
    return objective, objective.table


def _sum(earlier: Tensor | None, batch: Tensor | None) -> Tensor | None:
    if earlier is None or batch is None:
        return batch if earlier is None else earlier
    return earlier.add_(batch)
