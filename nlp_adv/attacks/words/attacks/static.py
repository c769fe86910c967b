"""Static sets: texts that were made adversarial beforehand, such as AdvGLUE's.

Wang et al., "Adversarial GLUE: A Multi-Task Benchmark for Robustness Evaluation of Language
Models", NeurIPS Datasets and Benchmarks 2021, https://arxiv.org/abs/2111.02840.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nlp_adv.attacks.words.example import Answer, Example, Steps


@dataclass(frozen=True)
class Static:
    """Changes nothing: accuracy under this attack is accuracy on the texts as they come."""

    name: ClassVar[str] = "static"

    def search(self, example: Example) -> Steps[Answer]:
        """The text itself."""
        yield from ()
        assert example.original is not None
        return example.original
