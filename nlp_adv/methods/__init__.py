"""Training methods: one file each, and the registry behind `--adv NAME`."""

from nlp_adv.methods.fgm import FGM
from nlp_adv.methods.fgm_matrix import FGMMatrix
from nlp_adv.methods.fgsm import FGSM
from nlp_adv.methods.freelb import FreeLB
from nlp_adv.methods.method import BallMethod, Method, StepReport, floor_cost
from nlp_adv.methods.noise import Noise
from nlp_adv.methods.none import NoAttack
from nlp_adv.methods.pgd import PGD
from nlp_adv.methods.registry import METHODS, build, describe
from nlp_adv.methods.scaled import Scaled
from nlp_adv.methods.warmup import WarmUp

__all__ = [
    "FGM",
    "FGSM",
    "METHODS",
    "PGD",
    "BallMethod",
    "FGMMatrix",
    "FreeLB",
    "Method",
    "NoAttack",
    "Noise",
    "Scaled",
    "StepReport",
    "WarmUp",
    "build",
    "describe",
    "floor_cost",
]
