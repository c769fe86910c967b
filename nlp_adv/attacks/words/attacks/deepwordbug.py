"""DeepWordBug: misspellings that turn words into unknown ones.

Gao, Lanchantin, Soffa and Qi, "Black-box Generation of Adversarial Text Sequences to Evade Deep
Learning Classifiers", IEEE S&P Workshops 2018, https://arxiv.org/abs/1801.04354.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from nlp_adv.attacks.words.attacks.proposals import from_source
from nlp_adv.attacks.words.candidates import DeepWordBugEdits, Source
from nlp_adv.attacks.words.example import Answer, Example, Steps
from nlp_adv.attacks.words.importance import by_unknown
from nlp_adv.attacks.words.search import greedy


@dataclass(frozen=True)
class DeepWordBug:
    """Words by their importance, each misspelt in the worst of four ways.

    Args:
        edits: swap, substitution, deletion and insertion of a letter.

    Deviations: words are ranked by replacing them with the unknown token (the paper's
    "Replace-1"); its temporal scores need a model that reads from left to right. The paper makes
    one kind of edit throughout; the worst of the four is taken here, as in later reimplementations.
    The budget of edits is the protocol's share of words.
    """

    edits: Source = field(default_factory=DeepWordBugEdits)

    name: ClassVar[str] = "deepwordbug"
    draws: ClassVar[bool] = True  # letters and places: its number depends on the seed
    spread: ClassVar[str] = (
        "Measured on 200 texts, its accuracy varied by about 3 points either way with the seed, "
        "and on fewer texts it varies more."
    )

    def search(self, example: Example) -> Steps[Answer]:
        """Greedy search."""
        return greedy(example, by_unknown, from_source(self.edits))
