"""The named attacks: a file each, composed of an order, a source of candidates and a search."""

from nlp_adv.attacks.words.attacks.a2t import A2T
from nlp_adv.attacks.words.attacks.checklist import CheckList
from nlp_adv.attacks.words.attacks.clare import CLARE
from nlp_adv.attacks.words.attacks.deepwordbug import DeepWordBug
from nlp_adv.attacks.words.attacks.genetic import Genetic
from nlp_adv.attacks.words.attacks.hotflip import HotFlip, Vocabulary
from nlp_adv.attacks.words.attacks.input_reduction import InputReduction
from nlp_adv.attacks.words.attacks.masked import BAE, BERTAttack
from nlp_adv.attacks.words.attacks.pwws import PWWS
from nlp_adv.attacks.words.attacks.static import Static
from nlp_adv.attacks.words.attacks.textbugger import TextBugger
from nlp_adv.attacks.words.attacks.textfooler import TextFooler

__all__ = [
    "A2T",
    "BAE",
    "CLARE",
    "PWWS",
    "BERTAttack",
    "CheckList",
    "DeepWordBug",
    "Genetic",
    "HotFlip",
    "InputReduction",
    "Static",
    "TextBugger",
    "TextFooler",
    "Vocabulary",
]
