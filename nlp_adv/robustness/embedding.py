"""Accuracy under attack on the word embeddings: the white-box measure.

    an example stands at ε  ⇔  no δ with ‖δ‖ ≤ ε that was tried changed the model's right answer

The ascent maximises the logit margin max_{j≠y} z_j − z_y, never a softmax probability: a model
whose logits are scaled up saturates the softmax and looks robust, while its answers are the same.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from tqdm.auto import tqdm

from nlp_adv.errors import UserError
from nlp_adv.perturbation.evaluating import evaluating
from nlp_adv.robustness.embedding_attacks import EmbeddingAttack, EmbeddingNoise, EmbeddingPGD
from nlp_adv.robustness.embedding_result import EmbeddingRobustness, joined
from nlp_adv.robustness.embedding_rows import Loss, Rows
from nlp_adv.text.embeddings import embedding_tap

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
        UserError: no data, or a model or data that is not for single-label classification.
    """
    tap = embedding_tap(model, embedding)
    device = next(model.parameters()).device
    measured: list[dict[str, Tensor]] = []
    with (
        evaluating(model),
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
    if not measured:
        raise UserError("There is nothing to attack: the data is empty.")
    return joined(attack, measured)
