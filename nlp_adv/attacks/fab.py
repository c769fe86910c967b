"""FAB-T: the shortest δ to one wrong class after the other, by steps to a linearised boundary.

Croce and Hein, "Minimally distorted adversarial examples with a fast adaptive boundary attack",
ICML 2020, https://arxiv.org/abs/1907.02044, Algorithm 1, towards one class t as in their AutoAttack
(https://arxiv.org/abs/2003.01690). With f = z_t − z_y, d(z) the shortest step within the bounds
from z to the plane where f(x^i) + ⟨∇f(x^i), z + d − x^i⟩ = 0, η = 1.05 and β = 0.9:

    α = min( ‖d(x^i)‖ / (‖d(x^i)‖ + ‖d(x)‖), 0.1 )
    x^{i+1} = Π_box( (1 − α)·(x^i + η·d(x^i)) + α·(x + η·d(x)) )
    where that fools, it goes on from x + β·(x^{i+1} − x)

d(x) draws the steps towards the original: they slide along the boundary to where it is nearest. No
step depends on a radius or on how large the loss is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nlp_adv.attacks.attack import Attack
from nlp_adv.attacks.losses import RowLoss, likeliest_others, margin
from nlp_adv.attacks.region import Region, check_ball, finite_rows, norm_name, region_of
from nlp_adv.attacks.result import AttackResult
from nlp_adv.attacks.rows import Rows, column
from nlp_adv.attacks.trace import Trace
from nlp_adv.perturbation import Ball, Unit

_PULL = 0.1  # the largest α
_OVERSHOOT = 1.05  # η
_BACK = 0.9  # β


@dataclass(frozen=True)
class FABT(Attack):
    """The shortest δ that fools, sought towards the likeliest wrong classes; it counts in the ball.

        FABT(LInfBall(8 / 255), until_fooled=True)(model, x, y).success
        FABT(L2Ball(torch.inf))(model, x, y).norm(2)

    An example that is wrong without attack stays as it is. With a target there is one boundary,
    between it and the likeliest other class. The loss written down is the margin.

    Args:
        ball: `LInfBall`, `L2Ball` or `L1Ball`: in whose norm δ is short, and how long it may be, in
            the unit, one radius or one an example. Without a bound, on images in L∞ with a radius
            of 1, every success counts.
        steps: N, for each class.
        classes: how many wrong classes are tried; all where the model has fewer.
        random_start: begin in a random direction, half as far from x as the ball reaches.
        until_fooled: an example is done with the first δ in the ball that fools: as many successes
            for less. Without it all classes are tried on all examples, and the shortest δ is
            returned.
        seed: of random starts.
        unit: of the radius; see `PGD`.

    Deviations: on embeddings and layers nothing bounds a number, and where each token or module has
    a ball, the largest of their norms is what is made small. An example whose gradient is 0 or not
    finite stays where it is for that step. Where no δ in the ball was found to fool, the shortest
    one that fools, or else where the last step led, is brought into the ball, which may fool after
    all; the authors' code returns x. There is no last search on the line to x, as in their code.

    Cost: of each class N gradients and 2N forward passes; three forward passes beside, two where
    nothing is rounded to pictures.
    """

    ball: Ball
    steps: int = 100
    classes: int = 9
    random_start: bool = False
    until_fooled: bool = False
    seed: int = 0
    unit: Unit = "absolute"

    def __post_init__(self) -> None:
        check_ball(self.ball)
        if self.steps < 0 or self.classes < 1:
            raise ValueError("steps must be ≥ 0, and classes ≥ 1.")
        if self.random_start and not torch.isfinite(torch.as_tensor(self.ball.epsilon)).all():
            raise ValueError("A random start needs a finite radius; use random_start=False.")

    @property
    def name(self) -> str:
        """fab-t-linf, fab-t-l2 or fab-t-l1."""
        return f"fab-t-{norm_name(self.ball)}"

    def run(self, rows: Rows) -> AttackResult:
        """The attack on examples, in a quiet model."""
        trace = Trace(rows, margin)
        logits = trace.clean_logits()
        goals = likeliest_others(logits, rows.y)
        search = _Search(rows, ~rows.fooled(logits))
        for rank in range(1 if rows.towards else min(self.classes, goals.shape[1])):
            places = search.open.nonzero().squeeze(1)
            if not len(places):
                break
            self._walk(rows.rows(places), goals[places, rank], search, trace, places, rank)
        region = region_of(rows, self.ball, self.unit)
        inside = column(_inside(region, search.point), search.point)
        return trace.result(
            self.name, torch.where(inside, search.point, region.project(search.point))
        )

    def _walk(
        self, rows: Rows, goals: Tensor, search: _Search, trace: Trace, places: Tensor, rank: int
    ) -> None:
        """Algorithm 1 towards one class each, of the examples at some places."""
        region = region_of(rows, self.ball, self.unit)
        at = self._start(region, rank)
        for _ in range(self.steps):
            grad, values, logits = region.examples.gradient(at, _boundary(goals))
            here = region.examples
            trace.add(at, margin(logits, here.y, here.towards), grad, places)
            at = _step(region, at, grad, values)
            inside = _inside(region, at)
            at = torch.where(column(inside, at), region.project(at), at)
            trace.looked(places)
            with torch.no_grad():
                fooled = here.fooled(here.logits(at))
            search.look(places, at, _length(region, at - here.clean), fooled)
            back = here.clean + _BACK * (at - here.clean)
            at = torch.where(column(fooled, at), here.held(back), at)
            if self.until_fooled and (done := fooled & inside).any():
                search.open[places[done]] = False
                region, at = region.rows(~done), at[~done]
                goals, places = goals[~done], places[~done]
                if not len(places):
                    break

    def _start(self, region: Region, rank: int) -> Tensor:
        """x^0."""
        clean = region.examples.clean
        if not self.random_start:
            return clean
        far = region.surface(1000 * self.seed + rank)
        return region.examples.held((clean + far) / 2)


class _Search:
    """Which examples are still tried, and of each the shortest point that fooled, or the last."""

    def __init__(self, rows: Rows, right: Tensor) -> None:
        self.open, self.point = right.clone(), rows.clean.clone()
        self.length = torch.full_like(rows.clean.flatten(1)[:, 0], torch.inf)

    def look(self, places: Tensor, at: Tensor, length: Tensor, fooled: Tensor) -> None:
        """Points, and how far from the clean ones they are, (b,)."""
        before = self.length[places]
        shorter = fooled & (length < before)
        taken = column(shorter | torch.isinf(before), at)
        self.point[places] = torch.where(taken, at, self.point[places])
        self.length[places] = torch.where(shorter, length, before)


def _boundary(goals: Tensor) -> RowLoss:
    """f: above 0 beyond the boundary to the wrong class, or to the target."""

    def loss(logits: Tensor, labels: Tensor, towards: bool) -> Tensor:
        if towards:
            return margin(logits, labels, towards)
        each = logits.gather(1, torch.stack([goals, labels], 1))
        return each[:, 0] - each[:, 1]

    return loss


def _step(region: Region, at: Tensor, grad: Tensor, values: Tensor) -> Tensor:
    """x^{i+1}, of x^i."""
    clean = region.examples.clean
    value = column(values, at).to(at.dtype)
    away = grad * (clean - at)
    value_there = value + away.sum(dim=tuple(range(1, at.ndim)), keepdim=True)
    here, there = region.to_plane(at, grad, value), region.to_plane(clean, grad, value_there)
    own, other = (_length(region, one) for one in (here, there))
    pull = torch.where(own > 0, own / (own + other), 0.0).clamp_max(_PULL)
    mixed = torch.lerp(at + _OVERSHOOT * here, clean + _OVERSHOOT * there, column(pull, at))
    moved = region.examples.held(region.in_box(mixed))
    return torch.where(finite_rows(grad) & torch.isfinite(value), moved, at)


def _length(region: Region, delta: Tensor) -> Tensor:
    """How long it is in the unit, (b,): the largest part that has a norm of its own counts."""
    norm = region.ball.norm(delta)
    return torch.where(norm > 0, norm / region.unit, 0.0).flatten(1).amax(1)


def _inside(region: Region, at: Tensor) -> Tensor:
    """(b,): δ is no longer than the ball allows."""
    norm = region.ball.norm(at - region.examples.clean)
    return (norm <= region.ball.epsilon).flatten(1).all(1)
