"""Accuracy under attack on the word embeddings: the white-box measure.

    an example stands at ε  ⇔  no δ with ‖δ‖ ≤ ε that was tried changed the model's right answer

The ascent maximises the logit margin max_{j≠y} z_j − z_y, never a softmax probability: a model
whose logits are scaled up saturates the softmax and looks robust, while its answers are the same.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from nlp_adv.attacks.quiet import quiet
from nlp_adv.errors import UserError
from nlp_adv.perturbation.evaluating import divergence_found
from nlp_adv.robustness.embedding_attacks import EmbeddingAttack, EmbeddingNoise, EmbeddingPGD
from nlp_adv.robustness.embedding_result import EmbeddingRobustness, joined
from nlp_adv.robustness.embedding_rows import Loss, Rows
from nlp_adv.sites.embeddings import embedding_tap

__all__ = [
    "EmbeddingAttack",
    "EmbeddingNoise",
    "EmbeddingPGD",
    "EmbeddingRobustness",
    "Loss",
    "embedding_robustness",
]


def embedding_robustness(
    model: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    attack: EmbeddingAttack,
    *,
    embedding: str | None = None,
    special_ids: Sequence[int] = (),
    progress: str | None = None,
) -> EmbeddingRobustness:
    """Attack a classifier on every batch.

    The model is attacked in eval mode and left as it was: flags, gradients and random state.

    Args:
        model: a Hugging Face sequence classifier.
        batches: dicts of tensors with "input_ids" and "labels" (B,), e.g. a DataLoader.
        attack: the attack.
        embedding: the embedding module's name, for models that do not say.
        special_ids: ids that are not perturbed.
        progress: the title of a progress bar; none is shown without.

    Raises:
        UserError: no data, a model or data that is not for single-label classification, or a
            model whose weights or answers are no finite numbers.
    """
    if (refusal := divergence_found(model)) is not None:
        raise UserError(refusal)
    result = attack_batches(
        model, batches, attack, embedding=embedding, special_ids=special_ids, progress=progress
    )
    if not torch.isfinite(result.logits).all(-1).any():
        raise UserError(
            "The model cannot be evaluated: it answers every row with inf or nan. Its training "
            "has diverged, or its precision is too low: try float32."
        )
    return result


def attack_batches(
    model: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    attack: EmbeddingAttack,
    *,
    embedding: str | None = None,
    special_ids: Sequence[int] = (),
    progress: str | None = None,
) -> EmbeddingRobustness:
    """`embedding_robustness`, of whatever the model answers: scaled logits may overflow."""
    tap = embedding_tap(model, embedding)
    device = next(model.parameters()).device
    measured: list[dict[str, Tensor]] = []
    repeatable = True
    with (
        quiet(model),
        tap.installed(),
        tqdm(batches, desc=progress, disable=progress is None) as bar,
    ):
        for index, batch in enumerate(bar):
            batch = {key: value.to(device) for key, value in batch.items()}
            rows = Rows(
                model,
                tap,
                batch,
                norm=attack.norm,
                per=attack.per,
                unit=attack.unit,
                special_ids=special_ids,
                seed=attack.seed + index,
            )
            for epsilon in sorted(attack.epsilons):
                rows.enter(epsilon)
                attack.attack(rows)
                rows.leave()
            measured.append(rows.measured())
            repeatable = repeatable and rows.repeatable
    if not measured:
        raise UserError("There is nothing to attack: the data is empty.")
    return joined(attack, measured, repeatable=repeatable)
