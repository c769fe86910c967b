"""Carlini and Wagner's attack: the smallest δ that fools, by Adam on a change of variables.

Carlini and Wagner, "Towards Evaluating the Robustness of Neural Networks", IEEE S&P 2017,
https://arxiv.org/abs/1608.04644, sections V and VI; κ is the confidence:

    min_w  ‖x' − x‖₂² + c·f(x'),   x' = ½·(tanh w + 1)
    f(x') = max(z_y − max_{i≠y} z_i + κ, 0),   max(max_{i≠t} z_i − z_t + κ, 0) towards a target

tanh keeps x' in the range of the pixels; on embeddings and layers, which have none, w is δ itself
in units of the example's root mean square. c is searched for each example: ten times larger until
the attack succeeds, then bisected between the largest c that failed and the smallest that did not.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nlp_adv.attacks.attack import Attack
from nlp_adv.attacks.losses import margin
from nlp_adv.attacks.region import finite_rows, region_of
from nlp_adv.attacks.result import AttackResult
from nlp_adv.attacks.rows import Rows, column
from nlp_adv.attacks.trace import Trace
from nlp_adv.perturbation import L2Ball

_BETA1, _BETA2, _ADAM = 0.9, 0.999, 1e-8
_PROGRESS = 0.9999  # of its lowest loss that an image may have kept after a tenth of the steps
_NARROW = 0.01  # of c, between bounds that are as good as one
_LARGEST = 1e10  # no c beyond it


@dataclass(frozen=True)
class CarliniWagner(Attack):
    """The smallest δ in L2 that fools the model, or reaches a target; no radius.

        result = CarliniWagner()(model, x, target=3)

    The closest point that succeeded is returned, and x itself where none did. The loss written down
    is the margin.

    Args:
        steps: of Adam, for each c.
        step_size: Adam's, in the units of w; 0.01 in the paper, and less for large images.
        search_steps: values of c that are tried.
        initial_constant: the first c.
        confidence: κ, by how much the wrong class must lead, in logits.
        abort_early: an example that has not succeeded with its c leaves Adam when the lowest of its
            losses, that of x aside, has fallen by less than a ten-thousandth in a tenth of the
            steps. One that has makes all of them: its loss stands still for many steps on end
            while δ still shortens, and leaving then lengthened δ by 2 % (5·100 steps).

    Deviations: each example has its own c and leaves Adam on its own, by its lowest loss, as that
    of one goes up and down; the authors' code watches the sum over the batch. An example whose
    bounds on c are within 1 % of each other is searched no further, and one that succeeds without
    change is done. The last c of a search of ten values and more is not tried twice. An example
    whose gradient is not finite stays where it is for that step.

    Cost: at most `steps`·`search_steps` gradients, and four forward passes.
    """

    steps: int = 200
    step_size: float = 0.05
    search_steps: int = 9
    initial_constant: float = 1e-3
    confidence: float = 0.0
    abort_early: bool = True

    def __post_init__(self) -> None:
        if self.steps < 1 or self.search_steps < 1:
            raise ValueError("steps and search_steps must be ≥ 1.")
        if not 0 < self.step_size < float("inf") or not 0 < self.initial_constant <= _LARGEST:
            raise ValueError(
                f"step_size must be > 0, and initial_constant > 0 and at most {_LARGEST:g}."
            )
        if not 0 <= self.confidence < float("inf"):
            raise ValueError(f"confidence must be ≥ 0, not {self.confidence}.")

    @property
    def name(self) -> str:
        """cw-l2."""
        return "cw-l2"

    def run(self, rows: Rows) -> AttackResult:
        """The attack on examples, in a quiet model."""
        trace = Trace(rows, margin)
        clean_logits = trace.clean_logits()
        search = _Search(rows, self.initial_constant)
        search.done = self._reached(rows, clean_logits)
        for _ in range(self.search_steps):
            places = (~search.done).nonzero().squeeze(1)
            if not len(places):
                break
            self._descend(rows, search, trace, places)
            search.narrow(places)
        return trace.result(self.name, search.point)

    def _descend(self, rows: Rows, search: _Search, trace: Trace, places: Tensor) -> None:
        """Adam, each example with its present c."""
        live, c, tenth = rows.rows(places), search.constant[places], -(-self.steps // 10)
        region = region_of(live, L2Ball(torch.inf))
        w = region.free_variable()
        mean, square = torch.zeros_like(w), torch.zeros_like(w)  # of Adam
        lowest = checked = torch.full_like(c, torch.inf)
        for step in range(1, self.steps + 1):
            at, slope = region.at_variable(w)
            grad, margins, logits = live.gradient(at, margin)
            trace.add(at, margins, grad, places)
            away, short = (at - live.clean) / region.scale, self.confidence - margins
            distances = away.square().flatten(1).sum(1)
            search.look(places, at, distances, self._reached(live, logits))
            pull = column(torch.where(short > 0, c, 0.0), w).to(w.dtype)
            grad = (2 * away - pull * (grad * region.scale)) * slope
            if step > 1:  # x itself does not count: Adam's first steps may lead above, then below
                lowest = torch.minimum(lowest, distances + c * short.clamp_min(0))
            if self.abort_early and step > 1 and (step - 1) % tenth == 0:
                falls = (lowest <= _PROGRESS * checked) | search.succeeded[places]
                if not falls.all():
                    live, region, places = live.rows(falls), region.rows(falls), places[falls]
                    c, lowest, w, grad = c[falls], lowest[falls], w[falls], grad[falls]
                    mean, square = mean[falls], square[falls]
                if not len(places):
                    break
                checked = lowest
            usable = finite_rows(grad)
            grad = torch.where(usable, grad, 0.0)
            mean = mean.lerp(grad, 1 - _BETA1)
            square = (_BETA2 * square).addcmul(grad, grad, value=1 - _BETA2)
            scale = (square / (1 - _BETA2**step)).sqrt() + _ADAM
            moved = w.addcdiv(mean, scale, value=-self.step_size / (1 - _BETA1**step))
            w = torch.where(usable, moved, w)

    def _reached(self, rows: Rows, logits: Tensor) -> Tensor:
        """(B,): fooled, and by κ; a margin of nan is not κ."""
        margins = margin(logits, rows.y, rows.towards)
        return rows.fooled(logits) & (margins >= self.confidence)


class _Search:
    """The binary search over c, and the closest success so far; all of it one an example."""

    def __init__(self, rows: Rows, constant: float) -> None:
        like = rows.clean.flatten(1)[:, 0]
        self.point, self.distances = rows.clean.clone(), torch.full_like(like, torch.inf)
        self.constant = torch.full_like(like, constant)
        self.lower, self.upper = torch.zeros_like(like), torch.full_like(like, torch.inf)
        self.succeeded = torch.zeros_like(like, dtype=torch.bool)
        self.done = torch.zeros_like(self.succeeded)

    def look(self, places: Tensor, at: Tensor, distances: Tensor, reached: Tensor) -> None:
        """Keep the examples that succeeded and are closer than any before."""
        kept: Tensor | slice = slice(None) if len(places) == len(self.point) else places
        closer = reached & (distances < self.distances[kept])
        self.distances[kept] = torch.where(closer, distances, self.distances[kept])
        self.point[kept] = torch.where(column(closer, at), at, self.point[kept])
        self.succeeded[kept] |= reached

    def narrow(self, places: Tensor) -> None:
        """The next c of examples that have had their steps."""
        c, hit = self.constant[places], self.succeeded[places]
        lower = torch.where(hit, self.lower[places], c)
        upper = torch.where(hit, c, self.upper[places])
        larger = (10 * c).clamp_max(_LARGEST)
        self.constant[places] = torch.where(torch.isinf(upper), larger, (lower + upper) / 2)
        self.lower[places], self.upper[places] = lower, upper
        self.done[places] = (upper - lower < _NARROW * upper) | (lower >= _LARGEST)
        self.succeeded[places] = False
