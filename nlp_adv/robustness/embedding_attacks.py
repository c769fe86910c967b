"""Attacks on the word embeddings: projected gradient ascent, and the noise it has to beat."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch

from nlp_adv.perturbation import BALLS, Per, Unit, advance
from nlp_adv.robustness.embedding_rows import Loss, Rows


class EmbeddingAttack(Protocol):
    """What tries, at one radius after another, to change a model's right answers."""

    @property
    def epsilons(self) -> tuple[float, ...]:
        """The radii, in `unit`."""
        ...

    @property
    def norm(self) -> str:
        """The ball's norm, a key of `BALLS`."""
        ...

    @property
    def per(self) -> Per:
        """What one norm covers."""
        ...

    @property
    def unit(self) -> Unit:
        """What ε is measured in."""
        ...

    @property
    def seed(self) -> int:
        """Of whatever is random in it."""
        ...

    @property
    def title(self) -> str:
        """A name without the radius, the same for attacks whose numbers share an axis."""
        ...

    def attack(self, rows: Rows) -> None:
        """Try the rows that stand, in `rows.ball`."""
        ...


@dataclass(frozen=True)
class EmbeddingPGD:
    """Projected gradient ascent, and every number that belongs to it.

    The margin is the loss to report. The cross entropy is there for comparison: its gradient is
    the margin's times 1 − p_y, and where the right answer's probability p_y rounds to 1 nothing
    is left of it. An attack that cannot see is then taken for a model that cannot be attacked
    (Carlini and Wagner, 2017, on defensive distillation).

    Args:
        epsilons: the radii, in `unit`, any order; they are tried from the smallest up, and an
            example that fell at one is not tried at a larger one, whose ball holds the same δ.
        steps: K ascent steps from each start.
        restarts: starts; the first is the clean point, the others are uniform in the ball.
        norm, per, unit: the ball's; a "relative" ε is a share of the L2 norm of the example's own
            embeddings (of one of its tokens with `per="token"`, in the root mean square), and
            of what vectors of that size measure in the other norms.
        seed: of the random starts.
        loss: what is ascended.
        step_size: α, the length of the first step, in shares of ε. The steps shorten to α/K:
            α_k = α·ε·(1 − (k − 1)/K). A step of 2ε crosses the ball whatever its curvature, as in
            APGD; one of a constant 2.5·ε/K follows the surface, and makes no more of more steps.

    Cost: at most K·restarts·radii passes of ⅔ of a training step, on the rows still standing.
    """

    epsilons: tuple[float, ...]
    steps: int = 20
    restarts: int = 1
    norm: str = "l2"
    per: Per = "example"
    unit: Unit = "relative"
    seed: int = 0
    loss: Loss = "margin"
    step_size: float = 2.0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            raise ValueError("steps and restarts must be ≥ 1.")
        if self.loss not in ("margin", "cross_entropy"):
            raise ValueError(f'loss must be "margin" or "cross_entropy", not {self.loss!r}.')
        if not 0 < self.step_size < math.inf:
            raise ValueError(f"step_size is a share of ε above 0, not {self.step_size}.")
        _check(self)

    @property
    def shares(self) -> tuple[float, ...]:
        """The lengths of the K steps, as shares of ε."""
        return tuple(self.step_size * (1 - step / self.steps) for step in range(self.steps))

    @property
    def title(self) -> str:
        """Such as embedding-pgd-l2."""
        return _title("embedding-pgd" if self.loss == "margin" else "embedding-pgd-ce", self)

    def attack(self, rows: Rows) -> None:
        """K steps from each start, while any row stands."""
        for restart in range(self.restarts):
            if not len(rows):
                return
            delta = torch.zeros_like(rows.mask)
            if restart > 0:
                delta = rows.ball.sample(rows.mask, rows.generator)
            for share in self.shares:
                delta, grad = rows.gradient(delta, self.loss)
                if not len(rows):
                    return
                delta = advance(delta, grad, ball=rows.ball, step_size=share * rows.epsilon)
            rows.forward(delta)


@dataclass(frozen=True)
class EmbeddingNoise:
    """Random δ with ‖δ‖ = ε: what any direction does, of which an attack must find a better one.

    δ = ε·s/‖s‖, s uniform in the ball: for L2 a uniform direction, for L∞ and L1 a point of the
    sphere drawn by the volume of the cone below it.

    Args:
        epsilons: the radii, in `unit`, tried from the smallest up as an attack's.
        draws: of each radius.
        norm, per, unit: the ball's.
        seed: of the draws.

    Cost: at most draws·radii forward passes, on the rows still standing.
    """

    epsilons: tuple[float, ...]
    draws: int = 10
    norm: str = "l2"
    per: Per = "example"
    unit: Unit = "relative"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise ValueError("draws must be ≥ 1.")
        _check(self)

    @property
    def title(self) -> str:
        """Such as embedding-noise-l2."""
        return _title("embedding-noise", self)

    def attack(self, rows: Rows) -> None:
        """One draw after another, while any row stands."""
        for _ in range(self.draws):
            if not len(rows):
                return
            inside = rows.ball.sample(rows.mask, rows.generator)
            norm = rows.ball.norm(inside)
            outward = torch.where(norm > 0, rows.epsilon / norm, 0.0)  # a padded token stays 0
            rows.forward(rows.ball.project(inside * outward))


def _check(attack: EmbeddingAttack) -> None:
    if attack.norm not in BALLS:
        raise ValueError(f"Unknown norm {attack.norm!r}; choose from {', '.join(BALLS)}.")
    if isinstance(attack.epsilons, (int, float)):
        raise ValueError(f"epsilons are several radii; write ({attack.epsilons:g},) for one.")
    if not attack.epsilons or not all(0 <= e < math.inf for e in attack.epsilons):
        raise ValueError("epsilons needs at least one radius; all must be finite and ≥ 0.")


def _title(kind: str, attack: EmbeddingAttack) -> str:
    per = "-token" if attack.per == "token" else ""
    unit = "" if attack.unit == "relative" else f"-{attack.unit}"
    return f"{kind}-{attack.norm}{per}{unit}"
