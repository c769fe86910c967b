"""Adversarial training for Hugging Face models, one flag away.

    from nlp_adv import AdversarialTrainer, FreeLB, L2Ball

`import nlp_adv` loads neither torch nor transformers; they come with the first name that needs
them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nlp_adv.errors import UserError

if TYPE_CHECKING:
    from nlp_adv.data.pairs import PairCollator
    from nlp_adv.methods import (
        AWP,
        CAPO,
        CAT,
        FGM,
        FGSM,
        LAT,
        METHODS,
        PGD,
        RR,
        SAM,
        SMART,
        TAVAT,
        TRADES,
        VAT,
        YOPO,
        Every,
        FGMMatrix,
        FGMRemembered,
        FreeAT,
        FreeLB,
        InnerPasses,
        Linear,
        NoAttack,
        Noise,
        RDrop,
        Scaled,
        SomeRows,
        StartWhen,
        WarmUp,
        build,
        register,
    )
    from nlp_adv.perturbation import L1Ball, L2Ball, LInfBall, Memory, WithinBox
    from nlp_adv.sites.embeddings import EmbeddingSite
    from nlp_adv.sites.layer import LayerSite
    from nlp_adv.sites.objective import image_objective, objective, text_objective
    from nlp_adv.sites.pixels import PixelSite
    from nlp_adv.training.arguments import AdversarialArguments, AdversarialTrainingArguments
    from nlp_adv.training.trainer import AdversarialMixin, AdversarialTrainer

__version__ = "0.11.0"

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
    "AdversarialArguments",
    "AdversarialMixin",
    "AdversarialTrainer",
    "AdversarialTrainingArguments",
    "EmbeddingSite",
    "Every",
    "FGMMatrix",
    "FGMRemembered",
    "FreeAT",
    "FreeLB",
    "InnerPasses",
    "L1Ball",
    "L2Ball",
    "LInfBall",
    "LayerSite",
    "Linear",
    "Memory",
    "NoAttack",
    "Noise",
    "PairCollator",
    "PixelSite",
    "RDrop",
    "Scaled",
    "SomeRows",
    "StartWhen",
    "UserError",
    "WarmUp",
    "WithinBox",
    "build",
    "image_objective",
    "objective",
    "register",
    "text_objective",
]

_HOMES = {
    "nlp_adv.data.pairs": ("PairCollator",),
    "nlp_adv.methods": (
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
        "Every",
        "FGMMatrix",
        "FGMRemembered",
        "FreeAT",
        "FreeLB",
        "InnerPasses",
        "Linear",
        "NoAttack",
        "Noise",
        "RDrop",
        "Scaled",
        "SomeRows",
        "StartWhen",
        "WarmUp",
        "build",
        "register",
    ),
    "nlp_adv.perturbation": ("L1Ball", "L2Ball", "LInfBall", "Memory", "WithinBox"),
    "nlp_adv.sites.embeddings": ("EmbeddingSite",),
    "nlp_adv.sites.layer": ("LayerSite",),
    "nlp_adv.sites.objective": ("image_objective", "objective", "text_objective"),
    "nlp_adv.sites.pixels": ("PixelSite",),
    "nlp_adv.training.arguments": ("AdversarialArguments", "AdversarialTrainingArguments"),
    "nlp_adv.training.trainer": ("AdversarialMixin", "AdversarialTrainer"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
_PARTS = ("attacks", "images", "methods", "perturbation", "robustness", "sites")


def __getattr__(name: str) -> Any:
    if name in _PARTS:
        return import_module(f"nlp_adv.{name}")
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module 'nlp_adv' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PARTS})
