"""SMART: smoothness-inducing regularization with proximal point steps.

Jiang et al., "SMART: Robust and Efficient Fine-Tuning for Pre-trained Natural Language Models
through Principled Regularized Optimization", ACL 2020, https://arxiv.org/abs/1911.03437,
Algorithm 1:

    min_θ  E  L(θ, x, y) + β·max_{‖δ‖ ≤ ε} ℓ( f(x), f(x + δ) ) + μ·ℓ( f(x), f̃(x) )

ℓ is KL both ways (squared error for regression), f̃ the model at the moving average of its weights,
θ̃ ← (1 − decay)·θ + decay·θ̃ (the Bregman proximal term).
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from nlp_adv.methods.method import (
    StepReport,
    check_nonnegative,
    check_off_centre,
    check_steps,
    farthest,
    replaced,
    trained_weights,
)
from nlp_adv.methods.scaled import Scaled
from nlp_adv.perturbation import Ball, LInfBall, Objective, Output, StepError


@runtime_checkable
class ModelledObjective(Objective, Protocol):
    """An objective that shows its model, of which the proximal term keeps an average."""

    @property
    def model(self) -> nn.Module:
        """The model."""
        ...


@dataclass(frozen=True)
class SMART:
    """The clean loss, a smoothness term, and a term that holds the model to its past.

    Args:
        ball: the constraint on δ; the paper's is L∞.
        step_size: η, in the units of δ.
        steps: K ascents.
        beta: λ_s, the weight of the smoothness term.
        init_magnitude: m, the size of the random start (see `FreeLB`); at δ = 0 the divergence has
            no gradient.
        proximal_weight: μ, of the Bregman proximal term; 0 leaves it out, with its cost.
        decay: of the moving average of the weights, a step of the optimizer at a time.

    Deviations: the released code has no proximal term and no radius: it divides δ by its largest
    coordinate in each token, so that every token is moved by about 1, and it feeds embeddings that
    have been through position, LayerNorm and dropout back as `inputs_embeds`, which applies them
    again. The paper's start is N(0, σ²).

    Cost: ⅔K + 2, the graphs of two passes held at once; with a proximal term ⅓ more and a copy of
    the weights, saved with checkpoints.
    """

    ball: Ball
    step_size: float | Tensor
    steps: int
    beta: float
    init_magnitude: float
    proximal_weight: float = 0.0
    decay: float = 0.99

    name: ClassVar[str] = "smart"
    compares_outputs: ClassVar[bool] = True
    passes: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_steps(self.steps, at_least=1)
        check_nonnegative("step_size", self.step_size)
        check_nonnegative("beta", self.beta)
        check_nonnegative("proximal_weight", self.proximal_weight)
        check_off_centre("init_magnitude", self.init_magnitude, self.ball)
        if not 0 <= self.decay <= 1:
            raise ValueError(f"decay must be in [0, 1], not {self.decay}.")

    @property
    def inner_passes(self) -> int:
        """K."""
        return self.steps

    @property
    def forward_passes(self) -> int:
        """The averaged model's, where the proximal term has weight."""
        return int(self.proximal_weight > 0)

    @property
    def whole_weights(self) -> bool:
        """The proximal term keeps an average of all weights."""
        return self.proximal_weight > 0

    @property
    def idle(self) -> str | None:
        """Why this is ordinary training, where it is."""
        if self.beta == self.proximal_weight == 0:
            return (
                "beta and proximal_weight are 0, so that the loss is the clean one; "
                "give one of them > 0."
            )
        return None

    def step(self, objective: Objective) -> StepReport:
        """One step of SMART."""
        past = self._at_average(objective) if self.proximal_weight > 0 else None
        clean = objective.forward()
        delta = farthest(
            objective,
            clean,
            ball=objective.within(self.ball),
            step_size=self.step_size,
            steps=self.steps,
            init_magnitude=self.init_magnitude,
            symmetric=True,
        )
        adversarial = objective.forward(delta)
        moved = objective.divergence(clean, adversarial, symmetric=True)
        loss = clean.loss + self.beta * moved
        if past is not None:
            drift = objective.divergence(clean, past, symmetric=True)
            loss = loss + self.proximal_weight * drift
        objective.backward(loss)
        return StepReport(loss, adversarial.loss, clean.loss, moved).detached()

    def _at_average(self, objective: Objective) -> Output:
        """f̃(x), after the average has taken in the weights of this optimizer step."""
        if not isinstance(objective, ModelledObjective):
            raise StepError("The proximal term needs an objective that shows its model.")
        weights = trained_weights(objective.model)
        kept, first_slot = objective.memory.tensors, objective.memory.slot == 0
        average = []
        for name, weight in weights.items():
            key = f"average/{name}"
            # In float32 or wider: a hundredth of the way is lost in bfloat16.
            wide = torch.promote_types(weight.dtype, torch.float32)
            now = weight.detach().to(wide)
            if key not in kept:
                kept[key] = now.clone()
            elif first_slot:
                kept[key] = kept[key].to(now.device).lerp_(now, 1 - self.decay)
            average.append(kept[key].to(weight.dtype))
        with torch.no_grad(), replaced(list(weights.values()), average):
            return objective.forward()

    @classmethod
    def preset(cls) -> Scaled:
        """One ascent and β = 1 as in the authors' code; ε as a share of the embeddings.

        A start as short as the authors' 1e-5 is lost in bfloat16, and with it the first gradient.
        """
        ball = LInfBall(0.03)
        return Scaled(cls(ball, 0.03, 1, beta=1.0, init_magnitude=0.01), unit="relative")
