"""What an attack did to examples with several answers each, answer by answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from nlp_adv.attacks.measured import Measured, Tried
from nlp_adv.attacks.result import AttackResult
from nlp_adv.attacks.rows import Rows
from nlp_adv.attacks.several import NONE, SeveralView
from nlp_adv.perturbation.evaluating import answers


@dataclass(frozen=True, kw_only=True)
class MeasuredSeveral(Measured):
    """N examples with P answers in all, at R radii.

    At each radius stands what the model says at the one δ of the example, of all that were tried up
    to that radius, which leaves the fewest answers right; δ = 0 is among them. `fooled` says that
    none is left. `robust`, `accuracy` and `clean_accuracy` are of answers.

    Attributes:
        counts: (N,), how many answers each example has.
        right_answers: (P,), the right ones, example by example.
        clean_answers: (P,), the model's without attack.
        said: (P, R), the model's under attack.
        source: the batch, for a look at δ; None once batches are joined.
    """

    counts: Tensor
    right_answers: Tensor
    clean_answers: Tensor
    said: Tensor
    source: SeveralView | None = None

    @classmethod
    def of(
        cls, ladder: Tried, rows: Rows, lengths: dict[str, Tensor], right: Tensor
    ) -> MeasuredSeveral:
        """Before any attack.

        Cost: one forward pass.
        """
        one, view = Measured.of(ladder, rows, lengths, right), rows.view
        assert isinstance(view, SeveralView)
        with torch.no_grad():
            said = answers(view.each(rows.clean))
        there = view.right != NONE
        clean = said[there]
        own = {field.name: getattr(one, field.name) for field in fields(Measured)}
        return cls(
            **own,
            counts=there.sum(1),
            right_answers=view.right[there],
            clean_answers=clean,
            said=clean[:, None].expand(-1, len(ladder.radii)).clone(),
            source=view,
        )

    def write(self, place: int, rows: Tensor, result: AttackResult) -> None:
        """One more attack on some examples; what it says stays where fewer answers are right."""
        super().write(place, rows, result)
        assert self.source is not None
        view = self.source.rows(rows)
        with torch.no_grad():
            said = answers(view.each(result.delta))
        there = view.right != NONE
        now, own = said[there], self._answers_of(rows)
        before, right = self.said[own, place], self.right_answers[own]
        row = there.nonzero()[:, 0]

        def left(found: Tensor) -> Tensor:
            return torch.zeros_like(rows).index_add_(0, row, (found == right).to(rows.dtype))

        better = (left(now) < left(before))[row]
        self.said[own, place] = torch.where(better, now, before)

    def carry(self, source: int, place: int, rows: Tensor, fooled: Tensor | None = None) -> None:
        """What was found at one radius is what is known at another, so far."""
        super().carry(source, place, rows, fooled)
        own = self._answers_of(rows)
        self.said[own, place] = self.said[own, source]

    def _answers_of(self, rows: Tensor) -> Tensor:
        """Where the answers of some examples stand, in their order."""
        ends = self.counts.cumsum(0)
        places = [torch.arange(int(ends[i] - self.counts[i]), int(ends[i])) for i in rows.tolist()]
        return torch.cat(places).to(rows.device)

    @staticmethod
    def joined(parts: Sequence[Measured]) -> MeasuredSeveral:
        """Of one ladder on batches, one by one; on the CPU."""
        found = Measured.joined(parts)
        assert isinstance(found, MeasuredSeveral)
        return replace(found, source=None)

    @property
    def clean_accuracy(self) -> float:
        """Share of right answers without attack."""
        return self.robust(0).double().mean().item()

    @property
    def is_constant(self) -> bool:
        """Whether all answers without attack are the same one."""
        said = self.clean_answers
        return len(said) > 1 and bool((said == said[0]).all())

    def robust(self, epsilon: float | None = None) -> Tensor:
        """(P,), whether an answer is right at a radius, 0 for none; the largest without.

        Raises:
            UserError: the radius was not tried.
        """
        return self.answers_at(epsilon) == self.right_answers

    def answers_at(self, epsilon: float | None = None) -> Tensor:
        """(P,), what the model says at a radius, 0 for none; the largest without."""
        place = self.place_of(epsilon)
        return self.clean_answers if place is None else self.said[:, place]

    def by_example(self, found: Tensor) -> list[list[int]]:
        """Values of answers, (P,), as one list an example."""
        return [part.tolist() for part in torch.split(found, self.counts.tolist())]
