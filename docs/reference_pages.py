"""The pages of the reference: every public name, by where it is imported from."""

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# page: its title, what it says, the modules whose public names it shows, and single names beside
PAGES = {
    "methods": (
        "Methods and schedules",
        "A method is a frozen dataclass; `step(objective)` makes one training step. Each has "
        "[a page of its own](../methods/index.md), and what goes around one (`Scaled`, `WarmUp`, "
        "`SomeRows`, …) is a method as well. All names are in `nlp_adv.methods`, most in "
        "`nlp_adv` too.",
        ("nlp_adv.methods",),
        (),
    ),
    "training": (
        "Trainer and arguments",
        "What stands in a script: [your own Trainer script](../start/your_script.md).",
        (),
        (
            "nlp_adv.training.trainer.AdversarialTrainer",
            "nlp_adv.training.trainer.AdversarialMixin",
            "nlp_adv.training.arguments.AdversarialArguments",
            "nlp_adv.training.arguments.AdversarialTrainingArguments",
            "nlp_adv.training.callbacks.RobustnessCallback",
            "nlp_adv.training.on_the_way.KeptOnTheWay",
            "nlp_adv.training.attacked_texts.AttackedTexts",
            "nlp_adv.data.pairs.PairCollator",
            "nlp_adv.data.pairs.with_utility",
            "nlp_adv.errors.UserError",
        ),
    ),
    "perturbation": (
        "Perturbation core",
        "Tensors only: no model, no text, no pixels. All names are in `nlp_adv.perturbation`.",
        ("nlp_adv.perturbation",),
        (),
    ),
    "sites": (
        "Sites",
        "Where δ enters a model, and a minibatch there as a function of δ.",
        ("nlp_adv.sites",),
        (
            "nlp_adv.sites.objective.objective",
            "nlp_adv.sites.objective.text_objective",
            "nlp_adv.sites.objective.image_objective",
        ),
    ),
    "attacks": (
        "Attacks",
        "On images, embeddings and layers ([how to call them](../attacks/points.md)). All names "
        "are in `nlp_adv.attacks`. Attacks on words are named in `evaluate_robustness`.",
        ("nlp_adv.attacks",),
        (),
    ),
    "robustness": (
        "Robustness",
        "Evaluations, protocols, checks, and comparisons at equal clean accuracy. The names of the "
        "first part are in `nlp_adv.robustness`.",
        ("nlp_adv.robustness",),
        (
            "nlp_adv.robustness.chat_evaluation.evaluate_chat",
            "nlp_adv.robustness.metrics.RobustAccuracy",
            "nlp_adv.robustness.metrics.AttackSuccessRate",
            "nlp_adv.robustness.metrics.CalibrationError",
            "nlp_adv.robustness.matched.Outcome",
            "nlp_adv.robustness.matched.constant_answers",
            "nlp_adv.robustness.matched.gain_at_equal_accuracy",
        ),
    ),
}


def reference_page(page: str) -> str:
    """Markdown for mkdocstrings."""
    title, words, modules, single = PAGES[page]
    names = [*(name for module in modules for name in public_names(module)), *single]
    return "\n\n".join([f"# {title}", words, *(f"::: {name}" for name in names)]) + "\n"


def public_names(module: str) -> Iterator[str]:
    """The classes and functions of a package, each by the module that it is written in."""
    package: Any = import_module(module)
    for name in package.__all__:
        home = getattr(getattr(package, name), "__module__", None)
        if home is not None and home.startswith("nlp_adv.") and home != module:
            yield f"{home}.{name}"
