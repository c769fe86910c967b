"""Results of attacks on embeddings as if they had been measured: for tests without a model."""

import math
from collections.abc import Sequence

import torch

from nlp_adv.robustness.embedding import EmbeddingAttack, EmbeddingPGD, EmbeddingRobustness


def measured(
    broken_at: Sequence[float],
    attack: EmbeddingAttack | None = None,
    *,
    epsilon: float = 0.1,
    unit_length: float = 1.0,
    embedding_length: float = 1.0,
    gradient_norms: Sequence[float] | None = None,
) -> EmbeddingRobustness:
    """N examples that fell where `broken_at` says, two classes, all right answers class 1."""
    attack = EmbeddingPGD((epsilon,)) if attack is None else attack
    count, radii = len(broken_at), len(attack.epsilons)
    fell = torch.tensor(broken_at, dtype=torch.float32)
    predictions = (fell > 0).long()
    logits = torch.stack([torch.zeros(count), 2.0 * predictions - 1], 1)
    norms = [1.0] * count if gradient_norms is None else gradient_norms
    return EmbeddingRobustness(
        attack=attack,
        broken_at=fell,
        predictions=predictions,
        logits=logits,
        answers=predictions[:, None].expand(count, radii),
        confidences=torch.full((count, radii), 0.6),
        forwards=torch.ones(count, radii, dtype=torch.long),
        gradient_passes=torch.ones(count, dtype=torch.long),
        gradient_norms=torch.tensor(norms, dtype=torch.float32),
        tokens=torch.full((count,), 7),
        unit_lengths=torch.full((count,), unit_length),
        embedding_lengths=torch.full((count,), embedding_length),
    )


def left(standing: int, fallen: int, *, wrong: int = 0, epsilon: float = 0.1, **settings):
    """So many that stood at ε, then so many that fell there, then so many wrong ones."""
    broken_at = [math.inf] * standing + [epsilon] * fallen + [0.0] * wrong
    return measured(broken_at, epsilon=epsilon, **settings)
