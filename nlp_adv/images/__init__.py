"""The old address of attacks on images, for one version: they are in `nlp_adv.attacks` now."""

import warnings
from importlib import import_module
from typing import Any

_HOMES = {
    "nlp_adv.attacks": (
        "APGD",
        "FGM",
        "FGSM",
        "PGD",
        "Attack",
        "AttackResult",
        "CarliniWagner",
        "Comparison",
        "DeepFool",
        "OptimizerAttack",
        "compare",
        "summary_table",
    ),
    "nlp_adv.sites": ("Pixels", "parse_epsilon"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOME_OF[name]
    warnings.warn(
        f"nlp_adv.images.{name} is {home}.{name} now; the old address goes with the next version.",
        DeprecationWarning,
        stacklevel=2,
    )
    return getattr(import_module(home), name)
