"""What an attack writes down as it goes."""

from __future__ import annotations

import torch
from torch import Tensor

from nlp_adv.attacks.losses import RowLoss
from nlp_adv.attacks.result import AttackResult, to_8_bit
from nlp_adv.attacks.rows import Rows
from nlp_adv.perturbation.evaluating import answers

Places = Tensor | slice


class Trace:
    """Every look of an attack at its examples; nothing of it makes a step wait for the device.

    Args:
        rows: the examples.
        loss: the attack's own.
    """

    def __init__(self, rows: Rows, loss: RowLoss) -> None:
        self._rows, self._loss = rows, loss
        self._losses: list[Tensor] = []
        self._norms: list[Tensor] = []
        self._start = rows.clean
        like = rows.clean.flatten(1)[:, 0]
        self._first = torch.zeros_like(like)
        self._steepness = torch.full_like(like, torch.nan)
        self._gradients = torch.zeros(len(rows), dtype=torch.long, device=like.device)
        self._forwards = torch.zeros_like(self._gradients)
        self._clean = rows.looked  # or else looked up once
        self._again: Tensor | None = None

    def add(
        self,
        point: Tensor,
        losses: Tensor,
        grad: Tensor,
        places: Tensor | None = None,
        *,
        logits: Tensor | None = None,
        gradients: int = 1,
    ) -> None:
        """One look at examples: their losses and a gradient.

        Args:
            point: where the examples were, (b, …).
            losses: (b,).
            grad: (b, …).
            places: (b,), which of the examples these are, in their order; all without.
            logits: (B, C), of all; where they are those without attack, they need no other look.
            gradients: how many were taken.
        """
        at = self._at(places)
        self.looked(places)
        self._gradients[at] += gradients
        if not self._losses:  # what is not looked at now never is
            self._steepness[at] = _safe_length(grad).to(self._steepness.dtype)
            if logits is not None and point is self._rows.clean:
                self._again = logits
                self._clean = logits if self._clean is None else self._clean
            self._start = self._start.clone()
            self._start[at] = point
        elif len(self._losses) == 1:
            self._first[at] = _farthest(point - self._start[at])
        self._losses.append(self._line(losses, at))
        self._norms.append(self._line(_length(point - self._rows.clean[at]), at))

    def begin(self) -> None:
        """The loss without attack, of an attack that takes no gradient there itself.

        Cost: as `clean_logits`.
        """
        rows = self._rows
        losses = self._loss(self.clean_logits(), rows.y, rows.towards)
        self._losses.append(losses.detach())
        self._norms.append(_length(torch.zeros_like(rows.clean)))

    def looked(self, places: Tensor | None = None) -> None:
        """One forward pass of examples, all without places."""
        self._forwards[self._at(places)] += 1

    def ran(self, result: AttackResult, places: Tensor) -> None:
        """Another attack on examples, as a part of this one."""
        self._gradients[places] += result.gradient_passes
        self._forwards[places] += result.forwards
        unknown = self._steepness[places].isnan()
        self._steepness[places] = torch.where(
            unknown, result.first_gradients, self._steepness[places]
        )
        if self._again is None and len(places) == len(self._rows):
            self._again = result.first_logits

    def clean_logits(self) -> Tensor:
        """(B, C), without attack.

        Cost: one forward pass, once, where they are not known.
        """
        if self._clean is None:
            self.looked()
            with torch.no_grad():
                self._clean = self._rows.logits(self._rows.clean)
        return self._clean

    def result(self, attack: str, point: Tensor) -> AttackResult:
        """Look once more, at the finished examples.

        Cost: one forward pass, one more of images that are rounded, and one more where the logits
        without attack are not known.
        """
        rows, point = self._rows, point.detach()
        pixels = rows.view.pictures
        adv = point if pixels else rows.view.x + point.to(rows.view.x.dtype)
        rounded = None
        before = self.clean_logits()
        with torch.no_grad():
            self.looked()
            after = rows.logits(point)
            if pixels:
                self.looked()
                rounded = rows.fooled(rows.logits(to_8_bit(point)))
        p_before, p_after = before.softmax(1), after.softmax(1)
        last = self._line(self._loss(after, rows.y, rows.towards), slice(None))
        length = self._line(_length(point - rows.clean), slice(None))
        return AttackResult(
            attack=attack,
            x=rows.view.x,
            adv=adv,
            delta=point - rows.clean,
            labels=rows.y,
            towards=rows.towards,
            success=rows.fooled(after),
            survives_8_bit=rounded,
            clean_answers=answers(before),
            answers=answers(after),
            clean_confidences=p_before.amax(1),
            confidences=p_after.amax(1),
            label_confidences=p_after.gather(1, rows.y[:, None]).squeeze(1),
            losses=torch.stack([*self._losses, last]),
            norms_along=torch.stack([*self._norms, length]),
            first_steps=_farthest(point - self._start) if len(self._losses) < 2 else self._first,
            gradient_passes=self._gradients,
            forwards=self._forwards,
            first_gradients=self._steepness,
            first_logits=self._again,
        )

    def _at(self, places: Tensor | None) -> Places:
        return slice(None) if places is None or len(places) == len(self._rows) else places

    def _line(self, values: Tensor, at: Places) -> Tensor:
        """(B,), nan in the other rows."""
        if isinstance(at, slice):
            return values.detach()
        line = torch.full((len(self._rows),), torch.nan, dtype=values.dtype, device=values.device)
        line[at] = values.detach()
        return line


def _length(delta: Tensor) -> Tensor:
    """‖δ‖₂, (B,)."""
    length: Tensor = torch.linalg.vector_norm(delta.flatten(1), dim=1)
    return length


def _farthest(delta: Tensor) -> Tensor:
    """‖δ‖∞, (B,)."""
    return delta.flatten(1).abs().amax(1)


def _safe_length(grad: Tensor) -> Tensor:
    """‖g‖₂, 0 only where g is 0: squares of small numbers would underflow."""
    rows = grad.flatten(1)
    peak = rows.abs().amax(1)
    return peak * _length(rows / torch.where(peak > 0, peak, 1.0)[:, None])
