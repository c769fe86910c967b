"""Attacks on images, and images as something to train on, over the core of the package.

from nlp_adv.images import FGSM, PGD, Pixels
result = FGSM(8 / 255)(Pixels(model, mean, std), x, y)
"""

from nlp_adv.images.attacks import (
    APGD,
    FGM,
    FGSM,
    PGD,
    Attack,
    CarliniWagner,
    DeepFool,
    OptimizerAttack,
)
from nlp_adv.images.comparison import Comparison, compare
from nlp_adv.images.pixels import Pixels, parse_epsilon
from nlp_adv.images.result import AttackResult, summary_table

__all__ = [
    "APGD",
    "FGM",
    "FGSM",
    "PGD",
    "Attack",
    "AttackResult",
    "CarliniWagner",
    "Comparison",
    "DeepFool",
    "OptimizerAttack",
    "Pixels",
    "compare",
    "parse_epsilon",
    "summary_table",
]
