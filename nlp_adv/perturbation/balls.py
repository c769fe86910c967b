"""Balls {δ : ‖δ‖ ≤ ε}: the constraint set of every attack, as four verbs.

δ is (B, T, D) on word embeddings and (B, C, H, W) on pixels. The norm is taken over one *slice* of
δ at a time: everything that belongs to an example (`per="example"`), or the D numbers of one token
(`per="token"`, embeddings only). An ε of inf is no constraint: everything but `sample` works.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

Per = Literal["example", "token"]


class Ball(Protocol):
    """{δ : ‖δ‖ ≤ ε}, one constraint per example or per token."""

    @property
    def epsilon(self) -> float | Tensor:
        """The radius, in the units of δ; a tensor broadcasts against `norm`."""
        ...

    @property
    def per(self) -> Per:
        """What one norm covers."""
        ...

    def norm(self, delta: Tensor) -> Tensor:
        """‖δ‖ of each slice, dimensions kept: (B, 1, 1) per example, (B, T, 1) per token."""
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
        dims = _slice_dims(delta, self.per)
        norm: Tensor = torch.linalg.vector_norm(delta, dim=dims, keepdim=True)
        return norm

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
        gauss = _draw(mask, generator, Tensor.normal_) * mask
        free = _slice_sum(mask, self.per)
        radius = self.epsilon * _draw(free, generator, Tensor.uniform_) ** (1 / free.clamp_min(1))
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
        return delta.abs().amax(dim=_slice_dims(delta, self.per), keepdim=True)

    def project(self, delta: Tensor) -> Tensor:
        """Each coordinate clamped to [−ε, ε]."""
        epsilon = torch.as_tensor(self.epsilon, dtype=delta.dtype, device=delta.device)
        return torch.clamp(delta, -epsilon, epsilon)

    def steepest(self, grad: Tensor) -> Tensor:
        """sign(g)."""
        return _peak_one(grad, self.per).sign()

    def sample(self, mask: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Each free coordinate uniform in [−ε, ε]."""
        return (2 * _draw(mask, generator, Tensor.uniform_) - 1) * self.epsilon * mask


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
        return delta.abs().sum(dim=_slice_dims(delta, self.per), keepdim=True)

    def project(self, delta: Tensor) -> Tensor:
        """The nearest point: sign(δ)·max(|δ| − θ, 0), θ such that the result has norm ε.

        θ is found by sorting (Duchi et al., ICML 2008, Figure 1); scaling δ down would be feasible
        but not nearest, and would lose the sparsity.
        """
        epsilon = torch.as_tensor(self.epsilon, dtype=delta.dtype, device=delta.device)
        magnitudes = _slice_rows(delta.abs(), self.per)
        radius = _slice_rows(epsilon.expand_as(self.norm(delta)), self.per)
        ordered = magnitudes.sort(dim=-1, descending=True).values
        excess = ordered.cumsum(dim=-1) - radius
        count = torch.arange(1, ordered.shape[-1] + 1, device=delta.device, dtype=delta.dtype)
        kept = (ordered * count > excess).sum(dim=-1, keepdim=True).clamp_min(1)
        theta = excess.gather(-1, kept - 1) / kept
        shrunk = torch.where(excess[..., -1:] > 0, (magnitudes - theta).clamp_min(0), magnitudes)
        return shrunk.view_as(delta) * delta.sign()

    def steepest(self, grad: Tensor) -> Tensor:
        """The sign of the gradient at its largest coordinate, 0 at all others: a sparse step."""
        direction = _peak_one(grad, self.per)
        rows = _slice_rows(direction, self.per)
        largest = rows.abs().argmax(dim=-1, keepdim=True)
        step = torch.zeros_like(rows).scatter(-1, largest, rows.gather(-1, largest).sign())
        return step.view_as(grad)

    def sample(self, mask: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """ε·sᵢEᵢ / (ΣEⱼ + E₀): exponential draws E, random signs s; E₀ gives the radius its law."""
        draws = _draw(mask, generator, Tensor.exponential_) * mask
        total = _slice_sum(draws, self.per)
        spare = _draw(total, generator, Tensor.exponential_)
        signs = _draw(mask, generator, Tensor.uniform_).sub(0.5).sign()
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


def _check(epsilon: float | Tensor, per: str) -> None:
    if not isinstance(epsilon, Tensor) and (math.isnan(epsilon) or epsilon < 0):
        raise ValueError(f"epsilon must be a number ≥ 0, or inf for no bound, not {epsilon}.")
    if per not in ("example", "token"):
        raise ValueError(f'per must be "example" or "token", not {per!r}.')


def _slice_dims(delta: Tensor, per: Per) -> tuple[int, ...]:
    if per == "example":
        return tuple(range(1, delta.ndim))
    if delta.ndim != 3:
        raise ValueError(
            f'per="token" needs δ of shape (B, T, D), not {tuple(delta.shape)}; use per="example".'
        )
    return (2,)


def _slice_rows(delta: Tensor, per: Per) -> Tensor:
    """Slices as rows: (B, n) per example, (B, T, D) per token."""
    _slice_dims(delta, per)
    return delta.flatten(1) if per == "example" else delta


def _slice_sum(delta: Tensor, per: Per) -> Tensor:
    return delta.sum(dim=_slice_dims(delta, per), keepdim=True)


def _peak_one(grad: Tensor, per: Per) -> Tensor:
    """g scaled so that the largest |gᵢ| of a slice is 1; 0 where g is 0 or not finite.

    A confident model's gradients can be so small that their squares underflow; the direction is
    still there. One pass over g also finds the slices that hold an inf or a nan.
    """
    peak = grad.abs().amax(dim=_slice_dims(grad, per), keepdim=True)
    return torch.where(torch.isfinite(peak) & (peak > 0), grad / peak, 0.0)


def _draw(like: Tensor, generator: torch.Generator | None, law: Callable[..., Tensor]) -> Tensor:
    return law(torch.empty_like(like, memory_format=torch.contiguous_format), generator=generator)
