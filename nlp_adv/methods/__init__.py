"""Training methods: one file each, and the registry behind `--adv NAME`."""

from nlp_adv.methods.around import Around, bare
from nlp_adv.methods.awp import AWP
from nlp_adv.methods.building import Modality, build, check_attacks
from nlp_adv.methods.capo import CAPO
from nlp_adv.methods.cat import CAT
from nlp_adv.methods.describing import describe
from nlp_adv.methods.fgm import FGM
from nlp_adv.methods.fgm_matrix import FGMMatrix
from nlp_adv.methods.fgm_remembered import FGMRemembered
from nlp_adv.methods.fgsm import FGSM
from nlp_adv.methods.freeat import FreeAT
from nlp_adv.methods.freelb import FreeLB
from nlp_adv.methods.inner_passes import InnerPasses
from nlp_adv.methods.lat import LAT
from nlp_adv.methods.method import BallMethod, Method, StepReport, floor_cost
from nlp_adv.methods.noise import Noise
from nlp_adv.methods.none import NoAttack
from nlp_adv.methods.pgd import PGD
from nlp_adv.methods.rdrop import RDrop
from nlp_adv.methods.registry import METHODS, all_methods, own_settings, register
from nlp_adv.methods.rr import RR
from nlp_adv.methods.sam import SAM
from nlp_adv.methods.scaled import Scaled, unit_of
from nlp_adv.methods.schedule import Schedule
from nlp_adv.methods.scheduled import Every, Linear
from nlp_adv.methods.smart import SMART
from nlp_adv.methods.some_rows import SomeRows
from nlp_adv.methods.start_when import StartWhen
from nlp_adv.methods.tavat import TAVAT
from nlp_adv.methods.trades import TRADES
from nlp_adv.methods.vat import VAT
from nlp_adv.methods.warmup import WarmUp
from nlp_adv.methods.yopo import YOPO

__all__ = [
    "AWP",
    "CAPO",
    "CAT",
    "FGM",
    "FGSM",
    "LAT",
    "METHODS",
    "PGD",
    "RR",
    "SAM",
    "SMART",
    "TAVAT",
    "TRADES",
    "VAT",
    "YOPO",
    "Around",
    "BallMethod",
    "Every",
    "FGMMatrix",
    "FGMRemembered",
    "FreeAT",
    "FreeLB",
    "InnerPasses",
    "Linear",
    "Method",
    "Modality",
    "NoAttack",
    "Noise",
    "RDrop",
    "Scaled",
    "Schedule",
    "SomeRows",
    "StartWhen",
    "StepReport",
    "WarmUp",
    "all_methods",
    "bare",
    "build",
    "check_attacks",
    "describe",
    "floor_cost",
    "own_settings",
    "register",
    "unit_of",
]
