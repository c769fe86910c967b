"""The old address of the evaluation of images, for one version."""

import warnings
from importlib import import_module
from typing import Any

_NOW = {
    "EpsilonSweep": ("nlp_adv.attacks", "Measured"),
    "ImageRecord": ("nlp_adv.robustness.record", "Record"),
    "ImageRobustness": ("nlp_adv.robustness", "Evaluation"),
    "PixelNoise": ("nlp_adv.attacks", "Noise"),
    "epsilon_sweep": ("nlp_adv.robustness", "epsilon_sweep"),
    "evaluate_images": ("nlp_adv.robustness", "evaluate_images"),
    "image_evaluator": ("nlp_adv.robustness", "image_evaluator"),
    "read_image_records": ("nlp_adv.robustness.records", "read_records"),
}


def __getattr__(name: str) -> Any:
    if name not in _NOW:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home, now = _NOW[name]
    warnings.warn(
        f"nlp_adv.robustness.images.{name} is {home}.{now} now; the old address goes with the next "
        f"version.",
        DeprecationWarning,
        stacklevel=2,
    )
    return getattr(import_module(home), now)
