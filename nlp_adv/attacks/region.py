"""Where an attack may take an example: a ball about it, met with what else bounds it.

A `PixelRegion`'s points are the pixels x′: clamping δ and then adding it to x would break the last
bit of the box and of an L∞ ball. A `DeltaRegion`'s points are δ, on embeddings and layers. Attacks
see neither; they ask the region.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from nlp_adv.attacks.hyperplane import bounded_step, free_step
from nlp_adv.attacks.rows import Rows
from nlp_adv.errors import UserError
from nlp_adv.perturbation import Ball, L1Ball, LInfBall, Segments, Unit, WithinBox, unit_length
from nlp_adv.perturbation.balls import TINY

_SHRINK = 0.999999  # tanh never reaches 0 or 1: pixels that are would have w = ±∞, and never move


@dataclass(frozen=True)
class Region(ABC):
    """The points that an attack may use, example by example.

    Attributes:
        examples: whose they are.
        ball: its radius beside the examples, in their type; see `ball_for`.
        unit: how long the attack's unit is, 1.0 or (b, 1, …).
    """

    examples: Rows
    ball: Ball
    unit: Tensor | float

    @abstractmethod
    def project(self, point: Tensor) -> Tensor:
        """Into the ball and the bounds: the nearest point for L∞, a feasible one else."""

    @abstractmethod
    def in_ball(self, point: Tensor) -> Tensor:
        """Into the ball alone."""

    @abstractmethod
    def in_box(self, point: Tensor) -> Tensor:
        """Into the bounds alone."""

    @abstractmethod
    def moved(self, delta: Tensor) -> Tensor:
        """The point δ away from the clean one, within the bounds to the last bit."""

    @abstractmethod
    def to_plane(self, point: Tensor, normal: Tensor, value: Tensor) -> Tensor:
        """The shortest step, within the bounds, to where f + ⟨w, step⟩ = 0; see `hyperplane`.

        Args:
            point: from where, (b, …).
            normal: w, (b, …), 0 where the point may not move.
            value: f, (b, 1, …).
        """

    @abstractmethod
    def start(self, seed: int) -> Tensor:
        """A point uniform in the ball, drawn from the example and the seed alone."""

    @abstractmethod
    def surface(self, seed: int) -> Tensor:
        """A point in a random direction, as far from the clean one as the ball reaches."""

    @abstractmethod
    def free_variable(self) -> Tensor:
        """w of the clean point, for `at_variable`: it has no bounds."""

    @abstractmethod
    def at_variable(self, w: Tensor) -> tuple[Tensor, Tensor | float]:
        """The point of w, and ∂point/∂w in units of `scale`, number by number."""

    @property
    @abstractmethod
    def scale(self) -> Tensor | float:
        """How large the numbers of an example usually are: 1 for pixels, else their rms."""

    @abstractmethod
    def rows(self, kept: Tensor) -> Region:
        """That of some of the examples; `kept` is a mask or indices."""

    def direction(self, grad: Tensor, point: Tensor) -> Tensor:
        """The gradient that a step from the point goes by."""
        return grad

    def step(self, point: Tensor, direction: Tensor, length: Tensor | float) -> Tensor:
        """One projected step of that length along the ball's steepest direction."""
        return self.project(point + length * self.ball.steepest(direction))

    def length(self, step_size: float) -> Tensor | float:
        """A step in the attack's unit, as the point measures it."""
        return step_size * self.unit

    def streams(self, seed: int, device: torch.device | str = "cpu") -> list[torch.Generator]:
        """Random numbers of each example's own, which begin with its content and the seed."""
        found = []
        for content in self.examples.view.contents():
            digest = hashlib.blake2b(content, digest_size=7, salt=str(seed).encode()[:16]).digest()
            found.append(torch.Generator(device).manual_seed(int.from_bytes(digest, "big")))
        return found

    def _check_finite(self) -> None:
        if not torch.isfinite(torch.as_tensor(self.ball.epsilon)).all():
            raise UserError("A random start needs a finite radius; use random_start=False.")

    def _drawn(self, seed: int) -> Tensor:
        """A δ uniform in the unit ball for each example, drawn from what it consists of."""
        unit = with_epsilon(self.ball, 1.0)
        drawn, masks = [], self.examples.mask
        for place, generator in enumerate(self.streams(seed, masks.device)):
            own = rows_of(unit, torch.tensor([place]))
            drawn.append(self._sample(own, masks[place], generator))
        return torch.cat(drawn)

    def _sample(self, unit: Ball, mask: Tensor, generator: torch.Generator) -> Tensor:
        return unit.sample(mask[None], generator)


@dataclass(frozen=True)
class PixelRegion(Region):
    """{x′ : ‖x′ − x‖ ≤ ε, 0 ≤ x′ ≤ 1}, and x′ = x where a pixel may not change.

    It is `WithinBox` written for x′ instead of δ, so that rounding x + δ takes no pixel out of the
    box or of an L∞ ball; the bounds are found once, not at every step.

    Attributes:
        low, high: of x′, the shape of x; of an L∞ ball they are the whole region.
    """

    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, examples: Rows, ball: Ball, unit: Unit = "absolute") -> PixelRegion:
        """That of a batch.

        Raises:
            UserError: a radius that is none in pixels of [0, 1], or another unit.
        """
        check_pixel_ball(ball)
        if unit != "absolute":
            raise UserError(f'A radius on images is in pixels, unit="absolute", not {unit!r}.')
        x = examples.clean
        stretch = examples.stretch
        ball = ball_for(ball, x, stretch)
        low, high = torch.zeros_like(x), torch.ones_like(x)
        if isinstance(ball, LInfBall):
            low = _within(x - ball.epsilon, x, ball).clamp_min(0)
            high = _within(x + ball.epsilon, x, ball).clamp_max(1)
        return cls(examples, ball, stretch, examples.held(low), examples.held(high))

    def project(self, point: Tensor) -> Tensor:
        """The ball's projection, then the clamp."""
        if not isinstance(self.ball, LInfBall):
            point = self.in_ball(point)
        return torch.clamp(point, self.low, self.high)

    def in_ball(self, point: Tensor) -> Tensor:
        """x + Π(x′ − x)."""
        return self.examples.clean + self.ball.project(point - self.examples.clean)

    def in_box(self, point: Tensor) -> Tensor:
        """Clamped to [0, 1]."""
        return point.clamp(0, 1)

    def moved(self, delta: Tensor) -> Tensor:
        """x + δ in [0, 1], and in an L∞ ball to the last bit."""
        x = self.examples.clean
        point = self.examples.held((x + delta).clamp(0, 1))
        if isinstance(self.ball, LInfBall):
            point = _within(point, x, self.ball)
        return point

    def to_plane(self, point: Tensor, normal: Tensor, value: Tensor) -> Tensor:
        """No pixel leaves [0, 1]."""
        room = torch.where(value * normal < 0, 1 - point, point)
        return bounded_step(self.ball, normal, value, room)

    def start(self, seed: int) -> Tensor:
        """x + δ, δ uniform in the ball and clamped to the box."""
        self._check_finite()
        delta = self._boxed(self.ball).project(self.ball.epsilon * self._drawn(seed))
        return self.project(self.examples.clean + delta)

    def surface(self, seed: int) -> Tensor:
        """x + ε·s/‖s‖, s uniform in the ball, clamped to the box."""
        inside = self._boxed(with_epsilon(self.ball, 1.0)).project(self._drawn(seed))
        delta = _lengthened(inside, self.ball)
        return self.moved(self._boxed(self.ball).project(delta))

    def free_variable(self) -> Tensor:
        """w = atanh(2x − 1)."""
        return torch.atanh((2 * self.examples.clean - 1) * _SHRINK)

    def at_variable(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """x′ = ½·(tanh w + 1)."""
        tanh = w.tanh()
        return self.examples.held((tanh + 1) / 2), (1 - tanh.square()) / 2

    @property
    def scale(self) -> float:
        """Pixels are in [0, 1]."""
        return 1.0

    def direction(self, grad: Tensor, point: Tensor) -> Tensor:
        """In L1 without what the box holds fast: few pixels move, and those would in vain."""
        if not isinstance(self.ball, L1Ball):
            return grad
        held = ((point >= 1) & (grad > 0)) | ((point <= 0) & (grad < 0))
        return torch.where(held, 0.0, grad)

    def rows(self, kept: Tensor) -> PixelRegion:
        """That of some of the images."""
        return PixelRegion(
            self.examples.rows(kept),
            rows_of(self.ball, kept),
            self.unit[kept] if isinstance(self.unit, Tensor) else self.unit,
            self.low[kept],
            self.high[kept],
        )

    def _boxed(self, ball: Ball) -> WithinBox:
        """The ball met with 0 ≤ x + δ ≤ 1, and δ = 0 where a pixel may not change."""
        x, mask = self.examples.clean, self.examples.mask
        return WithinBox(ball, -x * mask, (1 - x) * mask)


@dataclass(frozen=True)
class DeltaRegion(Region):
    """{δ : ‖δ‖ ≤ ε}, and δ = 0 where nothing may move."""

    @classmethod
    def of(cls, examples: Rows, ball: Ball, unit: Unit = "absolute") -> DeltaRegion:
        """That of a batch: each example's radius is ε of its own units."""
        length = length_of(examples, ball, unit) * examples.stretch
        ball = examples.view.within(ball)
        return cls(examples, ball_for(ball, examples.clean, length), length)

    def project(self, point: Tensor) -> Tensor:
        """Π(δ)."""
        return self.ball.project(point)

    def in_ball(self, point: Tensor) -> Tensor:
        """Π(δ)."""
        return self.ball.project(point)

    def in_box(self, point: Tensor) -> Tensor:
        """δ itself: nothing bounds it."""
        return point

    def moved(self, delta: Tensor) -> Tensor:
        """δ, where it may move."""
        return self.examples.held(delta)

    def to_plane(self, point: Tensor, normal: Tensor, value: Tensor) -> Tensor:
        """Wherever it leads."""
        return free_step(self.ball, self.unit, normal, value)

    def start(self, seed: int) -> Tensor:
        """δ uniform in the ball."""
        self._check_finite()
        return self.project(self.ball.epsilon * self._drawn(seed))

    def surface(self, seed: int) -> Tensor:
        """ε·s/‖s‖, s uniform in the ball; a padded token stays 0."""
        return self.project(_lengthened(self._drawn(seed), self.ball))

    def free_variable(self) -> Tensor:
        """w = δ in units of the scale, from 0."""
        return self.examples.clean

    def at_variable(self, w: Tensor) -> tuple[Tensor, float]:
        """δ = w·scale."""
        return self.examples.held(w * self.scale), 1.0

    @property
    def scale(self) -> Tensor:
        """The root mean square of what may move in each example, (b, 1, …)."""
        mask = self.examples.mask
        dims = tuple(range(1, mask.ndim))
        x = self.examples.view.x.to(mask.dtype) * mask
        free = mask.sum(dim=dims, keepdim=True).clamp_min(1)
        return ((x * x).sum(dim=dims, keepdim=True) / free).sqrt().clamp_min(TINY)

    def rows(self, kept: Tensor) -> DeltaRegion:
        """That of some of the examples."""
        unit = self.unit[kept] if isinstance(self.unit, Tensor) else self.unit
        return DeltaRegion(self.examples.rows(kept), rows_of(self.ball, kept), unit)

    def _sample(self, unit: Ball, mask: Tensor, generator: torch.Generator) -> Tensor:
        """Drawn for the tokens that may move alone, so that padding shifts no number."""
        delta = torch.zeros_like(mask[None])
        free = mask.flatten(1).amax(1) > 0 if mask.ndim > 1 else mask > 0
        if isinstance(unit.per, Segments):
            own = Segments(unit.per.index[:1, free], unit.per.count)
            unit = replace(unit, per=own)  # type: ignore[type-var]
        if free.any():
            delta[:, free] = unit.sample(mask[None, free], generator)
        return delta


def region_of(examples: Rows, ball: Ball, unit: Unit = "absolute") -> Region:
    """Where an attack with this ball may take some examples.

    Raises:
        UserError: the ball is none for them.
    """
    kind = PixelRegion if examples.view.pictures else DeltaRegion
    return kind.of(examples, ball, unit)


def length_of(examples: Rows, ball: Ball, unit: Unit) -> Tensor | float:
    """How long the unit is for each example, 1.0 or (b, 1, …)."""
    view = examples.view
    minibatch: Any = SimpleNamespace(x=view.x, mask=examples.mask, within=view.within)
    return unit_length(minibatch, ball, unit)


def ball_for(ball: Ball, like: Tensor, length: Tensor | float = 1.0) -> Ball:
    """The ball with its radius beside the examples, in their type, shaped to broadcast.

    It is rounded down, so that no rounding lets an example out of the ball that was asked for; and
    no step has to wait for it to reach the device.

    Args:
        ball: with a radius, or one an example (b,), in units.
        like: the examples, (b, …).
        length: of a unit, 1.0 or (b, 1, …).

    Raises:
        UserError: there are not as many radii as examples.
    """
    asked = torch.as_tensor(ball.epsilon, dtype=torch.float64, device=like.device)
    if asked.ndim > 0:
        if asked.numel() != len(like):
            raise UserError(f"There are {asked.numel()} radii for {len(like)} examples.")
        asked = asked.reshape(-1, *[1] * (like.ndim - 1))
    asked = asked * (length.double() if isinstance(length, Tensor) else length)
    nearest = asked.to(like.dtype)
    below = torch.nextafter(nearest, torch.zeros_like(nearest))
    return with_epsilon(ball, torch.where(nearest.double() > asked, below, nearest))


def with_epsilon(ball: Ball, epsilon: float | Tensor) -> Ball:
    """The ball with another radius."""
    changed: Ball = replace(ball, epsilon=epsilon)  # type: ignore[type-var]
    return changed


def norm_name(ball: Ball) -> str:
    """Of its norm: "linf", "l2" or "l1"."""
    kinds = [kind.__name__ for kind in type(ball).__mro__ if kind.__name__ in _NORMS]
    return _NORMS[kinds[0]]


_NORMS = {"LInfBall": "linf", "L2Ball": "l2", "L1Ball": "l1"}


def rows_of(ball: Ball, kept: Tensor) -> Ball:
    """The ball of some of the examples, where each has a radius of its own."""
    epsilon = ball.epsilon
    if isinstance(epsilon, Tensor) and epsilon.ndim > 0 and len(epsilon) > 1:
        ball = with_epsilon(ball, epsilon[kept])
    if isinstance(ball.per, Segments):
        ball = replace(ball, per=ball.per[kept])  # type: ignore[type-var]
    free = getattr(ball, "free", None)
    return ball if free is None else replace(ball, free=free[kept])  # type: ignore[type-var]


def finite_rows(grad: Tensor) -> Tensor:
    """(b, 1, …): no number of an example's gradient is nan or inf; others must not step on it."""
    peak = grad.abs().amax(dim=tuple(range(1, grad.ndim)), keepdim=True)
    return torch.isfinite(peak)


def check_ball(ball: Ball) -> None:
    """Refuse what is no ball with radii ≥ 0."""
    if not any(kind.__name__ in _NORMS for kind in type(ball).__mro__):
        raise ValueError("Attacks need an LInfBall, L2Ball or L1Ball.")
    if not (torch.as_tensor(ball.epsilon) >= 0).all():
        raise ValueError(f"Radii must be numbers ≥ 0, not {ball.epsilon}.")


def check_pixel_ball(ball: Ball) -> None:
    """Refuse a radius that is none in pixels of [0, 1]."""
    check_ball(ball)
    if ball.per != "example":
        raise UserError("Images need a ball with one norm per example.")
    radius = torch.as_tensor(ball.epsilon)
    if isinstance(ball, LInfBall) and radius.max() > 1:
        raise UserError(
            f"An L∞ radius is in pixels of [0, 1], and {ball.epsilon} is more than all of them; "
            f"for grey levels write {ball.epsilon}/255."
        )


def _lengthened(inside: Tensor, ball: Ball) -> Tensor:
    norm = ball.norm(inside)
    return torch.where(norm > 0, inside * ball.epsilon / norm, 0.0)


def _within(bound: Tensor, x: Tensor, ball: Ball) -> Tensor:
    """The bound, or the number next to it towards x where rounding put it outside the ball."""
    outside = (bound.double() - x.double()).abs() > torch.as_tensor(ball.epsilon).double()
    return torch.where(outside, torch.nextafter(bound, x), bound)
