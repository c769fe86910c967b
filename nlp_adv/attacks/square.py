"""Square: a random search that asks for logits and never for a gradient.

Andriushchenko, Croce, Flammarion and Hein, "Square Attack: a query-efficient black-box adversarial
attack via random search", ECCV 2020, https://arxiv.org/abs/1912.00049, Algorithms 1 to 3. δ always
lies on the surface of the ball. It begins as stripes (L2: tiles) of random signs; then, in each of
N queries, one random window W with a share p of the numbers is proposed anew, and kept if the
margin rises:

    L∞:  δ_W = ±ε, one sign a channel
    L2:  with the mass of another window W′:   ν = ±η/‖η‖ + δ_W/‖δ_W‖,   δ_W′ = 0,
         δ_W = ν/‖ν‖ · √(‖δ_{W∪W′}‖² + (ε² − ‖δ‖²)/c)       for each of c channels

η is a mound beside a pit.
p is halved after 0.1, 0.5, 2, 5, 10, 20, 40, 60 and 80 % of the queries. A gradient that is masked,
or that an attack in steps gets lost along, does not matter here: where Square fools what others do
not, their gradients are no good.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nlp_adv.attacks.attack import Attack
from nlp_adv.attacks.losses import margin
from nlp_adv.attacks.region import Region, check_ball, norm_name, region_of
from nlp_adv.attacks.result import AttackResult
from nlp_adv.attacks.rows import Rows, Standing
from nlp_adv.attacks.trace import Trace
from nlp_adv.attacks.windows import Proposal, Windows, windows_of
from nlp_adv.perturbation import Ball, L1Ball, Unit

_HALVED = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)  # shares of the queries


@dataclass(frozen=True)
class Square(Attack):
    """Random windows of ±ε, kept where the margin rises; black box.

        result = Square(LInfBall(8 / 255), queries=1000)(model, x, y)

    An example leaves with the first point that fools the model. It works on functions that cannot
    be differentiated.

    Args:
        ball: `LInfBall` or `L2Ball`, its radius in the unit, one or one an example.
        queries: N.
        share: p at first.
        seed: of the search. Each example draws from its own stream, which begins with what it
            consists of: neither the batch nor its order changes what is proposed.
        unit: of the radius; see `PGD`.

    Deviations: on embeddings and layers there are no squares. There a window is a run of tokens,
    among those that may move, as long as a share p of them, with one random sign a dimension; and
    where p asks for less than one token, a share of its dimensions drawn at random. In L2 that is
    one channel, whose η is 1, and each ball of a token or a module keeps its own mass. The margin
    is climbed towards a target too, where the paper takes the cross entropy. A window that changes
    nothing costs a query, as in the authors' later code.

    Cost: at most N + 1 forward passes, on the examples that are not fooled yet, and three to say
    what came of it, two where nothing is rounded to pictures; no gradient.
    """

    ball: Ball
    queries: int = 5000
    share: float = 0.8
    seed: int = 0
    unit: Unit = "absolute"

    def __post_init__(self) -> None:
        check_ball(self.ball)
        if isinstance(self.ball, L1Ball):
            raise ValueError("Square searches L∞ and L2 balls; in an L1 ball use PGD.")
        if not torch.isfinite(torch.as_tensor(self.ball.epsilon)).all():
            raise ValueError("Square searches the surface of the ball and needs a finite ε.")
        if self.queries < 0 or not 0 < self.share <= 1:
            raise ValueError("queries must be ≥ 0, and share above 0 and at most 1.")

    @property
    def name(self) -> str:
        """square-linf or square-l2."""
        return f"square-{norm_name(self.ball)}"

    def run(self, rows: Rows) -> AttackResult:
        """The attack on examples, in a quiet model."""
        trace, standing = Trace(rows, margin), Standing(rows)
        trace.begin()
        region = region_of(rows, self.ball, self.unit)
        windows = windows_of(region, self.seed)
        at = proposed = _start(region, windows)
        best = torch.full_like(rows.clean.flatten(1)[:, 0], -torch.inf)
        for query in range(self.queries + 1):
            if query > 0:
                proposal = windows.propose(self._share(query), flat=_flat(region))
                proposed = _replaced(region, windows, at, proposal)
            with torch.no_grad():
                logits = standing.rows.logits(proposed)
            trace.looked(standing.index)
            losses = margin(logits, standing.rows.y, standing.rows.towards)
            rises = losses > best
            best = torch.where(rises, losses.to(best.dtype), best)
            at = torch.where(rises.view(-1, *[1] * (at.ndim - 1)), proposed, at)
            stays = standing.leave(proposed, standing.rows.fooled(logits))
            if stays is not None:
                region, windows = region.rows(stays), windows.rows(stays)
                at, best = at[stays], best[stays]
                if not len(standing):
                    break
        return trace.result(self.name, standing.end(at))

    def _share(self, query: int) -> float:
        """p at a query, the first being 1."""
        done = (query - 1) / self.queries
        return self.share / (1 << sum(done > mark for mark in _HALVED))


def _flat(region: Region) -> bool:
    """In L∞ a window has one value; in L2 it has a profile."""
    return norm_name(region.ball) == "linf"


def _start(region: Region, windows: Windows) -> Tensor:
    """Stripes or tiles of random signs, as long as the ball reaches."""
    signs = windows.start(flat=_flat(region))
    if not _flat(region):
        norm = region.ball.norm(signs)
        signs = torch.where(norm > 0, signs / norm, 0.0)
    return region.project(region.moved(region.ball.epsilon * signs))


def _replaced(region: Region, windows: Windows, at: Tensor, new: Proposal) -> Tensor:
    """The point with a window proposed anew."""
    if _flat(region):
        corner = region.project(region.moved(region.ball.epsilon * new.signs))
        return torch.where(new.inside, corner, at)
    free = region.examples.mask
    delta = (at - region.examples.clean) * free
    old = windows.norm(delta * new.inside)
    along = new.signs * free
    length = windows.norm(along)
    along = torch.where(length > 0, along / length, 0.0)
    along = along + torch.where(old > 0, delta * new.inside / old, 0.0)
    touched = windows.norm(along) > 0
    both = new.inside | (new.beside & touched)
    unused = (region.ball.epsilon**2 - region.ball.norm(delta) ** 2).clamp_min(0)
    mass = (windows.norm(delta * both) ** 2 + unused / windows.channels).sqrt()
    fresh = torch.where(touched, along * mass / windows.norm(along), 0.0)
    return region.project(region.moved(torch.where(both, 0.0, delta) + fresh))
