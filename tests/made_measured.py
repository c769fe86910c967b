"""Measurements as if an attack had made them: for tests without a model."""

import math
from collections.abc import Sequence

import torch

from nlp_adv.attacks import Ladder, Measured
from nlp_adv.robustness import embedding_pgd


def measured(
    fooled_at: Sequence[float],
    ladder: Ladder | None = None,
    *,
    epsilon: float = 0.1,
    unit_length: float = 1.0,
    relative_length: float = 1.0,
    erasing_length: float = 1.0,
    first_gradients: Sequence[float] | None = None,
) -> Measured:
    """N examples that were fooled where `fooled_at` says (0 is wrong without attack).

    There are two classes, and all right answers are class 1.
    """
    ladder = embedding_pgd((epsilon,)) if ladder is None else ladder
    at = torch.tensor(fooled_at, dtype=torch.float64)
    radii = torch.tensor([radius or 0.0 for radius in ladder.radii], dtype=torch.float64)
    count, right = len(at), at > 0
    fooled = right[:, None] & (at[:, None] <= radii)
    norms = torch.where(fooled, at[:, None], radii)
    ones = torch.ones(fooled.shape, dtype=torch.long)
    gradients = [1.0] * count if first_gradients is None else first_gradients
    return Measured(
        ladder=ladder,
        labels=torch.ones(count, dtype=torch.long),
        logits=torch.stack([torch.zeros(count), 2.0 * right - 1], 1).double(),
        right=right,
        fooled=fooled,
        answers=(right[:, None] & ~fooled).long(),
        confidences=torch.full(fooled.shape, 0.6, dtype=torch.float64),
        forwards=ones,
        gradient_passes=ones,
        l2=norms,
        linf=norms,
        l1=norms,
        l0=ones,
        survives_8_bit=torch.zeros_like(fooled),
        first_losses=torch.full(fooled.shape, -1.0, dtype=torch.float64),
        last_losses=torch.full(fooled.shape, -0.5, dtype=torch.float64),
        first_gradients=torch.tensor(gradients, dtype=torch.float64),
        unit_lengths=torch.full((count,), unit_length, dtype=torch.float64),
        relative_lengths=torch.full((count,), relative_length, dtype=torch.float64),
        erasing_lengths=torch.full((count,), erasing_length, dtype=torch.float64),
        units=torch.ones(count, 3, dtype=torch.float64),
        tokens=torch.full((count,), 7),
        first_logits=torch.full((count, 2), math.nan, dtype=torch.float64),
    )


def left(robust: int, fooled: int, *, wrong: int = 0, epsilon: float = 0.1, **settings) -> Measured:
    """So many that are robust at ε, then so many that were fooled there, then so many wrong."""
    fooled_at = [math.inf] * robust + [epsilon] * fooled + [0.0] * wrong
    return measured(fooled_at, epsilon=epsilon, **settings)
