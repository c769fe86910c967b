"""Robustness: evaluation of a trained model. Knows nothing of how it was trained."""

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nlp_adv.attacks.words.attacks.build import ATTACKS, Resources
    from nlp_adv.attacks.words.predictor import Predictor
    from nlp_adv.attacks.words.protocols import PROTOCOLS, Protocol
    from nlp_adv.robustness.embedding import embedding_pgd, embedding_robustness
    from nlp_adv.robustness.evaluated import Evaluation
    from nlp_adv.robustness.evaluator import embedding_evaluator, image_evaluator
    from nlp_adv.robustness.image_evaluation import epsilon_sweep, evaluate_images
    from nlp_adv.robustness.masking import masking_checks
    from nlp_adv.robustness.processes import launched
    from nlp_adv.robustness.text_evaluation import evaluate_robustness
    from nlp_adv.robustness.textattack_csv import read_textattack_csv
    from nlp_adv.robustness.white_box import WhiteBox

__all__ = [
    "ATTACKS",
    "PROTOCOLS",
    "Evaluation",
    "Predictor",
    "Protocol",
    "Resources",
    "WhiteBox",
    "embedding_evaluator",
    "embedding_pgd",
    "embedding_robustness",
    "epsilon_sweep",
    "evaluate_images",
    "evaluate_robustness",
    "image_evaluator",
    "launched",
    "masking_checks",
    "read_textattack_csv",
]

# A part of this package imports its neighbours; none of them is loaded before it is asked for.
_WHERE = {
    "ATTACKS": "nlp_adv.attacks.words.attacks.build",
    "PROTOCOLS": "nlp_adv.attacks.words.protocols",
    "Evaluation": "nlp_adv.robustness.evaluated",
    "Predictor": "nlp_adv.attacks.words.predictor",
    "Protocol": "nlp_adv.attacks.words.protocols",
    "Resources": "nlp_adv.attacks.words.attacks.build",
    "WhiteBox": "nlp_adv.robustness.white_box",
    "embedding_evaluator": "nlp_adv.robustness.evaluator",
    "embedding_pgd": "nlp_adv.robustness.embedding",
    "epsilon_sweep": "nlp_adv.robustness.image_evaluation",
    "evaluate_images": "nlp_adv.robustness.image_evaluation",
    "image_evaluator": "nlp_adv.robustness.evaluator",
    "launched": "nlp_adv.robustness.processes",
    "masking_checks": "nlp_adv.robustness.masking",
    "embedding_robustness": "nlp_adv.robustness.embedding",
    "evaluate_robustness": "nlp_adv.robustness.text_evaluation",
    "read_textattack_csv": "nlp_adv.robustness.textattack_csv",
}


def __getattr__(name: str) -> Any:
    if name == "EmbeddingPGD":
        warnings.warn(
            "EmbeddingPGD is embedding_pgd now, and goes with the next version.",
            DeprecationWarning,
            stacklevel=2,
        )
        return __getattr__("embedding_pgd")
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
