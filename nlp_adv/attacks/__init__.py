"""Attacks on a trained model: one file each, over the core of the package.

from nlp_adv.attacks import FGSM, PGD
result = FGSM(8 / 255)(Pixels(model, mean, std), x, y)
"""

from nlp_adv.attacks.apgd import APGD
from nlp_adv.attacks.apgd_t import APGDT
from nlp_adv.attacks.attack import Attack
from nlp_adv.attacks.auto import AutoAttack
from nlp_adv.attacks.bisection import Bisection
from nlp_adv.attacks.carlini_wagner import CarliniWagner
from nlp_adv.attacks.comparison import Comparison, compare
from nlp_adv.attacks.deepfool import DeepFool
from nlp_adv.attacks.fab import FABT
from nlp_adv.attacks.fgsm import FGM, FGSM
from nlp_adv.attacks.ladder import Ladder, ladder
from nlp_adv.attacks.measured import Measured
from nlp_adv.attacks.noise import Noise
from nlp_adv.attacks.optimizer import OptimizerAttack
from nlp_adv.attacks.pgd import PGD
from nlp_adv.attacks.result import AttackResult, summary_table
from nlp_adv.attacks.square import Square

__all__ = [
    "APGD",
    "APGDT",
    "FABT",
    "FGM",
    "FGSM",
    "PGD",
    "Attack",
    "AttackResult",
    "AutoAttack",
    "Bisection",
    "CarliniWagner",
    "Comparison",
    "DeepFool",
    "Ladder",
    "Measured",
    "Noise",
    "OptimizerAttack",
    "Square",
    "compare",
    "ladder",
    "summary_table",
]
