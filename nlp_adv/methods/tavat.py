"""TAVAT: token-aware virtual adversarial training.

Li and Qiu, "Token-Aware Virtual Adversarial Training in Natural Language Understanding", AAAI 2021,
https://arxiv.org/abs/2004.14543, Algorithm 1. FreeLB's δ of a sentence, and beside it an
η of each token that starts from a table V over the vocabulary, kept through training:

    δ ~ U(−m, m)/√n,   η_i = V[token i]
    K times:  g_θ += 1/K·∇θ L(θ, x + δ + η, y),   g = ∇ L at δ + η
              η_i ← n_i·( η_i + α·g_i/‖g_i‖ ),   n_i = ‖η_i‖/max_j ‖η_j‖
              δ   ← δ + α·g/‖g‖,   both shrunk until ‖δ + η‖ ≤ ε
    V[token i] ← η_i
"""

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
    random_start,
)
from nlp_adv.methods.scaled import Scaled
from nlp_adv.perturbation import Ball, L2Ball, Objective, Per, StepError, full_pass
from nlp_adv.perturbation.slices import slice_amax
from nlp_adv.perturbation.word_table import WordTable


@runtime_checkable
class VocabularyObjective(Objective, Protocol):
    """An objective whose x is looked up in a table; the ids tell where."""

    @property
    def table(self) -> nn.Parameter | None:
        """The embedding matrix, (V, D)."""
        ...

    @property
    def ids(self) -> Tensor | None:
        """Its rows that x holds, (B, T)."""
        ...

    @property
    def unit(self) -> Tensor | float:
        """How long a δ of 1 is in the table's own length, a number or (B, 1, 1)."""
        ...


@dataclass(frozen=True)
class TAVAT:
    """FreeLB with a part of δ that every token remembers.

    Args:
        ball: the constraint on δ + η; the paper's is L2, one norm per example.
        step_size: α, in the units of δ, for both parts.
        steps: K passes.
        init_magnitude: m, the size of the random start of δ and of the table (see `FreeLB`).
        clean_weight: w adds a clean pass of weight w, and gives the K others 1 − w.

    Errors: StepError where x is not looked up in a table.

    Deviations: n_i is that of η after its step, as in the released code. That code divides no loss
    by K; adds η to the table, summed over a token's occurrences and over padding, where the paper
    assigns it, here the mean over the occurrences; and divides what it looks up by the norm of the
    whole batch. Here a token whose gradient is 0 or not finite keeps its η. Each DDP process keeps
    its own table.

    Cost: K, with a clean term K + 1; a table as large as the embedding, saved with checkpoints.
    """

    ball: Ball
    step_size: float | Tensor
    steps: int
    init_magnitude: float = 0.0
    clean_weight: float = 0.0

    name: ClassVar[str] = "tavat"
    reads_table: ClassVar[bool] = True
    text_only: ClassVar[bool] = True
    inner_passes: ClassVar[int] = 0

    def __post_init__(self) -> None:
        check_steps(self.steps, at_least=1)
        check_nonnegative("step_size", self.step_size)
        check_nonnegative("init_magnitude", self.init_magnitude)
        check_weight(self.clean_weight)

    @property
    def passes(self) -> int:
        """K, and a clean one when it has weight."""
        return self.steps + (self.clean_weight > 0)

    def step(self, objective: Objective) -> StepReport:
        """One step of TAVAT."""
        vocabulary = self._vocabulary(objective)
        w, clean = self.clean_weight, None
        ball = objective.within(self.ball)
        sentence = random_start(objective, ball, self.init_magnitude)
        token = vocabulary.look_up(objective.mask)
        if w > 0:
            clean = full_pass(objective, torch.zeros_like(sentence), weight=w).loss
        sentence, token = _shrunk(sentence, token, ball)
        losses = []
        for _ in range(self.steps):
            loss, grad = full_pass(objective, sentence + token, weight=(1 - w) / self.steps)
            losses.append(loss)
            token = self._token_step(token, grad, objective.within(L2Ball(1.0)).per)
            sentence = sentence + self.step_size * ball.steepest(grad)
            sentence, token = _shrunk(sentence, token, ball)
        vocabulary.assign(token, objective.mask)
        return mixed(w, clean, torch.stack(losses).mean())

    def _token_step(self, token: Tensor, grad: Tensor, whole: Per) -> Tensor:
        """n_i·(η_i + α·g_i/‖g_i‖), n_i among the tokens of the example that `whole` covers."""
        each = L2Ball(1.0, "token")
        direction = each.steepest(grad)
        moved = token + self.step_size * direction
        length = each.norm(moved)
        share = length / slice_amax(length, whole).clamp_min(torch.finfo(length.dtype).tiny)
        return torch.where(each.norm(direction) > 0, share * moved, token)

    def _vocabulary(self, objective: Objective) -> "_Vocabulary":
        """The table, made at the first step."""
        if not isinstance(objective, VocabularyObjective) or objective.table is None:
            raise StepError("tavat needs inputs that are looked up in an embedding matrix.")
        assert objective.ids is not None
        kept, mask = objective.memory.tensors, objective.mask
        if "tavat/table" not in kept:
            # The last row takes what is not free.
            table = mask.new_empty(len(objective.table) + 1, mask.shape[-1])
            bound = self.init_magnitude / mask.shape[-1] ** 0.5
            kept["tavat/table"] = table.uniform_(-bound, bound, generator=objective.generator)
            kept["tavat/seen"] = torch.zeros_like(table[:, :1], dtype=torch.bool)
        for key in ("tavat/table", "tavat/seen"):
            kept[key] = kept[key].to(mask.device)
        return _Vocabulary(kept["tavat/table"], kept["tavat/seen"], objective.ids, objective.unit)

    @classmethod
    def preset(cls) -> Scaled:
        """K = 2 as in most of the paper's runs; ε as a share of the embeddings.

        The authors' SST-2 setting for BERT-base, in its units: ε = 0.5, α = 0.05, m = 0.2, K = 2.
        """
        ball = L2Ball(0.03)
        return Scaled(cls(ball, step_size=0.015, steps=2, init_magnitude=0.015), unit="relative")


def _shrunk(sentence: Tensor, token: Tensor, ball: Ball) -> tuple[Tensor, Tensor]:
    """Both scaled by ε/‖δ + η‖ where that is below 1."""
    norm = ball.norm(sentence + token)
    factor = torch.where(norm > ball.epsilon, ball.epsilon / norm, 1.0)
    return sentence * factor, token * factor


@dataclass
class _Vocabulary:
    """V, in absolute lengths for words that were seen; others keep their start, in units of δ."""

    table: Tensor
    seen: Tensor
    ids: Tensor
    unit: Tensor | float

    def look_up(self, mask: Tensor) -> Tensor:
        """η (B, T, D), in units of δ."""
        rows = WordTable(self.table, self.ids).look_up()
        return torch.where(self.seen[self.ids], rows / self.unit, rows) * mask

    def assign(self, token: Tensor, mask: Tensor) -> None:
        """V[token] ← the mean of η over the token's free occurrences."""
        self.seen[WordTable(self.table, self.ids).assign(token * self.unit, mask)] = True
