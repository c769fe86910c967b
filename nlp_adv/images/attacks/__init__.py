"""Attacks on images, one file each."""

from nlp_adv.images.attacks.apgd import APGD
from nlp_adv.images.attacks.attack import Attack
from nlp_adv.images.attacks.carlini_wagner import CarliniWagner
from nlp_adv.images.attacks.deepfool import DeepFool
from nlp_adv.images.attacks.fgsm import FGM, FGSM
from nlp_adv.images.attacks.optimizer import OptimizerAttack
from nlp_adv.images.attacks.pgd import PGD

__all__ = ["APGD", "FGM", "FGSM", "PGD", "Attack", "CarliniWagner", "DeepFool", "OptimizerAttack"]
