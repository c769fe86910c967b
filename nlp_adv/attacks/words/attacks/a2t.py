"""A2T: the cheap attack of adversarial training for text; words in the order of one gradient.

Yoo and Qi, "Towards Improving Adversarial Training of NLP Models", Findings of EMNLP 2021,
https://arxiv.org/abs/2109.00544.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nlp_adv.attacks.words.attacks.proposals import from_source
from nlp_adv.attacks.words.candidates import Source
from nlp_adv.attacks.words.example import Answer, Example, Steps
from nlp_adv.attacks.words.importance import by_gradient
from nlp_adv.attacks.words.search import greedy


@dataclass(frozen=True)
class A2T:
    """Greedy synonym substitution, the order from one backward pass.

    Args:
        neighbours: word → synonyms, nearest first.

    Deviations: a word's importance is the mean over its tokens of the L2 norms of their gradients;
    the released code (TextAttack) takes the L1 norm of the mean of these gradients, which cancel
    where they point apart, and hangs on the axes of the embedding. The gradient is that of the
    logit margin at the label, in eval mode; the released code takes it in training mode at the
    label that a noisy pass predicts, so that its order is partly random.

    Cost: one backward pass a text instead of one forward pass a word for the order.
    """

    neighbours: Source

    name: ClassVar[str] = "a2t"

    def search(self, example: Example) -> Steps[Answer]:
        """Greedy search."""
        return greedy(example, by_gradient, from_source(self.neighbours))
