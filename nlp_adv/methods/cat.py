"""CAT: continuous adversarial training of language models against what they must not say.

Xhonneux et al., "Efficient Adversarial Training in LLMs with Continuous Attacks", NeurIPS 2024,
https://arxiv.org/abs/2405.15589, eq. (3) and Algorithm 1 (there C-AdvUL). Of a prompt x, a
completion ŷ that is not wanted (rejected) and one that is (chosen), δ on the prompt's embeddings:

    δ ← Π_ε( δ − α·∇δ L(θ, x + δ, ŷ)/‖∇δ L‖ )                     K times, towards the rejected one
    min_θ  w_a·away(x + δ, ŷ) + w_t·toward(x + δ, y) + w_r·L(x, y) + w_u·L(utility)

L is the mean cross entropy of a completion's tokens, away the mean of their −log(1 − p_t)
(`Completions.log1mp`), and toward is L with a cut-off.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from nlp_adv.methods.method import StepReport, check_nonnegative, check_replays, check_steps
from nlp_adv.methods.scaled import Scaled
from nlp_adv.perturbation import (
    Ball,
    Completions,
    L2Ball,
    LossOfCompletions,
    Objective,
    PairedObjective,
    StepError,
    ascend,
)

CLEAN = ("chosen_clean", "utility")  # the groups that δ does not enter
TERMS = ("away", "toward", "refusal", "utility")
CUTOFFS = ("toward_cutoff", "away_cutoff")
LEAK = 0.001  # of the slope that a completion below its cut-off keeps, as in the released code


@dataclass(frozen=True)
class CAT:
    """δ that makes a model say what it must not, and training to refuse there and elsewhere not.

    Args:
        ball: the constraint on δ; the paper's is L2 per token of the prompt.
        step_size: α, in the units of δ.
        steps: K descents of the rejected completion's loss.
        away_weight: w_a, of the rejected completion at x + δ.
        toward_weight: w_t, of the chosen completion at x + δ.
        refusal_weight: w_r, of the chosen completion at x, without δ.
        utility_weight: w_u, of the utility rows.
        toward_cutoff: nats a token below which a chosen completion counts as learnt.
        away_cutoff: nats above which a token of a rejected completion is improbable enough.
        replays: how many optimizer steps are made at one δ, which is searched in the first of them.
            A Trainer gives each batch so many times in a row, as for `freeat`; a loop of one's own
            says by `memory.replay` how many times it has come.

    Errors: StepError for a minibatch that holds no pairs (see `nlp_adv.data.pairs`), and for
    replays that do not come in a row.

    Deviations: the released code steps by 1e-4·sign(∇) whatever ε is; here a step is α along the
    gradient, and the preset's α is a share of ε. Its ε is 0.05 of the mean norm of the whole
    vocabulary's embeddings; here that of the prompt's. Its away loss is −L cut off at 5 nats on the
    mean of a micro-batch; here it is the bounded log(1 − p) that is an option there, and cut-offs
    are each completion's own. **It has no term w_r**: its models refuse already. Without it δ
    becomes the sign to refuse by (a small model refused 62 to 71 % of perturbed prompts and 2 % of
    the same prompts as they are); w_r = 0 is the paper's. Each completion weighs alike, whatever
    its length; of each group of rows it is the mean, so that a micro-batch without a pair trains
    on its utility rows. All passes of a step are in the mode of the step.

    Cost: one pass over the rows rejected, chosen, chosen again and utility, those of weight 0 left
    out, and ⅔K over the rejected rows: with P pairs and U utility rows (⅔K + 3)·P + U rows, where
    ordinary training on chosen and utility rows has P + U. With m replays ⅔K/m in place of ⅔K, on
    1/m of the data in as many steps.
    """

    ball: Ball
    step_size: float | Tensor
    steps: int
    away_weight: float = 0.5
    toward_weight: float = 0.5
    refusal_weight: float = 0.5
    utility_weight: float = 1.0
    toward_cutoff: float = 0.5
    away_cutoff: float = 5.0
    replays: int = 1

    name: ClassVar[str] = "cat"
    text_only: ClassVar[bool] = True
    reads_completions: ClassVar[bool] = True
    passes: ClassVar[int] = 1
    inner_rows: ClassVar[float] = 1 / 3  # of the full pass's rows, where none are utility rows

    def __post_init__(self) -> None:
        check_steps(self.steps, at_least=1)
        check_steps(self.replays, at_least=1, name="replays")
        for name in ("step_size", *(f"{one}_weight" for one in TERMS), *CUTOFFS):
            check_nonnegative(name, getattr(self, name))

    @property
    def inner_passes(self) -> int:
        """K, over the rejected rows, in the first of all replays."""
        return self.steps

    @property
    def inner_share(self) -> float:
        """Of the full pass's rows those that a pass for ∇δ runs, on average over replays."""
        return self.inner_rows / self.replays

    @property
    def idle(self) -> str | None:
        """Why this is ordinary training, where it is."""
        if self.away_weight == self.toward_weight == 0:
            return (
                "away_weight and toward_weight are 0, so that nothing is trained at δ; "
                "give one of them > 0."
            )
        return None

    def step(self, objective: Objective) -> StepReport:
        """One step of CAT."""
        pairs = paired(objective, self.name)
        delta = replayed(self, pairs, ("rejected",), rejected_loss)
        return self.train_at(delta, pairs)

    def train_at(self, delta: Tensor, pairs: PairedObjective) -> StepReport:
        """∇θ of the four terms, in one pass."""
        weights = {
            "rejected": self.away_weight,
            "chosen": self.toward_weight,
            "chosen_clean": self.refusal_weight,
            "utility": self.utility_weight,
        }
        found = pairs.completions(delta, *(name for name, weight in weights.items() if weight))
        losses = {name: pairs.mean(self._loss(name, one)) for name, one in found.items()}
        terms = {name: weights[name] * one for name, one in losses.items()}
        loss = total(terms.values())
        pairs.backward(loss)
        clean = [one for name, one in terms.items() if name in CLEAN]
        return StepReport(
            loss,
            adversarial=total(one for name, one in terms.items() if name not in CLEAN),
            clean=total(clean) if clean else None,
            groups=losses,
        ).detached()

    def _loss(self, group: str, found: Completions) -> Tensor:
        """(R,): the loss of a group's completions."""
        if group == "rejected":
            return found.log1mp(self.away_cutoff)
        return cut_off(found, self.toward_cutoff) if group == "chosen" else found.cross_entropy()

    @classmethod
    def preset(cls) -> Scaled:
        """ε 0.05 of the embeddings' norm a token, ten steps of 2.5·ε/10; the paper's weights."""
        return Scaled(cls(L2Ball(0.05, "token"), step_size=0.0125, steps=10), unit="relative")


def total(terms: Iterable[Tensor]) -> Tensor:
    """(): the sum of the terms of a loss; 0 of none."""
    return sum(terms, torch.zeros(()))


def paired(objective: Objective, name: str) -> PairedObjective:
    """The objective, where it can be asked for completions.

    Raises:
        StepError: it cannot.
    """
    if not isinstance(objective, PairedObjective):
        raise StepError(f"{name} needs an objective of pairs of completions.")
    return objective


def replayed(
    method: Any, pairs: PairedObjective, groups: Sequence[str], loss: LossOfCompletions
) -> Tensor:
    """δ of a minibatch: searched when it comes for the first time, then the same at its replays.

    It is kept in its unit: what is relative to hidden states follows them as they are trained.

    Args:
        method: with a ball, step_size, steps and replays.
        pairs: the minibatch.
        groups, loss: what δ descends.

    Raises:
        StepError: replays do not come in a row, or are of another minibatch.
    """
    if method.replays == 1:
        return descended(method, pairs, groups, loss)
    memory, key = pairs.memory, f"{method.name}/{pairs.memory.slot}"
    check_replays(memory, method.name, method.replays)
    if memory.replay == 0 or key not in memory.tensors:  # an attack may begin between replays
        memory.tensors[key] = descended(method, pairs, groups, loss).detach()
    delta = memory.tensors[key].to(pairs.mask)
    if delta.shape != pairs.mask.shape:
        raise StepError(
            f"{method.name} found a δ of shape {tuple(delta.shape)}, and this replay has "
            f"{tuple(pairs.mask.shape)}: give the same minibatch {method.replays} times in a row."
        )
    return delta


def descended(
    method: Any, pairs: PairedObjective, groups: Sequence[str], loss: LossOfCompletions
) -> Tensor:
    """δ after K descents of a loss on some groups from the clean point; 0 without a pair."""
    delta = torch.zeros_like(pairs.mask)
    if not pairs.pairs:
        return delta
    return ascend(
        lambda delta: pairs.completions_gradient(delta, groups, loss),
        delta,
        ball=pairs.within(method.ball),
        step_size=-method.step_size,
        steps=method.steps,
    )


def rejected_loss(found: Mapping[str, Completions]) -> Tensor:
    """(): how unlikely the completions are that an attacker wants."""
    return found["rejected"].cross_entropy().sum()


def cut_off(found: Completions, cutoff: float) -> Tensor:
    """(R,): the cross entropy L; c + 0.001·(L − c) where it is below the cut-off c."""
    loss = found.cross_entropy()
    return torch.where(loss < cutoff, cutoff + LEAK * (loss - cutoff), loss)
