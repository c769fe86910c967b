"""A few images to be drawn: which ones, and each attack on them once more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nlp_adv.attacks import Attack, AttackResult
from nlp_adv.attacks.subject import device_of
from nlp_adv.robustness.evaluated import Evaluation
from nlp_adv.sites.normalisation import Classifier

FALLEN, STOOD = 4, 2  # of the images that are drawn


def exhibit_ids(found: Evaluation, count: int = 32) -> list[int]:
    """Ids of images that attacks were tried on, those to be drawn first.

    Evenly spaced: four that fell under any attack and two that stood them all, or more of one kind
    where there are fewer of the other; then others, for the curves.

    Args:
        found: by the attacks.
        count: how many in all.
    """
    attacked = {r.id for r in found.of(found.titles[0]) if r.attacked}
    stands = found.robust()
    fallen = [number for number in sorted(attacked) if not stands[number]]
    stood = [number for number in sorted(attacked) if stands[number]]
    several = min(STOOD, len(stood))
    chosen = _spaced(fallen, FALLEN + STOOD - several)
    chosen += _spaced(stood, FALLEN + STOOD - len(chosen))
    others = [number for number in sorted(attacked) if number not in chosen]
    return [*chosen, *_spaced(others, count - len(chosen))]


def exhibits(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    attacks: Mapping[str, Attack],
    *,
    target: int | None = None,
) -> dict[str, AttackResult]:
    """Each attack on the same images, from its first start; results are on the CPU.

    Args:
        model: pixels → logits.
        x, y: images (B, C, H, W) in [0, 1] and right classes (B,).
        attacks: by name.
        target: class to reach.
    """
    device = device_of(model) or x.device
    results = {}
    for name, attack in attacks.items():
        result = attack(model, x.to(device), y.to(device), target=target)
        moved: dict[str, Any] = {k: v.cpu() for k, v in vars(result).items() if torch.is_tensor(v)}
        results[name] = replace(result, attack=name, **moved)
    return results


def _spaced(ids: list[int], count: int) -> list[int]:
    """So many of them, evenly spaced."""
    count = min(count, len(ids))
    return [ids[place * len(ids) // count] for place in range(count)]
