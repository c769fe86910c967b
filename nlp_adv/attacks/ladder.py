"""An attack at growing radii, for little more than one of them, and all that it left behind.

* One step (`FGM`, `FGSM`) has one direction for all radii: one gradient, and exactly what separate
  attacks find. An example may be fooled at a radius and not at a larger one.
* Other attacks in a ball go from the smallest radius up, and an example that is fooled is not tried
  at a larger one, whose ball holds the same δ. The step grows with the radius: α·ε/ε₀, α and ε₀ the
  attack's own.
* An attack without a radius, which seeks the smallest δ, is run once: an example counts as fooled
  at ε where its δ is no longer than ε.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nlp_adv.attacks.attack import Attack
from nlp_adv.attacks.fgsm import FGM, FGSM
from nlp_adv.attacks.measured import Measured
from nlp_adv.attacks.measured_several import MeasuredSeveral
from nlp_adv.attacks.region import length_of, norm_name, with_epsilon
from nlp_adv.attacks.result import AttackResult
from nlp_adv.attacks.rows import NoGradientError, Rows
from nlp_adv.errors import UserError
from nlp_adv.perturbation import BALLS, Ball, Per, Unit
from nlp_adv.perturbation.evaluating import answers
from nlp_adv.sites.taps import NoGraphError

_NORMS = ("l2", "linf", "l1")
_ROUNDING = 1e-6  # by which a δ that was made to be as long as ε may be longer


@dataclass(frozen=True)
class Ladder:
    """An attack at some radii, from one start or several.

    Args:
        starts: the attack, once for each start: an example leaves with the first that fools.
        epsilons: radii in the attack's unit, in any order; the attack's own without. Of an attack
            that has none and no radius is asked for, every success counts.
        name: in tables and records, without the radius; the attack's own without.

    Raises:
        ValueError: no start, or a radius that is none.
    """

    starts: tuple[Attack, ...]
    epsilons: Sequence[float] = ()
    name: str = ""

    def __post_init__(self) -> None:
        if not self.starts:
            raise ValueError("An attack needs at least one start.")
        if isinstance(self.epsilons, int | float):
            raise ValueError(f"epsilons are several radii; write ({self.epsilons:g},) for one.")
        object.__setattr__(self, "epsilons", tuple(self.epsilons))
        if not all(0 <= epsilon < math.inf for epsilon in self.epsilons):
            raise ValueError("All radii must be finite and ≥ 0.")
        object.__setattr__(self, "name", self.name or self.starts[0].name)

    @property
    def attack(self) -> Any:
        """The attack from its first start."""
        return self.starts[0]

    @property
    def ball(self) -> Ball | None:
        """Of the attack; None of one that seeks the smallest δ."""
        return getattr(self.attack, "ball", None)

    @property
    def unit(self) -> Unit:
        """What a radius is measured in."""
        unit: Unit = getattr(self.attack, "unit", "absolute")
        return unit

    @property
    def per(self) -> Per:
        """What one norm covers."""
        per: Per = "example" if self.ball is None else self.ball.per
        return per

    def unit_on(self, rows: Rows) -> Unit:
        """The same of an attack without a radius: pixels in theirs, all else relative."""
        if self.ball is not None:
            return self.unit
        return "absolute" if rows.view.pictures else "relative"

    @property
    def norm(self) -> str:
        """In which δ is measured."""
        return norm_name(self.ball) if self.ball is not None else getattr(self.attack, "norm", "l2")

    @property
    def radii(self) -> tuple[float | None, ...]:
        """From the smallest up; None where none was asked for and the attack has none."""
        if self.epsilons:
            return tuple(sorted({float(epsilon) for epsilon in self.epsilons}))
        return (None,) if self.ball is None else (radius_of(self.ball),)

    def run(self, rows: Rows, *, target: int | None = None) -> Measured:
        """Attack what the model has right.

        Args:
            rows: examples with their right classes, in a quiet model.
            target: the class to lead them to; None for any wrong answer.
        """
        rows = rows.look()
        assert rows.looked is not None
        if rows.view.several and self.ball is None:
            raise UserError(
                f"{self.name} seeks the smallest δ that changes one answer; examples with several "
                f"answers need an attack in a ball, such as PGD or APGD."
            )
        right = answers(rows.looked) == rows.y
        kind = MeasuredSeveral if rows.view.several else Measured
        found = kind.of(self, rows, self._lengths(rows), right)
        live = right.nonzero().flatten()
        if not len(live):
            return found
        chosen = rows.rows(live)
        chosen = chosen if target is None else chosen.towards_class(target)
        try:
            if isinstance(self.attack, FGM | FGSM):
                self._from_one_gradient(chosen, live, found)
            elif self.ball is None:
                self._by_length(chosen, live, found)
            else:
                self._ascending(chosen, live, found)
        except (NoGradientError, NoGraphError):  # nothing was climbed, and the record says so
            found.blind(live)
        return found

    def _lengths(self, rows: Rows) -> dict[str, Tensor]:
        """How long, in absolute terms, some lengths are in each example, (N,); see `Measured`."""
        own = BALLS[self.norm](1.0, "example") if self.ball is None else self.ball
        unit = self.unit_on(rows)
        ones = torch.ones_like(rows.clean.flatten(1)[:, 0])

        def lengths(ball: Ball, unit: Unit) -> Tensor:
            own = torch.as_tensor(length_of(rows, ball, unit))
            return (ones[:, None] * own.flatten(1)).amax(1) if own.ndim else ones * own

        return {
            "unit_lengths": lengths(own, unit),
            "relative_lengths": lengths(own, "relative"),
            "erasing_lengths": rows.view.erasing(rows, own),
            "units": torch.stack([lengths(BALLS[n](1.0, "example"), unit) for n in _NORMS], 1),
        }

    def _from_one_gradient(self, rows: Rows, live: Tensor, found: Measured) -> None:
        radii = [radius for radius in self.radii if radius is not None]
        for place, result in enumerate(self.attack.sweep(rows, radii)):
            found.write(place, live, result)
            if place > 0:  # the gradient is the first radius's
                before = found.forwards[live, place - 1] - 1
                found.forwards[live, place] += before - result.gradient_passes

    def _by_length(self, rows: Rows, live: Tensor, found: Measured) -> None:
        result = self.attack.run(rows)
        found.write(0, live, result)
        length = _norm(result.delta, self.norm) / found.unit_lengths[live]
        needed = torch.where(result.success, length, torch.inf)
        for place, radius in enumerate(self.radii):
            reach = math.inf if radius is None else radius * (1 + _ROUNDING)
            # Where δ is longer than the ball, what was found is no answer at this radius.
            found.carry(0, place, live, needed <= reach)

    def _ascending(self, rows: Rows, live: Tensor, found: Measured) -> None:
        places = torch.arange(len(live), device=live.device)
        for place, radius in enumerate(self.radii):
            assert radius is not None
            if place > 0:
                found.carry(place - 1, place, live)
            for start in self.starts:
                if not len(places):
                    break
                attack = at_radius(start, radius, leaving=len(self.radii) > 1)
                result = attack.run(rows.rows(places))
                found.write(place, live[places], result)
                places = places[~result.success]


def ladder(
    attack: Attack, epsilons: Sequence[float] = (), *, restarts: int = 1, name: str = ""
) -> Ladder:
    """An attack at some radii, from so many starts.

    The starts of an attack that begins at random have the seeds seed, seed + 1, …; of one that may
    and does not, the first is the clean point and the others are random; any other attack is run
    once.

    Args:
        attack: the attack.
        epsilons: see `Ladder`.
        restarts: so many starts.
        name: see `Ladder`.

    Raises:
        ValueError: fewer than one start.
    """
    if restarts < 1:
        raise ValueError(f"restarts is {restarts}; an attack needs at least one start.")
    return Ladder(tuple(_starts(attack, restarts)), epsilons, name)


def _starts(attack: Any, restarts: int) -> list[Attack]:
    if not _has(attack, "seed") or restarts == 1:
        return [attack]
    if not _has(attack, "random_start") or attack.random_start:
        return [replace(attack, seed=attack.seed + number) for number in range(restarts)]
    random = replace(attack, random_start=True)
    others = [replace(random, seed=attack.seed + number) for number in range(restarts - 1)]
    return [attack, *others]


def at_radius(attack: Any, epsilon: float, *, leaving: bool = False) -> Attack:
    """The attack at another radius, its step in proportion.

    Args:
        attack: in a ball.
        epsilon: the radius.
        leaving: whether an example is done with its first success, where the attack can.

    Raises:
        ValueError: the radius is none, or the attack has a step and no radius to measure it by.
    """
    own = radius_of(attack.ball)
    changes: dict[str, Any] = {}
    if epsilon != own:
        if isinstance(attack, FGSM):
            changes["epsilon"] = epsilon
        else:
            changes["ball"] = with_epsilon(attack.ball, epsilon)
        if _has(attack, "step_size"):
            if own == 0 and epsilon > 0:
                raise ValueError("The attack's own radius is 0: there is no step to enlarge.")
            changes["step_size"] = attack.step_size * epsilon / own if own else 0.0
    if leaving and _has(attack, "until_fooled"):
        changes["until_fooled"] = True
    changed: Attack = replace(attack, **changes) if changes else attack
    return changed


def radius_of(ball: Ball) -> float:
    """ε; the largest of several."""
    return float(torch.as_tensor(ball.epsilon, dtype=torch.float64).max())


def _has(attack: Any, name: str) -> bool:
    return is_dataclass(attack) and any(field.name == name for field in fields(attack))


def _norm(delta: Tensor, norm: str) -> Tensor:
    """(b,)."""
    return BALLS[norm](1.0, "example").norm(delta).flatten()


__all__ = ["AttackResult", "Ladder", "at_radius", "ladder", "radius_of"]
