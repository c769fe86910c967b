"""A measure of robustness on images that can be called again and again, for callbacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from nlp_adv.attacks import Attack
from nlp_adv.perturbation import unwrapped
from nlp_adv.robustness.images.evaluation import Batches, evaluate_images
from nlp_adv.sites.normalisation import Classifier, Pixels

Wrap = Callable[[nn.Module], Classifier]


def image_evaluator(
    batches: Batches,
    attack: Attack,
    on_pixels: Wrap | None = None,
    *,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
) -> Callable[[nn.Module], dict[str, float]]:
    """Accuracy with and without an attack, of whatever model of normalised images it is given.

        RobustnessCallback(trainer, image_evaluator(batches, PGD(…), mean=mean, std=std))

    Args:
        batches: images (B, C, H, W) in [0, 1], not normalised, and right classes (B,); gone through
            at every call, so a list, or a DataLoader that does not shuffle.
        attack: whose accuracy counts as "robust_accuracy".
        on_pixels: model → the same on pixels; `Pixels(model, mean, std)` without.
        mean, std: of the normalisation that the model expects.

    Returns:
        model → {"clean_accuracy", "robust_accuracy", "constant_answer": 1 where all images get one
        answer, else 0}; the model is left as it was.
    """
    wrap: Wrap = on_pixels or (lambda model: Pixels(model, mean, std))

    def evaluate(model: nn.Module) -> dict[str, float]:
        found = evaluate_images(wrap(unwrapped(model)), batches, {attack.name: attack})
        return {
            "clean_accuracy": found.clean.value,
            "robust_accuracy": found.worst_case.value,
            "constant_answer": float(found.is_constant),
        }

    return evaluate
