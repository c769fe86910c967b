"""Adversarial training for Hugging Face models, one flag away.

    from nlp_adv import AdversarialTrainer, FreeLB, L2Ball

`import nlp_adv` loads torch alone; transformers comes with the first name that needs it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nlp_adv.errors import UserError
from nlp_adv.images.objective import image_objective
from nlp_adv.methods import (
    AWP,
    FGM,
    FGSM,
    METHODS,
    PGD,
    SMART,
    TAVAT,
    TRADES,
    VAT,
    YOPO,
    FGMMatrix,
    FreeAT,
    FreeLB,
    NoAttack,
    Noise,
    RDrop,
    Scaled,
    WarmUp,
    build,
    register,
)
from nlp_adv.perturbation import L1Ball, L2Ball, LInfBall, Memory, WithinBox

if TYPE_CHECKING:
    from nlp_adv.text.objective import text_objective
    from nlp_adv.training.arguments import AdversarialArguments, AdversarialTrainingArguments
    from nlp_adv.training.trainer import AdversarialMixin, AdversarialTrainer

__version__ = "0.4.0"

__all__ = [
    "AWP",
    "FGM",
    "FGSM",
    "METHODS",
    "PGD",
    "SMART",
    "TAVAT",
    "TRADES",
    "VAT",
    "YOPO",
    "AdversarialArguments",
    "AdversarialMixin",
    "AdversarialTrainer",
    "AdversarialTrainingArguments",
    "FGMMatrix",
    "FreeAT",
    "FreeLB",
    "L1Ball",
    "L2Ball",
    "LInfBall",
    "Memory",
    "NoAttack",
    "Noise",
    "RDrop",
    "Scaled",
    "UserError",
    "WarmUp",
    "WithinBox",
    "build",
    "image_objective",
    "register",
    "text_objective",
]

_NEEDS_TRANSFORMERS = {
    "AdversarialArguments": "nlp_adv.training.arguments",
    "AdversarialTrainingArguments": "nlp_adv.training.arguments",
    "AdversarialMixin": "nlp_adv.training.trainer",
    "AdversarialTrainer": "nlp_adv.training.trainer",
    "text_objective": "nlp_adv.text.objective",
}


def __getattr__(name: str) -> Any:
    if name in _NEEDS_TRANSFORMERS:
        return getattr(import_module(_NEEDS_TRANSFORMERS[name]), name)
    raise AttributeError(f"module 'nlp_adv' has no attribute {name!r}")
