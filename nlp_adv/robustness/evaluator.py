"""A measure of robustness that can be called again and again, for callbacks and searches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from nlp_adv.attacks import Attack, Ladder, ladder
from nlp_adv.attacks.subject import Subject
from nlp_adv.errors import UserError
from nlp_adv.perturbation import unwrapped
from nlp_adv.perturbation.evaluating import divergence_found
from nlp_adv.sites.embeddings import EmbeddingSite
from nlp_adv.sites.normalisation import Classifier, Pixels
from nlp_adv.sites.site import Site

Evaluator = Callable[[nn.Module], dict[str, float]]


def evaluator(
    batches: Iterable[Any], attack: Attack | Ladder, subject_of: Callable[[nn.Module], Subject]
) -> Evaluator:
    """Accuracy with and without an attack, of whatever model it is given.

    Args:
        batches: labelled, see `Subject`; gone through at every call, so a list or a DataLoader that
            does not shuffle.
        attack: of which the largest radius counts as "robust_accuracy"; the others are named by
            their radius.
        subject_of: model → what is attacked of it.

    Returns:
        model → {"clean_accuracy", "robust_accuracy", "robust_accuracy_ε" for smaller ε,
        "constant_answer": 1 where all examples get one answer, else 0}; the model is left as it
        was.
    """
    tried = attack if isinstance(attack, Ladder) else ladder(attack)

    def evaluate(model: nn.Module) -> dict[str, float]:
        if (refusal := divergence_found(model)) is not None:
            raise UserError(refusal)
        found = subject_of(unwrapped(model)).measure(tried, batches)
        scores = {
            "clean_accuracy": found.clean_accuracy,
            "robust_accuracy": found.accuracy(),
            "constant_answer": float(found.is_constant),
        }
        smaller = [radius for radius in tried.radii[:-1] if radius is not None]
        return scores | {f"robust_accuracy_{e:g}": found.accuracy(e) for e in smaller}

    return evaluate


def embedding_evaluator(
    batches: Iterable[Mapping[str, Any]],
    attack: Attack | Ladder,
    *,
    embedding: str | None = None,
    site: Site | None = None,
) -> Evaluator:
    """Accuracy with and without an attack on the word embeddings; see `evaluator`.

    Args:
        batches: dicts with "input_ids" and "labels".
        attack: such as `embedding_pgd((0.02, 0.05))`.
        embedding: the embedding module's name, for models that do not say.
        site: where δ enters instead.
    """
    return evaluator(
        batches, attack, lambda model: Subject(model, site or EmbeddingSite(embedding))
    )


def image_evaluator(
    batches: Iterable[tuple[Tensor, Tensor]],
    attack: Attack | Ladder,
    on_pixels: Callable[[nn.Module], Classifier] | None = None,
    *,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
) -> Evaluator:
    """The same of models of normalised images; see `evaluator`.

        RobustnessCallback(trainer, image_evaluator(batches, PGD(…), mean=mean, std=std))

    Args:
        batches: images (B, C, H, W) in [0, 1], not normalised, and right classes (B,).
        attack: the attack.
        on_pixels: model → the same on pixels; `Pixels(model, mean, std)` without.
        mean, std: of the normalisation that the model expects.
    """
    wrap = on_pixels or (lambda model: Pixels(model, mean, std))
    return evaluator(batches, attack, lambda model: Subject(wrap(model)))
