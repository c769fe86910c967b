"""What an image attack found, with the evidence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


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
        losses: (S+1, B), the attack's own loss at every image that it took a gradient at, and at
            last at adv; nan where an image was left in peace.
        norms_along: (S+1, B), ‖δ‖₂ beside them.
        first_steps: (B,), ‖Δx‖∞ of the attack's first step.
        gradient_passes: (B,), gradients taken of an image.
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
    first_steps: Tensor
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
    return (x.clamp(0, 1) * 255).round() / 255


def _mean(values: Tensor) -> float:
    """nan of nothing."""
    return values.double().mean().item() if len(values) else float("nan")
