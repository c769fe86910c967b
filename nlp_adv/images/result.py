"""What an image attack found, with the evidence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nlp_adv.images.batch import ImageBatch

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class AttackResult:
    """Adversarial images and how they came about; rows are images.

    Attributes:
        attack: the attack's name.
        x, adv: images before and after, (B, …), in [0, 1].
        labels: (B,), the right classes, or the targets.
        towards: labels are targets.
        success: (B,), the answer to `adv` is the target, or is not the right class.
        survives_8_bit: (B,), the same after rounding to 256 levels, as a saved picture has them.
        clean_answers, answers: (B,), the model's on x and on adv.
        clean_confidences, confidences: (B,), the probability of that answer.
        label_confidences: (B,), the probability of the label on adv.
        losses: (S+1, B), the attack's own loss at every image it looked at, from the start to the
            end; nan where an image was left in peace.
        norms_along: (S+1, B), ‖δ‖₂ beside them.
        gradient_passes: (B,), forward and backward passes an image.
        zero_gradients: (B,), the first gradient was 0: the attack saw nothing.
    """

    attack: str
    x: Tensor
    adv: Tensor
    labels: Tensor
    towards: bool
    success: Tensor
    survives_8_bit: Tensor
    clean_answers: Tensor
    answers: Tensor
    clean_confidences: Tensor
    confidences: Tensor
    label_confidences: Tensor
    losses: Tensor
    norms_along: Tensor
    gradient_passes: Tensor
    zero_gradients: Tensor

    def __len__(self) -> int:
        return len(self.x)

    @property
    def delta(self) -> Tensor:
        """adv − x."""
        return self.adv - self.x

    @property
    def attackable(self) -> Tensor:
        """(B,): there was something to do: the answer was right, or was not the target."""
        same = self.clean_answers == self.labels
        return ~same if self.towards else same

    @property
    def quantized(self) -> Tensor:
        """adv rounded to 256 levels."""
        return to_8_bit(self.adv)

    def norm(self, p: float) -> Tensor:
        """‖adv − x‖_p of each image, (B,); p = 0 counts changed numbers."""
        rows = self.delta.flatten(1)
        if p == 0:
            return (rows != 0).sum(1)
        norm: Tensor = torch.linalg.vector_norm(rows, ord=p, dim=1)
        return norm

    def summary(self) -> dict[str, float]:
        """The numbers of one table row; norms are means over the images that fell."""
        fell = self.success & self.attackable
        due = max(1, int(self.attackable.sum()))
        return {
            "images": len(self),
            "attackable": int(self.attackable.sum()),
            "success": int(fell.sum()) / due,
            "success_8_bit": int((self.survives_8_bit & self.attackable).sum()) / due,
            "l2": _mean(self.norm(2)[fell]),
            "linf": _mean(self.norm(torch.inf)[fell]),
            "l1": _mean(self.norm(1)[fell]),
            "l0": _mean(self.norm(0)[fell]),
            "label_confidence": _mean(self.label_confidences),
            "gradient_passes": _mean(self.gradient_passes),
            "zero_gradients": _mean(self.zero_gradients),
        }

    def table(self) -> str:
        """The same as Markdown."""
        return summary_table([self])

    def plot(self, path: str | None = None, *, rows: int = 6) -> Figure:
        """A grid of images: before, δ, after, with answers and confidences; needs matplotlib."""
        from nlp_adv.images.pictures import picture_grid

        return picture_grid(self, path, rows=rows)

    def plot_history(self, path: str | None = None) -> Figure:
        """Loss and ‖δ‖₂ along the attack; needs matplotlib."""
        from nlp_adv.images.pictures import history_curves

        return history_curves([self], path)


COLUMNS: dict[str, Callable[[AttackResult, dict[str, float]], str]] = {
    "attack": lambda r, s: r.attack,
    "images": lambda r, s: f"{s['attackable']:.0f} of {s['images']:.0f}",
    "fooled, %": lambda r, s: f"{100 * s['success']:.1f}",
    "after rounding to 8 bits, %": lambda r, s: f"{100 * s['success_8_bit']:.1f}",
    "‖δ‖₂": lambda r, s: f"{s['l2']:.4g}",
    "‖δ‖∞": lambda r, s: f"{s['linf']:.4g}",
    "gradients an image": lambda r, s: f"{s['gradient_passes']:.1f}",
}


def summary_table(results: list[AttackResult]) -> str:
    """One row an attack, in Markdown.

    “images” are those that the model had right (or not yet as the target) of all; shares are of
    them, and norms are means over those that fell.
    """
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    for result in results:
        cells = [cell(result, result.summary()) for cell in COLUMNS.values()]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def to_8_bit(x: Tensor) -> Tensor:
    """Rounded to the nearest of 256 levels; truncation would undo twice as much of an attack."""
    return (x * 255).round() / 255


class Trace:
    """What an attack writes down as it goes."""

    def __init__(self, batch: ImageBatch) -> None:
        self._batch = batch
        self._losses: list[Tensor] = []
        self._norms: list[Tensor] = []
        self._passes = torch.zeros(len(batch), dtype=torch.long, device=batch.x.device)
        self._zero = torch.zeros(len(batch), dtype=torch.bool, device=batch.x.device)
        self._all = torch.arange(len(batch), device=batch.x.device)
        self._before: Tensor | None = None  # logits without attack, looked up once

    def add(
        self,
        adv: Tensor,
        losses: Tensor,
        grad: Tensor | None = None,
        rows: Tensor | None = None,
    ) -> None:
        """One look at images: their losses, and the gradient where there was one.

        Args:
            adv: where the images were, (b, …).
            losses: (b,).
            grad: (b, …).
            rows: (b,), which images of the batch these are; all without.
        """
        rows = self._all if rows is None else rows
        if grad is not None:
            first = self._passes[rows] == 0
            self._zero[rows] |= first & (grad.flatten(1) == 0).all(1)
            self._passes[rows] += 1
        length = torch.linalg.vector_norm((adv - self._batch.x[rows]).flatten(1), dim=1)
        for kept, values in ((self._losses, losses), (self._norms, length)):
            line = torch.full((len(self._batch),), torch.nan, device=length.device)
            line[rows] = values.detach().to(line)
            kept.append(line)

    def result(self, attack: str, adv: Tensor) -> AttackResult:
        """Look once more, at the finished images.

        Cost: two forward passes; three the first time.
        """
        batch = self._batch
        adv = adv.detach()
        with torch.no_grad():
            before = batch.logits(batch.x) if self._before is None else self._before
            after, rounded = batch.logits(adv), batch.logits(to_8_bit(adv))
        self._before = before
        p_before, p_after = before.softmax(1), after.softmax(1)
        empty = torch.zeros(0, len(batch))
        return AttackResult(
            attack=attack,
            x=batch.x,
            adv=adv,
            labels=batch.y,
            towards=batch.towards,
            success=batch.fooled(after),
            survives_8_bit=batch.fooled(rounded),
            clean_answers=before.argmax(1),
            answers=after.argmax(1),
            clean_confidences=p_before.amax(1),
            confidences=p_after.amax(1),
            label_confidences=p_after.gather(1, batch.y[:, None]).squeeze(1),
            losses=torch.stack(self._losses) if self._losses else empty,
            norms_along=torch.stack(self._norms) if self._norms else empty,
            gradient_passes=self._passes,
            zero_gradients=self._zero,
        )


def _mean(values: Tensor) -> float:
    """nan of nothing."""
    return values.double().mean().item() if len(values) else float("nan")
