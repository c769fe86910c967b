"""Attacks on the embeddings, or a layer, as a part of an evaluation of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from nlp_adv.attacks import PGD, Ladder
from nlp_adv.attacks.ladder import at_radius, radius_of
from nlp_adv.attacks.words.engine import Text
from nlp_adv.errors import UserError
from nlp_adv.robustness.curve import NORMS, CurveRequest
from nlp_adv.robustness.evaluation import Masking
from nlp_adv.robustness.runners import PointRunner, TextReader
from nlp_adv.sites.site import Site


@dataclass(frozen=True)
class WhiteBox:
    """What is tried on the embeddings.

    Args:
        attack: an attack at some radii, such as `embedding_pgd((0.02, 0.05))`.
        examples: of the attacked texts, the first so many.
        checks: whether to run the masking checks as well, at the middle one of the radii.
        check_examples: with so many of them.
        others: further attacks on the same examples, such as `ladder(DeepFool())` for each text's
            robust radius, the smallest ‖δ‖ that changes its answer.
        site: where δ enters instead of the word embeddings.
        where: that is, for people.

    Raises:
        UserError: no radius above 0, or two that are written alike.
    """

    attack: Ladder
    examples: int = 200
    checks: bool = True
    check_examples: int = 100
    others: tuple[Ladder, ...] = ()
    site: Site | None = None
    where: str = "the embeddings"

    def __post_init__(self) -> None:
        radii = [radius for radius in self.attack.radii if radius is not None]
        written = [f"{radius:g}" for radius in radii]
        if not any(radius > 0 for radius in radii):
            raise UserError(
                f"The attack on embeddings needs a radius above 0, not only {', '.join(written)}."
            )
        if len(set(written)) < len(written):
            raise UserError(f"Two radii are written alike: {', '.join(written)}.")
        names = [self.attack.name, *(one.name for one in self.others)]
        if len(set(names)) < len(names):
            raise UserError(f"Two attacks have one name: {', '.join(names)}.")

    def _climbing(self) -> PGD:
        """PGD on the margin in the attack's ball: the attack itself, where it is PGD."""
        attack = self.attack.attack
        if isinstance(attack, PGD):
            return replace(attack, loss="margin")
        ball, unit = self.attack.ball, self.attack.unit
        if ball is None:
            raise UserError("The checks need an attack in a ball, such as embedding_pgd.")
        step = 2 * radius_of(ball)
        return PGD(ball, step, 20, False, loss="margin", unit=unit, shorten=True)

    def runners(self, reader: TextReader, texts: Sequence[Text]) -> list[PointRunner]:
        """Each attack on the first of these texts."""
        chosen = frozenset(text.id for text in texts[: self.examples])
        return [PointRunner(one, reader, chosen=chosen) for one in (self.attack, *self.others)]

    def curve(self) -> CurveRequest:
        """Accuracy by radius."""
        attack, name = self.attack.attack, self.attack.name
        unit = {"relative": "share of the embedding norm"}.get(self.attack.unit, self.attack.unit)
        if isinstance(attack, PGD):
            share = attack.step_size / radius_of(attack.ball)
            name = f"PGD-{attack.steps} (α = {share:g}·ε) on {self.where}"
        per = "example" if self.attack.ball is None else self.attack.ball.per
        title = f"{name}, {NORMS[self.attack.norm]} per {per}"
        return CurveRequest(attack=self.attack.name, title=title, x_label=f"ε, {unit}")

    def masking(self) -> Masking | None:
        """The checks at the middle one of the radii."""
        if not self.checks:
            return None
        radii = [radius for radius in self.attack.radii if radius]
        attack = at_radius(self._climbing(), radii[len(radii) // 2])
        return Masking(attack, self.check_examples, self.where)  # type: ignore[arg-type]
