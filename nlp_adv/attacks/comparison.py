"""Several attacks on the same images, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nlp_adv.attacks.attack import Attack
from nlp_adv.attacks.result import AttackResult
from nlp_adv.errors import UserError
from nlp_adv.sites.normalisation import Classifier


@dataclass(frozen=True)
class Comparison:
    """What several attacks made of the same images.

    Attributes:
        results: by the name of the attack, in the order they were given.
    """

    results: dict[str, AttackResult]

    def table(self, steps: Sequence[int] = (1, 10, 100)) -> str:
        """One row an attack, in Markdown: its first step, its way, its success.

        Means over all images; an image that an attack has left in peace keeps its last values.

        Args:
            steps: after how many the loss and ‖δ‖₂ are shown; blank beyond an attack's last.
        """
        after = [f"after {k}" for k in steps]
        head = ["attack", "fooled, %", "first step, ‖Δx‖∞", "at the start", *after, "at the end"]
        lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
        for name, result in self.results.items():
            losses, norms = _means(result.losses), _means(result.norms_along)
            shown = [0, *steps, len(losses) - 1]
            way = [f"{losses[k]:.4g}; {norms[k]:.4g}" if k < len(losses) else "" for k in shown]
            fooled = f"{100 * result.summary()['success']:.1f}"
            first = f"{float(result.first_steps.double().mean()):.4g}"
            lines.append(f"| {' | '.join([name, fooled, first, *way])} |")
        lines += ["", "From the start to the end: the attack's own loss; ‖δ‖₂."]
        return "\n".join(lines)


def compare(
    attacks: Mapping[str, Attack] | Sequence[Attack],
    model: Classifier,
    x: Tensor,
    y: Tensor | int | None = None,
    *,
    target: Tensor | int | None = None,
    mask: Tensor | None = None,
) -> Comparison:
    """Run several attacks on the same images.

        attacks = [OptimizerAttack(o, lr=0.01) for o in (torch.optim.SGD, torch.optim.Adam)]
        print(compare(attacks, model, x, target=3).table())

    Args:
        attacks: with names, or under their own; a name that comes twice is numbered.
        model, x, y, target, mask: as an attack takes them.

    Raises:
        UserError: no attack, or what the attacks raise.
    """
    named = attacks if isinstance(attacks, Mapping) else _named(attacks)
    if not named:
        raise UserError("There is nothing to compare: give one attack or more.")
    results = {}
    for name, attack in named.items():
        result = attack(model, x, y, target=target, mask=mask)
        results[name] = replace(result, attack=name)
    return Comparison(results)


def _named(attacks: Sequence[Attack]) -> dict[str, Attack]:
    named: dict[str, Attack] = {}
    for attack in attacks:
        name, number = attack.name, 1
        while name in named:
            number += 1
            name = f"{attack.name} ({number})"
        named[name] = attack
    return named


def _means(lines: Tensor) -> list[float]:
    """Of each line (B,), with what is nan as it was in the line before."""
    means, values = [], torch.full_like(lines[0], torch.nan)
    for line in lines:
        values = torch.where(torch.isnan(line), values, line)
        means.append(float(values.double().nanmean()))
    return means
