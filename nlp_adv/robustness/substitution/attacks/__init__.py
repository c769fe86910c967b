"""The named attacks: a file each, composed of an order, a source of candidates and a search."""

from nlp_adv.robustness.substitution.attacks.a2t import A2T
from nlp_adv.robustness.substitution.attacks.deepwordbug import DeepWordBug
from nlp_adv.robustness.substitution.attacks.hotflip import HotFlip, Vocabulary
from nlp_adv.robustness.substitution.attacks.masked import BAE, BERTAttack
from nlp_adv.robustness.substitution.attacks.pwws import PWWS
from nlp_adv.robustness.substitution.attacks.static import Static
from nlp_adv.robustness.substitution.attacks.textbugger import TextBugger
from nlp_adv.robustness.substitution.attacks.textfooler import TextFooler

__all__ = [
    "A2T",
    "BAE",
    "PWWS",
    "BERTAttack",
    "DeepWordBug",
    "HotFlip",
    "Static",
    "TextBugger",
    "TextFooler",
    "Vocabulary",
]
