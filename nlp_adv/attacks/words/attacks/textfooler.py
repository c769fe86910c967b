"""TextFooler: neighbours in a counter-fitted embedding, most important word first.

Jin, Jin, Zhou and Szolovits, "Is BERT Really Robust? A Strong Baseline for Natural Language Attack
on Text Classification and Entailment", AAAI 2020, https://arxiv.org/abs/1907.11932, Algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nlp_adv.attacks.words.attacks.proposals import from_source
from nlp_adv.attacks.words.candidates import Source
from nlp_adv.attacks.words.example import Answer, Example, Steps
from nlp_adv.attacks.words.importance import by_unknown
from nlp_adv.attacks.words.search import greedy


@dataclass(frozen=True)
class TextFooler:
    """Greedy synonym substitution.

    Args:
        neighbours: word → synonyms, nearest first.

    Deviations: importance is the rise of the score when the word becomes the unknown token (the
    released code; the paper deletes it), without the released code's bonus for flipped answers.
    Neighbours come from a list, of the length that the list has: the 50 nearest of the paper where
    it holds them, at most 8 in the lists of Jia et al. (EMNLP 2019). Part of speech and sentence
    similarity are the protocol's, and absent from `default`.
    """

    neighbours: Source

    name: ClassVar[str] = "textfooler"

    def search(self, example: Example) -> Steps[Answer]:
        """Greedy search."""
        return greedy(example, by_unknown, from_source(self.neighbours))
