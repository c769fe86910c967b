"""What an attack did to some examples at some radii, example by example."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from nlp_adv.attacks.result import AttackResult
from nlp_adv.attacks.rows import Rows
from nlp_adv.errors import UserError
from nlp_adv.perturbation import Per, Unit
from nlp_adv.perturbation.evaluating import answers


class Tried(Protocol):
    """What was tried: a `Ladder`."""

    @property
    def name(self) -> str:
        """Of the attack, without a radius."""
        ...

    @property
    def attack(self) -> Any:
        """From its first start."""
        ...

    @property
    def radii(self) -> tuple[float | None, ...]:
        """From the smallest up; None of an attack without one."""
        ...

    @property
    def norm(self) -> str:
        """In which δ is measured."""
        ...

    @property
    def unit(self) -> Unit:
        """What a radius is measured in."""
        ...

    @property
    def per(self) -> Per:
        """What one norm covers."""
        ...


_BY_RADIUS = (
    "fooled",
    "answers",
    "confidences",
    "forwards",
    "gradient_passes",
    "l2",
    "linf",
    "l1",
    "l0",
    "survives_8_bit",
    "first_losses",
    "last_losses",
)


@dataclass(frozen=True)
class Measured:
    """N examples at R radii, in the order of the data; δ and its norms are absolute.

    An example that is fooled at a radius keeps what fooled it at the larger ones. Of one that is
    not, everything is of the last point that was tried.

    Args:
        ladder: the attack and its radii.
        labels: (N,), right classes.
        logits: (N, C) without attack.
        right: (N,), whether the answer without attack is right; others are not attacked.
        fooled: (N, R), whether a right answer was changed (into the target, where there is one).
        answers, confidences: (N, R), under attack, and the softmax probability of that answer.
        forwards, gradient_passes: (N, R), passes of the example up to and with that radius, the
            one without attack included; those among them in which a gradient was taken.
        l2, linf, l1, l0: (N, R), norms of δ; 0 of what was not attacked.
        survives_8_bit: (N, R), fooled also after rounding to 256 levels; False of what is no
            picture.
        first_losses, last_losses: (N, R), the attack's own loss where it began and where it ended;
            nan where it looked at none.
        first_gradients: (N,), ‖∇‖₂ at the first gradient; 0 only where the gradient is exactly 0,
            nan where none was taken.
        unit_lengths: (N,), how long the attack's unit is in each example, in absolute terms.
        relative_lengths: (N,), the same of the unit "relative", in the attack's norm.
        erasing_lengths: (N,), how long δ must be to leave nothing of the input, absolute.
        units: (N, 3), how long the unit of ε is for norms in L2, L∞ and L1.
        tokens: (N,), without padding; 0 of images.
        first_logits: (N, C), of the pass of the first gradient where it was without δ, else nan:
            they must be `logits` again.
        pictures: the examples are images, and fooled ones were rounded to 256 levels.
        resolution: of the model's arithmetic, by which its logits may differ from pass to pass.
    """

    ladder: Tried
    labels: Tensor
    logits: Tensor
    right: Tensor
    fooled: Tensor
    answers: Tensor
    confidences: Tensor
    forwards: Tensor
    gradient_passes: Tensor
    l2: Tensor
    linf: Tensor
    l1: Tensor
    l0: Tensor
    survives_8_bit: Tensor
    first_losses: Tensor
    last_losses: Tensor
    first_gradients: Tensor
    unit_lengths: Tensor
    relative_lengths: Tensor
    erasing_lengths: Tensor
    units: Tensor
    tokens: Tensor
    first_logits: Tensor
    pictures: bool = False
    resolution: float = 0.0

    @classmethod
    def of(cls, ladder: Tried, rows: Rows, lengths: dict[str, Tensor], right: Tensor) -> Measured:
        """Before any attack."""
        logits = rows.looked
        assert logits is not None
        shape = (len(rows), len(ladder.radii))
        said, sure = answers(logits), logits.softmax(-1).amax(-1)
        zeros = torch.zeros(shape, dtype=logits.dtype, device=logits.device)
        none, count = zeros.bool(), zeros.long()
        nan = torch.full_like(zeros, math.nan)
        return cls(
            ladder=ladder,
            labels=rows.y,
            logits=logits,
            right=right,
            fooled=none,
            answers=said[:, None].expand(shape).clone(),
            confidences=sure[:, None].expand(shape).clone(),
            forwards=count + 1,
            gradient_passes=count.clone(),
            l2=zeros.clone(),
            linf=zeros.clone(),
            l1=zeros.clone(),
            l0=count.clone(),
            survives_8_bit=none.clone(),
            first_losses=nan.clone(),
            last_losses=nan.clone(),
            first_gradients=nan[:, 0].clone(),
            **lengths,
            tokens=rows.view.tokens,
            first_logits=torch.full_like(logits, math.nan),
            pictures=rows.view.pictures,
            # Fewer rows than in the first pass may be summed in another order.
            resolution=16 * torch.finfo(rows.view.dtype).eps,
        )

    def write(self, place: int, rows: Tensor, result: AttackResult) -> None:
        """One more attack on some examples.

        Args:
            place: of the radius.
            rows: (b,), which of the examples.
            result: of the attack.
        """
        delta = result.delta.flatten(1)
        self.fooled[rows, place] = result.success
        self.answers[rows, place] = result.answers
        self.confidences[rows, place] = result.confidences.to(self.confidences.dtype)
        self.gradient_passes[rows, place] += result.gradient_passes
        self.forwards[rows, place] += result.forwards
        self.l2[rows, place] = torch.linalg.vector_norm(delta, dim=1).to(self.l2.dtype)
        self.linf[rows, place] = delta.abs().amax(1).to(self.l2.dtype)
        self.l1[rows, place] = delta.abs().sum(1).to(self.l2.dtype)
        self.l0[rows, place] = (delta != 0).sum(1)
        if result.survives_8_bit is not None:
            self.survives_8_bit[rows, place] = result.success & result.survives_8_bit
        known = ~result.losses.isnan()
        steps = torch.arange(len(known), device=known.device)[:, None]
        last = torch.where(known, steps, -1).amax(0).clamp_min(0)
        first = torch.where(known, steps, len(known)).amin(0).clamp_max(len(known) - 1)
        losses = result.losses.to(self.l2.dtype)
        self.first_losses[rows, place] = losses.gather(0, first[None]).squeeze(0)
        self.last_losses[rows, place] = losses.gather(0, last[None]).squeeze(0)
        unseen = self.first_gradients[rows].isnan()
        self.first_gradients[rows] = torch.where(
            unseen, result.first_gradients.to(self.l2.dtype), self.first_gradients[rows]
        )
        if result.first_logits is not None:
            fresh = unseen[:, None] & (len(result.first_logits) == len(rows))
            seen = result.first_logits.to(self.logits.dtype)
            self.first_logits[rows] = torch.where(fresh, seen, self.first_logits[rows])

    def carry(self, source: int, place: int, rows: Tensor, fooled: Tensor | None = None) -> None:
        """What was found at one radius is what is known at another, so far.

        Args:
            source, place: of the radii.
            rows: (b,), which of the examples.
            fooled: (b,), whether they count as fooled there; as at the source without.
        """
        for name in _BY_RADIUS if source != place else ():
            values: Tensor = getattr(self, name)
            values[rows, place] = values[rows, source]
        if fooled is not None:
            self.fooled[rows, place] = fooled

    def blind(self, rows: Tensor) -> None:
        """The attack saw no gradient of these examples."""
        self.first_gradients[rows] = 0.0

    @staticmethod
    def joined(parts: Sequence[Measured]) -> Measured:
        """Of one ladder on batches, one by one; on the CPU."""
        first = parts[0]
        names = [f.name for f in fields(first) if isinstance(getattr(first, f.name), Tensor)]
        columns: dict[str, Any] = {
            name: torch.cat([getattr(part, name).cpu() for part in parts]) for name in names
        }
        return replace(first, **columns)

    @property
    def examples(self) -> int:
        """N."""
        return len(self.labels)

    @property
    def radii(self) -> tuple[float | None, ...]:
        """The R radii, from the smallest up; None of an attack without one."""
        return self.ladder.radii

    @property
    def passes(self) -> int:
        """Gradient passes × examples, the work of the attack."""
        return int(self.gradient_passes[:, -1].sum())

    @property
    def predictions(self) -> Tensor:
        """(N,), the answers without attack."""
        return answers(self.logits)

    @property
    def clean_confidences(self) -> Tensor:
        """(N,), softmax probability of the answers without attack."""
        return self.logits.softmax(-1).amax(-1)

    @property
    def clean_accuracy(self) -> float:
        """Share of right answers without attack."""
        return self.right.double().mean().item()

    @property
    def is_constant(self) -> bool:
        """Whether every answer without attack is the same: then nothing was learnt."""
        said = self.predictions
        return self.examples > 1 and bool((said == said[0]).all())

    def robust(self, epsilon: float | None = None) -> Tensor:
        """(N,), whether the answer is right and was not changed at a radius.

        Args:
            epsilon: one that was tried, or 0 for the answers without attack; the largest without.

        Raises:
            UserError: it was not tried.
        """
        place = self.place_of(epsilon)
        return self.right if place is None else self.right & ~self.fooled[:, place]

    def place_of(self, epsilon: float | None = None) -> int | None:
        """Which of the radii one is, the last without; None of 0 where it was not tried.

        Raises:
            UserError: it was not tried.
        """
        if epsilon is None:
            return len(self.radii) - 1
        if epsilon == 0 and epsilon not in self.radii:
            return None
        if epsilon not in self.radii:
            tried = (
                ", ".join(f"{radius:g}" for radius in self.radii if radius is not None) or "none"
            )
            raise UserError(f"ε = {epsilon:g} was not tried; the radii are {tried}.")
        return self.radii.index(epsilon)

    def accuracy(self, epsilon: float | None = None) -> float:
        """Share of right answers that were not changed; see `robust`."""
        return self.robust(epsilon).double().mean().item()

    @property
    def fooled_at(self) -> Tensor:
        """(N,), the smallest tried radius at which the example was fooled.

        0 where the answer is wrong without attack, inf where it was fooled at none.
        """
        radii = [math.inf if radius is None else radius for radius in self.radii]
        tried = torch.tensor(radii, dtype=torch.float64)
        at = torch.where(self.fooled.cpu(), tried, math.inf).amin(1)
        return torch.where(self.right.cpu(), at, 0.0)

    def absolute(self, epsilon: float) -> float:
        """A radius as the model measures it, in the mean over the examples."""
        return epsilon * self.unit_lengths.double().mean().item()

    def relative(self, epsilon: float) -> float:
        """The same radius as a share of the norm of x, in the mean over the examples."""
        shares = self.unit_lengths.double() / self.relative_lengths.double()
        return epsilon * shares.mean().item()

    @property
    def erasing(self) -> float:
        """The radius at which nothing of the input need be left, in the mean over the examples."""
        return (self.erasing_lengths.double() / self.unit_lengths.double()).mean().item()

    def smallest(self) -> Tensor:
        """(N,), the shortest relative δ that was found to fool: the robust radius, from above.

        0 where the answer is wrong without attack, inf where nothing fooled. It says most of an
        attack without a radius.
        """
        norms: Tensor = getattr(self, self.ladder.norm)
        lengths = norms.double() / self.relative_lengths.double()[:, None]
        shortest = torch.where(self.fooled, lengths, math.inf).amin(1)
        return torch.where(self.right, shortest, 0.0)

    @property
    def doubts(self) -> list[str]:
        """What the accuracies must not be shown without, a sentence each; mostly nothing."""
        unknown = int((~torch.isfinite(self.logits).all(-1)).sum())
        unanswered = (
            f"answers {unknown} of {self.examples} examples with inf or nan, which count as wrong."
        )
        return [*([unanswered] if unknown else []), *self.blindness]

    @property
    def blindness(self) -> list[str]:
        """A sentence where the attack saw no gradient of any example."""
        seen = self.first_gradients[~self.first_gradients.isnan()]
        if not len(seen) or seen.any():
            return []
        return [
            "shows an attack no gradient: nothing was tried, and the accuracy under attack says "
            "nothing."
        ]
