"""BAE and BERT-Attack: candidates from a masked language model, which knows the context."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nlp_adv.attacks.words.attacks.proposals import from_mask, from_unmasked
from nlp_adv.attacks.words.example import Answer, Example, Steps
from nlp_adv.attacks.words.importance import by_deletion, by_mask
from nlp_adv.attacks.words.language_models import MaskedLanguageModel
from nlp_adv.attacks.words.search import greedy


@dataclass(frozen=True)
class BAE:
    """BAE-R: the word is masked and replaced by what the model expects there.

    Garg and Ramakrishnan, "BAE: BERT-based Adversarial Examples for Text Classification", EMNLP
    2020, https://aclanthology.org/2020.emnlp-main.498, Algorithm 1.

    Args:
        model: the masked language model.

    Deviations: the paper's limits on part of speech and similarity are the protocol's; insertions
    (BAE-I) are not made.

    Cost: one pass of the language model a word, besides the queries.
    """

    model: MaskedLanguageModel

    name: ClassVar[str] = "bae"

    def search(self, example: Example) -> Steps[Answer]:
        """Greedy search."""
        return greedy(example, by_deletion, from_mask(self.model))


@dataclass(frozen=True)
class BERTAttack:
    """BERT-Attack: what the model expects where the word stands, seen unmasked.

    Li, Ma, Guo, Xue and Qiu, "BERT-ATTACK: Adversarial Attack Against BERT Using BERT", EMNLP 2020,
    https://aclanthology.org/2020.emnlp-main.500, Algorithm 1.

    Args:
        model: the masked language model.
        each, most: words of several pieces: tokens tried a piece, and combinations tried in all.

    Deviations: the paper ranks combinations of pieces by perplexity; here they are ranked by the
    sum of their log p. Antonyms are not filtered out. Candidates are as many as the protocol
    allows (the paper: 48).

    Cost: one pass of the language model a word at most, besides the queries.
    """

    model: MaskedLanguageModel
    each: int = 4
    most: int = 24

    name: ClassVar[str] = "bert-attack"

    def search(self, example: Example) -> Steps[Answer]:
        """Greedy search."""
        propose = from_unmasked(self.model, each=self.each, most=self.most)
        return greedy(example, by_mask, propose)
