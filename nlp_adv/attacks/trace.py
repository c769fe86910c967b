"""What an attack writes down as it goes."""

from __future__ import annotations

import torch
from torch import Tensor

from nlp_adv.attacks.batch import ImageBatch
from nlp_adv.attacks.losses import RowLoss
from nlp_adv.attacks.result import AttackResult, to_8_bit
from nlp_adv.perturbation.evaluating import answers

Rows = Tensor | slice


class Trace:
    """Every look of an attack at its images; nothing of it makes a step wait for the device.

    Args:
        batch: the images.
        loss: the attack's own.
        clean_logits: without attack, where they are known.
    """

    def __init__(
        self, batch: ImageBatch, loss: RowLoss, clean_logits: Tensor | None = None
    ) -> None:
        self._batch, self._loss = batch, loss
        self._losses: list[Tensor] = []
        self._norms: list[Tensor] = []
        self._start = batch.x
        self._first = torch.zeros_like(batch.x.flatten(1)[:, 0])
        self._passes = torch.zeros(len(batch), dtype=torch.long, device=batch.x.device)
        self._zero = torch.zeros(len(batch), dtype=torch.bool, device=batch.x.device)
        self._before = clean_logits  # or else looked up once

    def add(
        self,
        adv: Tensor,
        losses: Tensor,
        grad: Tensor,
        rows: Tensor | None = None,
        *,
        logits: Tensor | None = None,
        gradients: int = 1,
    ) -> None:
        """One look at images: their losses and a gradient.

        Args:
            adv: where the images were, (b, …).
            losses: (b,).
            grad: (b, …).
            rows: (b,), which images of the batch these are, in its order; all without.
            logits: (B, K), of all images; where those are the batch's own, they need no other look.
            gradients: how many were taken.
        """
        at: Rows = slice(None) if rows is None or len(rows) == len(self._batch) else rows
        self._passes[at] += gradients
        if not self._losses:  # what is not looked at now never is
            self._zero[at] = (grad.flatten(1) == 0).all(1)
            if logits is not None and adv is self._batch.x:
                self._before = logits
            self._start = self._start.clone()
            self._start[at] = adv
        elif len(self._losses) == 1:
            self._first[at] = _farthest(adv - self._start[at])
        self._losses.append(self._line(losses, at))
        self._norms.append(self._line(_length(adv - self._batch.x[at]), at))

    def result(self, attack: str, adv: Tensor) -> AttackResult:
        """Look once more, at the finished images.

        Cost: two forward passes; three where the logits without attack are not known.
        """
        batch, every = self._batch, slice(None)
        adv = adv.detach()
        with torch.no_grad():
            before = batch.logits(batch.x) if self._before is None else self._before
            after, rounded = batch.logits(adv), batch.logits(to_8_bit(adv))
        self._before = before
        p_before, p_after = before.softmax(1), after.softmax(1)
        last = self._line(self._loss(after, batch.y, batch.towards), every)
        length = self._line(_length(adv - batch.x), every)
        return AttackResult(
            attack=attack,
            x=batch.x,
            adv=adv,
            labels=batch.y,
            towards=batch.towards,
            success=batch.fooled(after),
            survives_8_bit=batch.fooled(rounded),
            clean_answers=answers(before),
            answers=answers(after),
            clean_confidences=p_before.amax(1),
            confidences=p_after.amax(1),
            label_confidences=p_after.gather(1, batch.y[:, None]).squeeze(1),
            losses=torch.stack([*self._losses, last]),
            norms_along=torch.stack([*self._norms, length]),
            first_steps=_farthest(adv - self._start) if len(self._losses) < 2 else self._first,
            gradient_passes=self._passes,
            zero_gradients=self._zero,
        )

    def _line(self, values: Tensor, at: Rows) -> Tensor:
        """(B,), nan in the other rows."""
        if isinstance(at, slice):
            return values.detach()
        line = torch.full((len(self._batch),), torch.nan, dtype=values.dtype, device=values.device)
        line[at] = values.detach()
        return line


def _length(delta: Tensor) -> Tensor:
    """‖δ‖₂, (B,)."""
    length: Tensor = torch.linalg.vector_norm(delta.flatten(1), dim=1)
    return length


def _farthest(delta: Tensor) -> Tensor:
    """‖δ‖∞, (B,)."""
    return delta.flatten(1).abs().amax(1)
