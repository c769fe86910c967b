"""Which attacks are tried on the prompts of a language model, and with what settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

from nlp_adv.attacks import PGD, Ladder, ladder
from nlp_adv.attacks.chat.answering import Answering
from nlp_adv.attacks.chat.gcg import GCG
from nlp_adv.attacks.chat.prompted import Prompted
from nlp_adv.attacks.ladder import at_radius
from nlp_adv.errors import UserError
from nlp_adv.perturbation import L2Ball, LInfBall
from nlp_adv.robustness.chat_runners import (
    ChatReader,
    GCGRunner,
    PrefillingRunner,
    SuffixRunner,
)
from nlp_adv.robustness.embedding import STEP_SIZE
from nlp_adv.robustness.evaluation import Masking
from nlp_adv.robustness.runners import PointRunner, Runner
from nlp_adv.sites.embeddings import EmbeddingSite
from nlp_adv.sites.layer import LayerSite, blocks_of
from nlp_adv.sites.names import module_named

_OWN = {
    "pgd": ("epsilons", "steps", "restarts"),
    "latent-pgd": ("layers", "layer_epsilons", "steps", "restarts"),
    "soft-suffix": ("suffix", "suffix_steps", "suffix_step_size"),
    "prefilling": ("depths",),
    "gcg": ("gcg",),
}
ATTACKS = tuple(_OWN)


@dataclass(frozen=True, kw_only=True)
class ChatAttacks:
    """What is tried on each prompt; its own settings enter the hash of each attack.

    Args:
        names: any of `ATTACKS`.
        epsilons: radii of `pgd` on the prompt's embeddings, L2 per token, as shares of the root
            mean square of the prompt's embedding norms.
        steps, restarts: of `pgd` and `latent-pgd`; the first start is the clean point, the others
            are drawn for each request, and one that succeeds is enough.
        layers: of `latent-pgd`: numbers of blocks, or names of modules; each has its own δ.
        layer_epsilons: its radii, as shares of that layer's own norm.
        suffix: free tokens of `soft-suffix`.
        suffix_steps, suffix_step_size: its sign steps, as shares of the suffix's norm. They are not
            bounded: the ball is as large as all the steps together.
        depths: of `prefilling`, tokens of the target that are given.
        gcg: its settings.

    Raises:
        UserError: an unknown name, no radius, or a number that is none.
    """

    names: tuple[str, ...] = ATTACKS
    epsilons: tuple[float, ...] = (0.1, 0.2, 0.4)
    steps: int = 15
    restarts: int = 1
    layers: tuple[str, ...] = ("1",)
    layer_epsilons: tuple[float, ...] = (0.3,)
    suffix: int = 6
    suffix_steps: int = 50
    suffix_step_size: float = 0.05
    depths: tuple[int, ...] = (1, 2)
    gcg: GCG = field(default_factory=GCG)

    def __post_init__(self) -> None:
        unknown = [one for one in self.names if one not in ATTACKS]
        if unknown or not self.names:
            wrong = f"no attack {unknown[0]!r}" if unknown else "no attack named"
            raise UserError(f"There is {wrong}; choose from {', '.join(ATTACKS)}.")
        if not (self.epsilons and self.layers and self.layer_epsilons and self.depths):
            raise UserError("epsilons, layers, layer_epsilons and depths need one value each.")
        numbers = (self.steps, self.restarts, self.suffix, self.suffix_steps, *self.depths)
        if min(numbers) < 1 or self.suffix_step_size <= 0:
            raise UserError("Steps, restarts, depths and the suffix's length are 1 or more.")

    def settings(self, name: str) -> dict[str, Any]:
        """What one of the attacks depends on, and no other's settings."""
        return {one: getattr(self, one) for one in _OWN[name]}

    def in_words(self, name: str) -> str:
        """The same for people, such as "depths 1, 2"."""
        given = self.settings(name)
        for key, value in list(given.items()):
            if is_dataclass(value):
                del given[key]
                given |= {field.name: getattr(value, field.name) for field in fields(value)}
        return ", ".join(f"{one} {_shown(value)}" for one, value in given.items())

    @property
    def longer(self) -> int:
        """Tokens that attacks put behind a prompt."""
        lengths = {"soft-suffix": self.suffix, "gcg": self.gcg.length}
        return max((lengths.get(name, 0) for name in self.names), default=0)

    def check_layers(self, model: Any) -> None:
        """Whether the model has the layers of `latent-pgd`, where that is asked for.

        Raises:
            UserError: one is not there.
        """
        for name in self.layers if "latent-pgd" in self.names else ():
            if not name.isdecimal():
                module_named(model, name)
            elif int(name) >= (count := len(blocks_of(model))):
                raise UserError(
                    f"{type(model).__name__} has {count} blocks, 0 to {count - 1}, and none of "
                    f"number {name} (--layers {name})."
                )

    def runners(self, answering: Answering, prompted: Prompted, seed: int) -> dict[str, Runner]:
        """One for each name, in their order."""
        plain = ChatReader(answering, prompted, EmbeddingSite())

        def made(name: str) -> Runner:
            if name == "gcg":
                return GCGRunner(
                    plain, gcg=replace(self.gcg, seed=seed), searching=answering.searching()
                )
            if name == "prefilling":
                return PrefillingRunner(plain, depths=self.depths)
            if name == "soft-suffix":
                reader = replace(plain, suffix=self.suffix, site=EmbeddingSite())
                return SuffixRunner(PointRunner(self._suffix(), reader))
            if name == "latent-pgd":
                reader = replace(plain, site=LayerSite(*map(_inside, self.layers)))
                return PointRunner(self._pgd(self.layer_epsilons, "latent-pgd", seed), reader)
            return PointRunner(self._pgd(self.epsilons, "embedding-pgd", seed), plain)

        return {name: made(name) for name in dict.fromkeys(self.names)}

    def masking(self, examples: int, seed: int, judge: str) -> Masking | None:
        """Checks of `pgd` at the middle one of its radii; None where it is not among the attacks.

        Args:
            examples: with the first so many requests.
            seed: of random starts.
            judge: its hash, which verdicts of the checks depend on.
        """
        if not examples or "pgd" not in self.names:
            return None
        radii = sorted(self.epsilons)
        climbing = self._pgd(radii, "embedding-pgd", seed).attack
        attack: Any = at_radius(climbing, radii[len(radii) // 2])
        return Masking(attack, examples, f"the prompts' embeddings, {judge}", classes=False)

    def _pgd(self, epsilons: Sequence[float], name: str, seed: int) -> Ladder:
        attack = PGD(
            L2Ball(1.0, "token"),
            STEP_SIZE,
            self.steps,
            random_start=False,
            loss="margin",
            until_fooled=True,
            seed=seed,
            unit="relative",
            shorten=True,
        )
        return ladder(attack, epsilons, restarts=self.restarts, name=name)

    def _suffix(self) -> Ladder:
        ball = LInfBall(self.suffix_steps * self.suffix_step_size, "token")
        attack = PGD(
            ball, self.suffix_step_size, self.suffix_steps, False, loss="margin", unit="relative"
        )
        return ladder(attack, name=f"soft-suffix-{self.suffix}")


def _inside(layer: str) -> str:
    """What a module of the language model is called in the `Answering` around it."""
    return layer if layer.isdecimal() else f"model.{layer}"


def _shown(value: Any) -> str:
    return " ".join(map(_shown, value)) if isinstance(value, tuple) else f"{value}"
