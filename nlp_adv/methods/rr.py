"""RR: representation rerouting, the circuit breakers, as a baseline without δ.

Zou et al., "Improving Alignment and Robustness with Circuit Breakers", NeurIPS 2024,
https://arxiv.org/abs/2406.04313, Algorithm 1. With h_l the hidden states behind block l, and h_l°
those of the model before it was trained:

    min_θ  w_a · mean_{l ∈ layers, t} relu( cos(h_l, h_l°) )        rejected completions
         + w_u · mean_{l, t} ‖h_l − h_l°‖₂                          utility rows, all blocks
         + w_r · mean_{l, t} ‖h_l − h_l°‖₂                          prompts with chosen completions
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from nlp_adv.methods.cat import total
from nlp_adv.methods.method import StepReport, check_nonnegative
from nlp_adv.perturbation import Hidden, HiddenObjective, Objective, StepError, over_tokens

DEPTHS = (10 / 32, 20 / 32)  # the paper's layers of a model of 32


@dataclass(frozen=True)
class RR:
    """Hidden states on what must not be said, turned away from what they were; all others kept.

    It trains no refusal: what a model says in place of the rejected completion is not decided, and
    may be no text at all. Soft prompts without a bound broke both models that its authors published
    in all cases (Schwinn and Geisler, 2024, arXiv 2407.15902): report it beside attacks on
    embeddings.

    Args:
        away_weight: w_a, of rejected completions.
        utility_weight: w_u, of utility rows.
        refusal_weight: w_r, of the chosen completions with their prompts.
        layers: numbers of blocks, from 0, such as "9,19"; empty takes those at 10/32 and 20/32 of
            the depth, which are the paper's in a model of 32 blocks.

    Errors: StepError for a minibatch that holds no pairs, and where there is nothing to compare
    with: neither an adapter that can be switched off nor a frozen model, or a number is no
    block's.

    Deviations: the paper's weights go from α and 0 to α/2 and α/2 in a run, α = 10 for Llama-3;
    here they are constant, and `--adv_linear away_weight=10,utility_weight=0,refusal_weight=0` is
    the paper's schedule. The released code counts the request's tokens among the rejected ones in
    half of its rows, here none, since the chosen row holds the same request; it leaves the blocks
    above the highest of `layers` out while it trains, and the adapter below them; it reads the
    embeddings and the output of the last normalisation as layers too; its mean over l and t counts
    padding as 0. Here each row weighs alike, whatever its length. Its refusals and benign rows are
    one set; here they are two groups with a mean each.

    Cost: one pass over rejected, chosen and utility rows, and a forward pass over the same of the
    model before its training: 1⅓, and the hidden states of all blocks in memory.
    """

    away_weight: float = 5.0
    utility_weight: float = 5.0
    refusal_weight: float = 5.0
    layers: str = ""

    name: ClassVar[str] = "rr"
    text_only: ClassVar[bool] = True
    reads_completions: ClassVar[bool] = True
    reads_reference: ClassVar[bool] = True
    passes: ClassVar[int] = 1
    inner_passes: ClassVar[int] = 0
    forward_passes: ClassVar[int] = 1

    def __post_init__(self) -> None:
        for name in ("away_weight", "utility_weight", "refusal_weight"):
            check_nonnegative(name, getattr(self, name))
        if not all(part.strip().isdecimal() for part in self.layers.split(",") if self.layers):
            raise ValueError(
                f'layers must be numbers of blocks with commas between, such as "9,19", not '
                f"{self.layers!r}."
            )

    @property
    def idle(self) -> str | None:
        """Why nothing is rerouted, where it is so."""
        if self.away_weight == 0:
            return "away_weight is 0, so that the model is held where it is; give one > 0."
        return None

    def numbers(self, blocks: int) -> list[int]:
        """The blocks at which rejected completions are rerouted.

        Raises:
            StepError: the model has no block of such a number.
        """
        if not self.layers:
            return sorted({max(0, round(depth * blocks) - 1) for depth in DEPTHS})
        found = [int(part) for part in self.layers.split(",")]
        if max(found) >= blocks:
            raise StepError(
                f"layers names block {max(found)}, and the model has {blocks}, 0 to {blocks - 1}."
            )
        return found

    def step(self, objective: Objective) -> StepReport:
        """One step of RR."""
        if not isinstance(objective, HiddenObjective):
            raise StepError("rr needs an objective of pairs of completions with hidden states.")
        weights = {
            "rejected_clean": self.away_weight,
            "chosen_clean": self.refusal_weight,
            "utility": self.utility_weight,
        }
        groups = [name for name, weight in weights.items() if weight]
        before, now = objective.hidden_before(*groups), objective.hidden(*groups)
        losses = {name: objective.mean(self._loss(name, now[name], before[name])) for name in now}
        terms = {name: weights[name] * one for name, one in losses.items()}
        loss = total(terms.values())
        objective.backward(loss)
        away = terms.pop("rejected_clean")
        clean = total(terms.values()) if terms else None
        return StepReport(loss, adversarial=away, clean=clean, groups=losses).detached()

    def _loss(self, group: str, now: Hidden, before: Hidden) -> Tensor:
        """(R,): of each row of a group."""
        if group != "rejected_clean":
            layers = zip(now.layers, before.layers, strict=True)
            moved = [torch.linalg.vector_norm(wide(h) - wide(first), dim=-1) for h, first in layers]
            return over_tokens(mean(moved), now.real)
        numbers = self.numbers(len(now.layers))
        turned = [cosine(now.layers[number], before.layers[number]) for number in numbers]
        return over_tokens(mean([one.relu() for one in turned]), now.completed)

    @classmethod
    def preset(cls) -> "RR":
        """What the paper's schedule ends with, for Llama-3."""
        return cls()


def wide(hidden: Tensor) -> Tensor:
    """In float32 or wider, where differences of like numbers are something."""
    return hidden if hidden.dtype == torch.float64 else hidden.float()


def cosine(one: Tensor, other: Tensor) -> Tensor:
    """(R, T): of two hidden states (R, T, D) of each token."""
    return functional.cosine_similarity(wide(one), wide(other), dim=-1)


def mean(layers: Sequence[Tensor]) -> Tensor:
    """(R, T): the mean over layers."""
    return torch.stack(list(layers)).mean(0)
