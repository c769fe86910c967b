"""LAT: targeted latent adversarial training of language models.

Sheshadri et al., "Latent Adversarial Training Improves Robustness to Persistent Harmful Behaviors
in LLMs", 2024, https://arxiv.org/abs/2407.15549, eq. (3) and (4). The losses of `cat`, with δ on
hidden states of several layers at once, each in a ball of its own, and an attack that flees the
chosen completion as well:

    δ descends ½·L(θ, h + δ, ŷ) + ½·away(h + δ, y)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from nlp_adv.methods.cat import CAT, paired, replayed
from nlp_adv.methods.method import StepReport
from nlp_adv.methods.scaled import Scaled
from nlp_adv.perturbation import Completions, L2Ball, Objective


@dataclass(frozen=True)
class LAT(CAT):
    """`cat` at hidden states, towards the rejected completion and away from the chosen one.

    In a Trainer without `--adv_site` δ enters the embeddings and the blocks at a quarter, a half
    and three quarters of the depth; in a loop of your own give such a site. Robustness stays where
    it was trained, so that the embeddings are among them. ε in the unit "relative" is a share of
    each site's own norm, as it is in that step (see `nlp_adv.perturbation.units`).

    Args: those of `CAT`.

    Errors: those of `CAT`.

    Deviations: the released code moves δ by AdamW, here it steps along the gradient, and makes four
    optimizer steps for each δ, here one unless `replays` is 4. Its ε is absolute, 6 for Llama-3-8B
    at every site; what share of the norm that is differs. For one of its models δ is on the
    completion as well; here it is on the prompt, which both completions share. It has neither
    cut-off of the toward loss nor a term on clean prompts (`refusal_weight`, see `CAT`), and it
    runs without an attention mask. Utility is the loss of utility rows, of which the released code
    has a divergence from the first model as another choice. Untargeted LAT (Casper et al., 2024)
    is `pgd` at a layer.

    Cost: `cat`'s with 2P rows in each pass for δ; with `inner_prefix` what lies below the first
    site is computed once.
    """

    name: ClassVar[str] = "lat"
    depths: ClassVar[tuple[float, ...]] = (0.25, 0.5, 0.75)
    inner_rows: ClassVar[float] = 2 / 3

    def step(self, objective: Objective) -> StepReport:
        """One step of targeted LAT."""
        pairs = paired(objective, self.name)
        delta = replayed(self, pairs, ("rejected", "chosen"), self._attack)
        return self.train_at(delta, pairs)

    def _attack(self, found: Mapping[str, Completions]) -> Tensor:
        """(): what δ descends."""
        toward = found["rejected"].cross_entropy() + found["chosen"].log1mp(self.away_cutoff)
        return 0.5 * toward.sum()

    @classmethod
    def preset(cls) -> Scaled:
        """ε as in `cat`, at each site; the paper's 16 steps, of 2.5·ε/16."""
        return Scaled(cls(L2Ball(0.05, "token"), step_size=0.0078125, steps=16), unit="relative")
