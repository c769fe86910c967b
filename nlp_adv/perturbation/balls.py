"""Balls {δ : ‖δ‖ ≤ ε}: the constraint set of every attack, as four verbs.

δ is (B, T, D) on word embeddings and (B, C, H, W) on pixels. The norm is taken over one *slice* of
δ at a time: everything that belongs to an example (`per="example"`), the D numbers of one token
(`per="token"`, embeddings only), or those of a segment of tokens (`per=Segments(…)`: where δ enters
several modules, each has a ball of its own). An ε of inf is no constraint: everything but `sample`
works.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from nlp_adv.perturbation.slices import (
    Per,
    Segments,
    check_per,
    draw,
    draw_slices,
    from_rows,
    row_values,
    slice_amax,
    slice_norm,
    slice_rows,
    slice_sum,
)


class Ball(Protocol):
    """{δ : ‖δ‖ ≤ ε}, one constraint per example, per token or per segment."""

    @property
    def epsilon(self) -> float | Tensor:
        """The radius, in the units of δ; a tensor broadcasts against `norm`."""
        ...

    @property
    def per(self) -> Per:
        """What one norm covers."""
        ...

    def norm(self, delta: Tensor) -> Tensor:
        """‖δ‖ of each slice, dimensions kept: (B, 1, 1) per example, else (B, T, 1)."""
        ...

    def project(self, delta: Tensor) -> Tensor:
        """Π(δ): the nearest point of the ball; a zero δ stays zero."""
        ...

    def steepest(self, grad: Tensor) -> Tensor:
        """argmax of ⟨v, g⟩ over ‖v‖ ≤ 1; 0 for a slice whose gradient is 0 or not finite."""
        ...

    def sample(self, mask: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Uniform in the ball over the coordinates where mask is 1; 0 where it is 0."""
        ...


@dataclass(frozen=True)
class L2Ball:
    """{δ : ‖δ‖₂ ≤ ε}.

    Args:
        epsilon: radius ε ≥ 0.
        per: what one norm covers, "example" or "token".
    """

    epsilon: float | Tensor
    per: Per = "example"

    def __post_init__(self) -> None:
        _check(self.epsilon, self.per)

    def norm(self, delta: Tensor) -> Tensor:
        """‖δ‖₂ of each slice."""
        return slice_norm(delta, self.per)

    def project(self, delta: Tensor) -> Tensor:
        """δ · min(1, ε/‖δ‖₂)."""
        norm = self.norm(delta)
        return delta * torch.where(norm > self.epsilon, self.epsilon / norm, 1.0)

    def steepest(self, grad: Tensor) -> Tensor:
        """g / ‖g‖₂."""
        direction = _peak_one(grad, self.per)
        # The largest coordinate is 1, so the norm is at least 1, and 0 only where g is 0.
        return direction / self.norm(direction).clamp_min(1.0)

    def sample(self, mask: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A Gaussian direction, and ε·U^(1/n) for the radius, n the number of free coordinates."""
        gauss = draw(mask, generator, Tensor.normal_) * mask
        free = slice_sum(mask, self.per)
        share = draw_slices(free, self.per, generator, Tensor.uniform_) ** (1 / free.clamp_min(1))
        radius = self.epsilon * share
        return gauss * (radius / self.norm(gauss).clamp_min(TINY))


@dataclass(frozen=True)
class LInfBall:
    """{δ : max|δᵢ| ≤ ε}.

    Args:
        epsilon: radius ε ≥ 0.
        per: accepted for uniformity; the set is the same, `norm` reports per slice.
    """

    epsilon: float | Tensor
    per: Per = "example"

    def __post_init__(self) -> None:
        _check(self.epsilon, self.per)

    def norm(self, delta: Tensor) -> Tensor:
        """max|δᵢ| of each slice."""
        return slice_amax(delta.abs(), self.per)

    def project(self, delta: Tensor) -> Tensor:
        """Each coordinate clamped to [−ε, ε]."""
        epsilon = torch.as_tensor(self.epsilon, dtype=delta.dtype, device=delta.device)
        return torch.clamp(delta, -epsilon, epsilon)

    def steepest(self, grad: Tensor) -> Tensor:
        """sign(g)."""
        return _peak_one(grad, self.per).sign()

    def sample(self, mask: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Each free coordinate uniform in [−ε, ε]."""
        return (2 * draw(mask, generator, Tensor.uniform_) - 1) * self.epsilon * mask


@dataclass(frozen=True)
class L1Ball:
    """{δ : Σ|δᵢ| ≤ ε}.

    Args:
        epsilon: radius ε ≥ 0.
        per: what one norm covers, "example" or "token".
    """

    epsilon: float | Tensor
    per: Per = "example"

    def __post_init__(self) -> None:
        _check(self.epsilon, self.per)

    def norm(self, delta: Tensor) -> Tensor:
        """Σ|δᵢ| of each slice."""
        return slice_sum(delta.abs(), self.per)

    def project(self, delta: Tensor) -> Tensor:
        """The nearest point: sign(δ)·max(|δ| − θ, 0), θ such that the result has norm ε.

        θ is found by sorting (Duchi et al., ICML 2008, Figure 1); scaling δ down would be feasible
        but not nearest, and would lose the sparsity.
        """
        epsilon = torch.as_tensor(self.epsilon, dtype=delta.dtype, device=delta.device)
        magnitudes = slice_rows(delta.abs(), self.per)
        radius = row_values(epsilon.expand_as(self.norm(delta)), self.per)
        ordered = magnitudes.sort(dim=-1, descending=True).values
        excess = ordered.cumsum(dim=-1) - radius
        count = torch.arange(1, ordered.shape[-1] + 1, device=delta.device, dtype=delta.dtype)
        kept = (ordered * count > excess).sum(dim=-1, keepdim=True).clamp_min(1)
        theta = excess.gather(-1, kept - 1) / kept
        shrunk = torch.where(excess[..., -1:] > 0, (magnitudes - theta).clamp_min(0), magnitudes)
        return from_rows(shrunk, delta, self.per) * delta.sign()

    def steepest(self, grad: Tensor) -> Tensor:
        """The sign of the gradient at its largest coordinate, 0 at all others: a sparse step."""
        direction = _peak_one(grad, self.per)
        rows = slice_rows(direction, self.per)
        largest = rows.abs().argmax(dim=-1, keepdim=True)
        step = torch.zeros_like(rows).scatter(-1, largest, rows.gather(-1, largest).sign())
        return from_rows(step, grad, self.per)

    def sample(self, mask: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """ε·sᵢEᵢ / (ΣEⱼ + E₀): exponential draws E, random signs s; E₀ gives the radius its law."""
        draws = draw(mask, generator, Tensor.exponential_) * mask
        total = slice_sum(draws, self.per)
        spare = draw_slices(total, self.per, generator, Tensor.exponential_)
        signs = draw(mask, generator, Tensor.uniform_).sub(0.5).sign()
        return self.epsilon * signs * draws / (total + spare).clamp_min(TINY)


@dataclass(frozen=True)
class WithinBox:
    """A ball met with a box low ≤ δ ≤ high, as pixels need: low = −x, high = 1 − x.

    The box must hold δ = 0; clamping then never lengthens δ, so the result is in both sets. It is
    the nearest such point for L∞; for L2 and L1 it is feasible, not nearest.

    Args:
        ball: the ball.
        low: lower bounds of δ, the shape of δ, ≤ 0.
        high: upper bounds of δ, the shape of δ, ≥ 0.
    """

    ball: Ball
    low: Tensor
    high: Tensor

    @property
    def epsilon(self) -> float | Tensor:
        """The ball's radius."""
        return self.ball.epsilon

    @property
    def per(self) -> Per:
        """What the ball's norm covers."""
        return self.ball.per

    def norm(self, delta: Tensor) -> Tensor:
        """The ball's norm."""
        return self.ball.norm(delta)

    def project(self, delta: Tensor) -> Tensor:
        """The ball's projection, then the clamp."""
        return torch.clamp(self.ball.project(delta), self.low, self.high)

    def steepest(self, grad: Tensor) -> Tensor:
        """The ball's steepest direction."""
        return self.ball.steepest(grad)

    def sample(self, mask: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The ball's sample, clamped."""
        return torch.clamp(self.ball.sample(mask, generator), self.low, self.high)


BALLS: dict[str, Callable[[float | Tensor, Per], Ball]] = {
    "l2": L2Ball,
    "linf": LInfBall,
    "l1": L1Ball,
}

TINY = 1e-30  # keeps 0/0 out of float32 where the numerator is 0 as well; never part of a radius


def _check(epsilon: float | Tensor, per: Per) -> None:
    if not isinstance(epsilon, Tensor) and (math.isnan(epsilon) or epsilon < 0):
        raise ValueError(f"epsilon must be a number ≥ 0, or inf for no bound, not {epsilon}.")
    check_per(per)


def _peak_one(grad: Tensor, per: Per) -> Tensor:
    """g scaled so that the largest |gᵢ| of a slice is 1; 0 where g is 0 or not finite.

    A confident model's gradients can be so small that their squares underflow; the direction is
    still there. One pass over g also finds the slices that hold an inf or a nan.
    """
    peak = slice_amax(grad.abs(), per)
    return torch.where(torch.isfinite(peak) & (peak > 0), grad / peak, 0.0)


def segmented(ball: Ball, segments: Segments) -> Ball:
    """The same ball around each segment, where it was one around an example."""
    if isinstance(ball, WithinBox):
        return replace(ball, ball=segmented(ball.ball, segments))
    return cast(Ball, replace(cast(Any, ball), per=segments)) if ball.per == "example" else ball
