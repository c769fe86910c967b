"""What the flags of methods are where they are unset, for --help."""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from typing import Any

from nlp_adv.methods import Modality, all_methods, build, describe


def presets(modality: Modality) -> dict[str, str]:
    """By flag the preset of each method that has it: "3; tavat 2, vat 1", the usual one first.

    Args:
        modality: of the presets.
    """
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in all_methods():
        with suppress(ValueError):  # a method of words alone has no preset for images
            settings = describe(build(name, modality=modality))
            for key, value in settings.items() if len(settings) > 1 else ():
                if key != "method":
                    found[f"adv_{key}"][_written(value)].append(name)
    texts = {}
    for flag, values in found.items():
        usual, *others = sorted(values, key=lambda value: -len(values[value]))
        apart = [f"{name} {value}" for value in others for name in values[value]]
        texts[flag] = "; ".join([usual, *filter(None, [", ".join(apart)])])
    return texts


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if value == "":
        return "empty"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
