"""What an attack found, with the evidence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class AttackResult:
    """Adversarial examples and how they came about; rows are examples.

    Attributes:
        attack: the attack's name.
        x, adv: what the model computes with before and after, (B, …): images in [0, 1], or the
            output of the embedding or layer that was attacked.
        delta: (B, …), what was added to x.
        labels: (B,), the right classes, or the targets.
        towards: labels are targets.
        success: (B,), fooled: the answer to `adv` is the target, or is not the right class.
        survives_8_bit: (B,), the same after rounding to 256 levels, as a saved picture has them;
            None of what is no picture.
        clean_answers, answers: (B,), the model's on x and on adv.
        clean_confidences, confidences: (B,), the probability of that answer.
        label_confidences: (B,), the probability of the label on adv.
        losses: (S+1, B), the attack's own loss at every point that it took a gradient at, and at
            last at adv; nan where an example was left in peace. Of an attack that takes no
            gradient, or consists of other attacks, it is the loss at x, and at adv.
        norms_along: (S+1, B), ‖δ‖₂ beside them.
        first_steps: (B,), ‖Δx‖∞ of the attack's first step.
        gradient_passes: (B,), gradients taken of an example.
        forwards: (B,), passes of an example through the model, those included.
        first_gradients: (B,), ‖∇‖₂ of the first gradient: where it is 0 the attack saw nothing;
            nan where it took none.
        first_logits: (B, C), of the first gradient's pass where it was without δ; else None.
    """

    attack: str
    x: Tensor
    adv: Tensor
    delta: Tensor
    labels: Tensor
    towards: bool
    success: Tensor
    survives_8_bit: Tensor | None
    clean_answers: Tensor
    answers: Tensor
    clean_confidences: Tensor
    confidences: Tensor
    label_confidences: Tensor
    losses: Tensor
    norms_along: Tensor
    first_steps: Tensor
    gradient_passes: Tensor
    forwards: Tensor
    first_gradients: Tensor
    first_logits: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    @property
    def zero_gradients(self) -> Tensor:
        """(B,), the first gradient was 0: the attack saw nothing."""
        return self.first_gradients == 0

    @property
    def attackable(self) -> Tensor:
        """(B,): there was something to do: the answer was right, or was not the target."""
        same = self.clean_answers == self.labels
        return ~same if self.towards else same

    @property
    def quantized(self) -> Tensor:
        """adv rounded to 256 levels, of images."""
        return to_8_bit(self.adv)

    def norm(self, p: float) -> Tensor:
        """‖adv − x‖_p of each image, (B,); p = 0 counts changed numbers."""
        rows = self.delta.flatten(1)
        if p == 0:
            return (rows != 0).sum(1)
        norm: Tensor = torch.linalg.vector_norm(rows, ord=p, dim=1)
        return norm

    def summary(self) -> dict[str, float]:
        """The numbers of one table row; norms are means over the fooled."""
        fooled = self.success & self.attackable
        due = max(1, int(self.attackable.sum()))
        return {
            "examples": len(self),
            "attackable": int(self.attackable.sum()),
            "success": int(fooled.sum()) / due,
            "success_8_bit": self._after_rounding(due),
            "l2": _mean(self.norm(2)[fooled]),
            "linf": _mean(self.norm(torch.inf)[fooled]),
            "l1": _mean(self.norm(1)[fooled]),
            "l0": _mean(self.norm(0)[fooled]),
            "label_confidence": _mean(self.label_confidences),
            "gradient_passes": _mean(self.gradient_passes),
            "zero_gradients": _mean(self.zero_gradients),
        }

    def _after_rounding(self, due: int) -> float:
        if self.survives_8_bit is None:
            return float("nan")
        return int((self.survives_8_bit & self.attackable).sum()) / due

    def table(self) -> str:
        """The same as Markdown."""
        return summary_table([self])


COLUMNS: dict[str, Callable[[AttackResult, dict[str, float]], str]] = {
    "attack": lambda r, s: r.attack,
    "examples": lambda r, s: f"{s['attackable']:.0f} of {s['examples']:.0f}",
    "fooled, %": lambda r, s: f"{100 * s['success']:.1f}",
    "after rounding to 8 bits, %": lambda r, s: f"{100 * s['success_8_bit']:.1f}",
    "‖δ‖₂": lambda r, s: f"{s['l2']:.4g}",
    "‖δ‖∞": lambda r, s: f"{s['linf']:.4g}",
    "gradients an example": lambda r, s: f"{s['gradient_passes']:.1f}",
}


def summary_table(results: list[AttackResult]) -> str:
    """One row an attack, in Markdown.

    “examples” are those that the model had right (or not yet as the target) of all; shares are of
    them, and norms are means over the fooled.
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
