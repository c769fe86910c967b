"""The smallest radius at which an attack in a ball still fools, found by halving.

For each example, r_low = 0 and r_high = the largest radius tried; where the attack fools at r_high,

    r = ½·(r_low + r_high);   r_high = ‖δ‖ where the attack fools at r, else r_low = r

and δ is the shortest that fooled. It bounds the distance to the nearest wrong answer from above, as
DeepFool does, and is as good as the attack: an example's robust radius is the smaller of the two.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nlp_adv.attacks.attack import Attack
from nlp_adv.attacks.losses import LOSSES
from nlp_adv.attacks.region import norm_name, region_of
from nlp_adv.attacks.result import AttackResult
from nlp_adv.attacks.rows import Rows, column
from nlp_adv.attacks.trace import Trace


@dataclass(frozen=True)
class Bisection(Attack):
    """The smallest δ by which an attack in a ball fools; no radius of its own.

        found = Bisection(PGD(L2Ball(1.0), 2.0, 20, unit="relative", shorten=True))(model, batch)
        found.norm(2)

    Args:
        attack: whose ball is the largest that is tried; its steps shrink with the radius.
        halvings: how many times the radius is halved or enlarged after the first try: it is known
            to within ε/2ⁿ then.

    Cost: at most 1 + `halvings` times the attack's.
    """

    attack: Any
    halvings: int = 7

    def __post_init__(self) -> None:
        if getattr(self.attack, "ball", None) is None:
            raise ValueError("Bisection needs an attack in a ball, such as PGD.")
        if self.halvings < 0 or not 0 < torch.as_tensor(self.attack.ball.epsilon).max() < torch.inf:
            raise ValueError("halvings must be ≥ 0, and the attack's radius finite and above 0.")

    @property
    def name(self) -> str:
        """Such as smallest-pgd-l2."""
        return f"smallest-{self.attack.name}"

    @property
    def norm(self) -> str:
        """In which δ is short: "linf", "l2" or "l1"."""
        return norm_name(self.attack.ball)

    def run(self, rows: Rows) -> AttackResult:
        """The attack on examples, in a quiet model."""
        attack = self._leaving()
        trace = Trace(rows, LOSSES[getattr(attack, "loss", "margin")])
        fooled = rows.fooled(trace.clean_logits())
        best = rows.clean.clone()
        like = rows.clean.flatten(1)[:, 0].double()
        low, high = torch.zeros_like(like), torch.where(fooled, 0.0, torch.ones_like(like))
        found, tried = fooled.clone(), torch.where(fooled, 0.0, 1.0).double()
        for _ in range(1 + self.halvings):
            places = (~fooled & (found | (low == 0))).nonzero().squeeze(1)
            if not len(places):
                break
            share = tried[places]
            stretch = column(share.to(rows.clean.dtype), rows.clean)
            some = replace(rows.rows(places), stretch=stretch)
            result = attack.run(some)
            trace.ran(result, places)
            length = share * self._length(result, some)
            hit = result.success & (length <= high[places])
            best[places[hit]] = _point(result, some)[hit]
            high[places] = torch.where(hit, length, high[places])
            low[places] = torch.where(result.success, low[places], share)
            found[places] |= result.success
            tried = (low + high) / 2
        return trace.result(self.name, best)

    def _leaving(self) -> Any:
        """The attack, done with an example at the first success."""
        fields = getattr(self.attack, "__dataclass_fields__", {})
        return replace(self.attack, until_fooled=True) if "until_fooled" in fields else self.attack

    def _length(self, result: AttackResult, some: Rows) -> Tensor:
        """‖δ‖ as a share of the radius that was tried, (b,): the largest token's counts."""
        region = region_of(some, self.attack.ball, self.attack.unit)
        share = region.ball.norm(result.delta) / region.ball.epsilon
        return share.flatten(1).amax(1).double().clamp_max(1.0)


def _point(result: AttackResult, rows: Rows) -> Tensor:
    """Where the attack ended, as it moves points."""
    return result.adv if rows.view.pictures else result.delta
