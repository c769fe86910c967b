"""A measure of robustness that can be called again and again, for callbacks and searches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from nlp_adv.perturbation import unwrapped
from nlp_adv.robustness.embedding import EmbeddingPGD, embedding_robustness


def embedding_evaluator(
    batches: Iterable[Mapping[str, Any]],
    attack: EmbeddingPGD,
    *,
    embedding: str | None = None,
) -> Callable[[nn.Module], dict[str, float]]:
    """Accuracy with and without an attack on the word embeddings, of whatever model it is given.

    Args:
        batches: dicts with "input_ids" and "labels"; gone through at every call, so a list or a
            DataLoader that does not shuffle.
        attack: of which the largest radius counts as "robust_accuracy"; the others are named by
            their radius.
        embedding: the embedding module's name, for models that do not say.

    Returns:
        model → {"clean_accuracy", "robust_accuracy", "robust_accuracy_ε" for smaller ε,
        "constant_answer": 1 where all texts get one answer, else 0}.
    """

    def evaluate(model: nn.Module) -> dict[str, float]:
        found = embedding_robustness(unwrapped(model), batches, attack, embedding=embedding)
        *smaller, largest = sorted(attack.epsilons)
        scores = {
            "clean_accuracy": found.clean_accuracy,
            "robust_accuracy": found.accuracy(largest),
            "constant_answer": float(found.is_constant),
        }
        return scores | {f"robust_accuracy_{e:g}": found.accuracy(e) for e in smaller}

    return evaluate
