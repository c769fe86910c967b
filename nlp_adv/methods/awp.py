"""AWP: adversarial weight perturbation.

Wu, Xia and Wang, "Adversarial Weight Perturbation Helps Robust Generalization", NeurIPS 2020,
https://arxiv.org/abs/2004.05884. First an attack on the input, then one on the weights, one
normalised step for each matrix w:

    δ = argmax_{‖δ‖ ≤ ε} L(θ, x + δ, y),   v_w = γ·‖w‖·g_w/‖g_w‖,   g = ∇θ L(θ, x + δ, y)
    g_θ = w·∇θ L(θ, x, y) + (1−w)·∇θ L(θ + v, x + δ, y),   applied to θ
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from nlp_adv.methods.method import (
    StepReport,
    check_nonnegative,
    check_steps,
    check_weight,
    mixed,
    replaced,
    trained_weights,
)
from nlp_adv.methods.scaled import Scaled
from nlp_adv.perturbation import Ball, L2Ball, Objective, StepError, advance, ascend, full_pass


@runtime_checkable
class WeightObjective(Objective, Protocol):
    """An objective that also differentiates by the weights; only this method asks for it."""

    @property
    def model(self) -> nn.Module:
        """The model."""
        ...

    def weight_gradient(self, delta: Tensor, weights: list[nn.Parameter]) -> list[Tensor]:
        """∇w L at δ, leaving every `.grad` as it is."""
        ...


@dataclass(frozen=True)
class AWP:
    """PGD on the input, a step on the weights, and the gradient from there.

    Args:
        ball: the constraint on δ; the paper's is L∞.
        step_size: α, in the units of δ.
        steps: K ascents of δ from the clean point; 0 perturbs the weights alone.
        gamma: γ, the length of each matrix's step as a share of its norm; a warm-up that lets ε
            grow leaves it as it is.
        clean_weight: w, the share of the clean loss; the paper has none.
        parameters: names of the weights to move, with commas, such as "layer.11,classifier": those
            whose name holds one of them from dot to dot ("layer.1" is not in "layer.11"). Unset,
            all of them are moved.

    Errors: ValueError for a name that no weight has which could be moved.

    Deviations: the released code makes an SGD step on a copy of the model and takes its direction,
    which is this; it perturbs tensors of more than one dimension whose name holds "weight", here
    all trained ones of more than one dimension. Popular copies for text clip each coordinate to
    ±ε·|w| instead. Embedding matrices stay where they are (and a head tied to one): only a batch's
    rows have a gradient, and γ of the whole matrix's norm would move those few far. The batch
    shares one v, and each DDP process moves by its own.

    Cost: ⅔K + 2, with a clean term ⅔K + 2⅓, and a copy of the weights.
    """

    ball: Ball
    step_size: float | Tensor
    steps: int
    gamma: float
    clean_weight: float = 0.0
    parameters: str = ""

    name: ClassVar[str] = "awp"
    whole_weights: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_nonnegative("step_size", self.step_size)
        check_steps(self.steps, at_least=0)
        check_nonnegative("gamma", self.gamma)
        check_weight(self.clean_weight)
        if not isinstance(self.parameters, str):
            raise ValueError(
                f"parameters (--adv_parameters) are names in one text, with commas, such as "
                f'"layer.11,classifier", not {self.parameters!r}.'
            )
        if self.parameters and not all(name.strip() for name in self.parameters.split(",")):
            raise ValueError(
                f"parameters (--adv_parameters) holds an empty name: {self.parameters!r}."
            )

    @property
    def passes(self) -> int:
        """One by the weights alone, one that trains, and a clean one when it has weight."""
        return 2 + (self.clean_weight > 0)

    @property
    def inner_passes(self) -> int:
        """K, less the one that a clean pass gives away."""
        return self.steps - (self.clean_weight > 0 and self.steps > 0)

    @property
    def idle(self) -> str | None:
        """Why this is ordinary training, where it is."""
        if self.gamma == 0:
            return "gamma is 0, so that the weights stay where they are; give one > 0, or use pgd."
        return None

    def step(self, objective: Objective) -> StepReport:
        """One step of AT-AWP."""
        if not isinstance(objective, WeightObjective):
            raise StepError("awp needs an objective that differentiates by the weights.")
        w, clean = self.clean_weight, None
        ball, step_size = objective.within(self.ball), self.step_size
        delta = torch.zeros_like(objective.mask)
        if w > 0:
            clean, grad = full_pass(objective, delta, weight=w)
            if self.steps > 0:
                delta = advance(delta, grad, ball=ball, step_size=step_size)
        steps = self.inner_passes
        delta = ascend(objective.gradient, delta, ball=ball, step_size=step_size, steps=steps)
        weights = self.weights(objective.model)
        grads = objective.weight_gradient(delta, weights)
        moved = [self._moved(w.detach(), g) for w, g in zip(weights, grads, strict=True)]
        del grads  # as large as the weights
        with replaced(weights, moved):
            adversarial = full_pass(objective, delta, weight=1 - w).loss
        return mixed(w, clean, adversarial)

    def weights(self, model: nn.Module) -> list[nn.Parameter]:
        """The weights that are moved.

        Raises:
            ValueError: a name of `parameters` is in none of theirs.
        """
        matrices = _matrices(model)
        if not self.parameters:
            return list(matrices.values())
        found: set[str] = set()
        for name in (part.strip() for part in self.parameters.split(",")):
            own = {weight for weight in matrices if f".{name}." in f".{weight}."}
            if not own:
                raise ValueError(
                    f"awp moves no weight named {name!r} (--adv_parameters): it moves trained "
                    f"matrices that are no embeddings, such as {_some(matrices)}."
                )
            found |= own
        return [weight for name, weight in matrices.items() if name in found]

    def check_model(self, model: nn.Module) -> None:
        """Refuse a model without the weights that `parameters` names.

        Raises:
            ValueError: see `weights`.
        """
        self.weights(model)

    def _moved(self, weight: Tensor, grad: Tensor) -> Tensor:
        """w + v_w; w where the gradient is 0 or not finite."""
        wide = torch.promote_types(grad.dtype, torch.float32)
        norm = torch.linalg.vector_norm(grad, dtype=wide)
        length = self.gamma * torch.linalg.vector_norm(weight, dtype=wide)
        usable = torch.isfinite(norm) & (norm > 0)
        return torch.where(usable, weight + grad * (length / norm), weight).to(weight.dtype)

    @classmethod
    def preset(cls) -> Scaled:
        """One ascent of full length, half the loss clean, and γ = 0.0002.

        The authors train image classifiers with 0.005. Fine-tuning itself moves the weights by no
        more than that: on 1200 sentences of SST-2 a fresh classification head on a pretrained
        encoder learnt a constant answer with 0.005, and little with 0.001.
        """
        method = cls(L2Ball(0.03), step_size=0.03, steps=1, gamma=0.0002, clean_weight=0.5)
        return Scaled(method, unit="relative")


def _matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trained weights of more than one dimension that no embedding looks up."""
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    trained = trained_weights(model)
    return {n: w for n, w in trained.items() if w.ndim > 1 and id(w) not in tables}


def _some(names: Iterable[str]) -> str:
    """The first and the last name."""
    every = list(names)
    return " and ".join(dict.fromkeys((*every[:1], *every[-1:]))) or "none of this model"
