"""What a search over the words of one text came to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Outcome = Literal["wrong", "robust", "fooled"]
"""Wrong without attack, and so not attacked; right whatever the attack did; led to another answer,
or to the target."""


@dataclass(frozen=True, kw_only=True)
class WordResult:
    """One attack on one text.

    Args:
        id: the text's number in the data.
        attack: the attack's name.
        original: the attacked text; of a pair, the part that the protocol names.
        adversarial: the text that the attack ended with; of a text that is wrong, the original.
        context: the other text of a pair.
        label: the right class.
        outcome: what came of it.
        queries: asked of the model, counted as the protocol counts them, the original included.
        forwards: texts that the model was really run on.
        tokens: in those texts, without padding.
        words: of the original, as many as the model reads.
        words_changed: of those, in `adversarial`.
        prediction, adversarial_prediction: answers to the two texts.
        confidence, adversarial_confidence: softmax probabilities of these answers.
        budget_stopped: whether the attack ended because its query budget was spent.
    """

    id: int
    attack: str
    original: str
    adversarial: str
    context: str | None
    label: int
    outcome: Outcome
    queries: int
    forwards: int
    tokens: int
    words: int
    words_changed: int
    prediction: int
    adversarial_prediction: int
    confidence: float
    adversarial_confidence: float
    budget_stopped: bool
