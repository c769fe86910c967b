"""One forward and one backward pass that serve both sides: ∇θ accumulates, ∇δ comes free."""

from typing import NamedTuple

from torch import Tensor

from nlp_adv.perturbation.memory import StepError
from nlp_adv.perturbation.objective import Objective

WENT_NOWHERE = (
    "The loss does not depend on δ, so the perturbation went nowhere: let it enter another module "
    "(--adv_site)."
)


class Pass(NamedTuple):
    """What one full pass leaves behind: `loss` () unweighted, `grad` ∇δ."""

    loss: Tensor
    grad: Tensor


class SplitPass(NamedTuple):
    """The same, and `p`: the loss's gradient at the output of the first block, shaped like it."""

    loss: Tensor
    grad: Tensor
    p: Tensor


def full_pass(objective: Objective, delta: Tensor, *, weight: float = 1.0) -> Pass:
    """One forward and backward at δ: ∇θ accumulates `weight` times, ∇δ comes free.

    Cost: one clean step.
    """
    leaf = delta.detach().requires_grad_()
    loss = objective.forward(leaf).loss
    objective.backward(weight * loss)
    return Pass(loss.detach(), grad_of(leaf))


def grad_of(leaf: Tensor) -> Tensor:
    """∇δ that a backward pass has left in δ.

    Raises:
        StepError: it has left none.
    """
    if leaf.grad is None:
        raise StepError(WENT_NOWHERE)
    return leaf.grad
