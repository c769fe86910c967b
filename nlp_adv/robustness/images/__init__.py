"""Robustness of image classifiers: accuracy under attacks, over ε, and checks against masking.

from nlp_adv.robustness.images import evaluate_images
found = evaluate_images(model, images.batches(64), [FGSM(8 / 255), PGD(LInfBall(8 / 255), …)])
"""

from nlp_adv.robustness.curve import EpsilonSweep
from nlp_adv.robustness.images.checks import image_checks
from nlp_adv.robustness.images.evaluation import evaluate_images
from nlp_adv.robustness.images.evaluator import image_evaluator
from nlp_adv.robustness.images.noise import PixelNoise
from nlp_adv.robustness.images.scaled import ScaledLogits
from nlp_adv.robustness.images.sweep import epsilon_sweep

__all__ = [
    "EpsilonSweep",
    "PixelNoise",
    "ScaledLogits",
    "epsilon_sweep",
    "evaluate_images",
    "image_checks",
    "image_evaluator",
]
