"""Attacks on images, one file each."""

from nlp_adv.images.attacks.attack import Attack
from nlp_adv.images.attacks.fgsm import FGM, FGSM
from nlp_adv.images.attacks.pgd import PGD

__all__ = ["FGM", "FGSM", "PGD", "Attack"]
