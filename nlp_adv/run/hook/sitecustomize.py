"""Imported by Python at its start, in all processes of a run: waits for transformers' Trainer.

It hides any other `sitecustomize`, so it loads that one as well.
"""

import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_HERE = os.path.dirname(os.path.abspath(__file__))
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(_HERE)))


class _Waiting(MetaPathFinder):
    """Finds transformers.trainer as it would be found, and patches it once it is loaded."""

    def __init__(self, orders: str) -> None:
        self._orders, self._looking = orders, False

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The specification of the one module that is waited for."""
        if name != "transformers.trainer" or self._looking:
            return None
        self._looking = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._looking = False
        if spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            load(module)
            if _ROOT not in sys.path:  # a checkout that is not installed; last, to hide nothing
                sys.path.append(_ROOT)
            from nlp_adv.run.notes import Orders
            from nlp_adv.run.patch import patch, say_in_one_sentence

            patch(module.Trainer, Orders.of(self._orders))
            say_in_one_sentence()

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _load_hidden() -> None:
    elsewhere = [place for place in sys.path if os.path.abspath(place or ".") != _HERE]
    spec = PathFinder.find_spec("sitecustomize", elsewhere)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


if "NLP_ADV_RUN" in os.environ:
    sys.meta_path.insert(0, _Waiting(os.environ["NLP_ADV_RUN"]))
_load_hidden()
