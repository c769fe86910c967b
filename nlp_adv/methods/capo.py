"""CAPO: continuous adversarial preference optimisation of language models.

Xhonneux et al., "Efficient Adversarial Training in LLMs with Continuous Attacks", NeurIPS 2024,
https://arxiv.org/abs/2405.15589, eq. (5) (there C-AdvIPO): IPO (Azar et al., AISTATS 2024) whose
policy sees perturbed prompts and whose reference sees clean ones. With δ as in `cat`, y chosen, ŷ
rejected and ℓ the mean log-probability of a completion's tokens:

    min_θ  ( ℓ_θ(y | x + δ) − ℓ_θ(ŷ | x + δ) − ℓ_ref(y | x) + ℓ_ref(ŷ | x) − 1/(2β) )²
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from nlp_adv.methods.cat import paired, rejected_loss, replayed, total
from nlp_adv.methods.method import StepReport, check_nonnegative, check_steps
from nlp_adv.methods.scaled import Scaled
from nlp_adv.perturbation import Ball, L2Ball, Objective, PairedObjective


@dataclass(frozen=True)
class CAPO:
    """Preferences under attack: the margin of chosen over rejected at δ, held at 1/(2β).

    The square bounds the loss from both sides, so that no utility data are needed; where a batch
    has some, they are trained on too.

    Args:
        ball: the constraint on δ; the paper's is L2 per token of the prompt.
        step_size: α, in the units of δ.
        steps: K descents of the rejected completion's loss.
        beta: β; the margin aimed at is 1/(2β) nats a token.
        utility_weight: of the utility rows, where there are any.
        away_cutoff: nats above which a token of a rejected completion is improbable enough.
        replays: optimizer steps at one δ, see `cat`.

    Errors: StepError for a minibatch that holds no pairs, and where there is no reference: neither
    an adapter that can be switched off nor a frozen model.

    Deviations: those of `cat` in δ and in its units. A rejected token counts no less than
    −away_cutoff, which the released code has for its own away loss. The reference's
    log-probabilities are computed in each step (the released code computes them before training, as
    trl does on demand, in sums over tokens, which this does not read); its bookkeeping of pairs,
    which hands them back in reverse order, is not taken over. In trl's DPOTrainer its own
    `loss_type` and `beta` are not used.

    Cost: one pass over rejected and chosen rows (and utility rows), one forward pass of the
    reference over the former, and ⅔K over the rejected rows, ⅔K/m with m replays.
    """

    ball: Ball
    step_size: float | Tensor
    steps: int
    beta: float = 0.25
    utility_weight: float = 1.0
    away_cutoff: float = 5.0
    replays: int = 1

    name: ClassVar[str] = "capo"
    text_only: ClassVar[bool] = True
    reads_completions: ClassVar[bool] = True
    reads_reference: ClassVar[bool] = True
    passes: ClassVar[int] = 1
    forward_passes: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_steps(self.steps, at_least=1)
        check_steps(self.replays, at_least=1, name="replays")
        for name in ("step_size", "utility_weight", "away_cutoff"):
            check_nonnegative(name, getattr(self, name))
        if not 0 < self.beta < float("inf"):
            raise ValueError(f"beta must be a finite number > 0, not {self.beta}.")

    @property
    def inner_passes(self) -> int:
        """K, over the rejected rows, in the first of all replays."""
        return self.steps

    @property
    def inner_share(self) -> float:
        """Half of the full pass's rows, where none are utility rows; on average over replays."""
        return 1 / 2 / self.replays

    def step(self, objective: Objective) -> StepReport:
        """One step of CAPO."""
        pairs = paired(objective, self.name)
        delta = replayed(self, pairs, ("rejected",), rejected_loss)
        return self.train_at(delta, pairs)

    def train_at(self, delta: Tensor, pairs: PairedObjective) -> StepReport:
        """∇θ of the squared distance of the margin, in one pass."""
        first = pairs.reference("rejected_clean", "chosen_clean") if pairs.pairs else {}
        groups = ["rejected", "chosen"] + ["utility"] * (self.utility_weight > 0)
        found, losses = pairs.completions(delta, *groups), {}
        if first:
            margin = found["rejected"].bounded(self.away_cutoff) - found["chosen"].cross_entropy()
            before = first["rejected_clean"].cross_entropy() - first["chosen_clean"].cross_entropy()
            losses["preference"] = pairs.mean((margin - before - 1 / (2 * self.beta)).square())
        if "utility" in found:
            losses["utility"] = pairs.mean(found["utility"].cross_entropy())
        weights = {"preference": 1.0, "utility": self.utility_weight}
        terms = {name: weights[name] * one for name, one in losses.items()}
        loss = total(terms.values())
        pairs.backward(loss)
        adversarial, clean = terms.get("preference"), terms.get("utility")
        return StepReport(loss, adversarial, clean, groups=losses).detached()

    @classmethod
    def preset(cls) -> Scaled:
        """ε, α and K of `cat`, and the paper's β."""
        return Scaled(cls(L2Ball(0.05, "token"), step_size=0.0125, steps=10), unit="relative")
