"""Input reduction: as few words as the model still gives its answer for.

Feng, Wallace, Grissom, Iyyer, Rodriguez and Boyd-Graber, "Pathologies of Neural Models Make
Interpretations Difficult", EMNLP 2018, https://aclanthology.org/D18-1407, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nlp_adv.attacks.words.example import Answer, Example, Steps
from nlp_adv.attacks.words.words import Words
from nlp_adv.errors import UserError


@dataclass(frozen=True)
class InputReduction:
    """Takes out the word that the answer needs least, again and again, while it stays the same.

    Not an attack: the answer never changes, so that accuracy under it is clean accuracy. Its number
    is how many words it took out; a model that is as sure of the two words that are left as it was
    of the text does not read it as people do.

    Args:
        beam: texts kept after each word.

    Deviations: the word that is needed least is the one whose removal lowers the logit margin of
    the answer least, asked of the model and not estimated by a gradient. Words are whole words, and
    one always stays. Of a protocol the budget, protected words and constraints of one's own hold;
    its share of words and its stop words do not, since words of any kind are taken out.
    A text that fills the model's input stays as it is: what lies behind its cut would move up.

    Cost: up to beam·n queries a word, n words being left.
    """

    beam: int = 5

    name: ClassVar[str] = "input-reduction"

    def __post_init__(self) -> None:
        if self.beam < 1:
            raise UserError(f"beam is {self.beam}; it must be at least 1.")

    def search(self, example: Example) -> Steps[Answer]:
        """Beam search over deletions; of texts of as many words the surest."""
        assert example.original is not None
        if example.template.fills(example.template.original):
            return example.original
        free = example.constraints.unprotected(example.words)
        kept = [example.original]
        while True:
            variants: dict[Words, None] = {}  # two words taken out in either order are one text
            for answer in kept:
                left = [p for p in range(len(example.words)) if answer.words.words[p]]
                for place in left if len(left) > 1 else ():
                    if place in free:
                        gone = {p: "" for p in range(len(example.words)) if p not in left}
                        variants.setdefault(example.words.replaced(gone | {place: ""}).closed())
            permitted = example.constraints.permitted(example.words, list(variants))
            answers = yield from example.ask(permitted)
            stay = [one for one in answers if one.prediction == example.label]
            if not stay:
                return kept[0]
            kept = sorted(stay, key=lambda one: one.score)[: self.beam]
            if example.spent:
                return kept[0]

    @staticmethod
    def note(shares: list[float]) -> str:
        """What a reader must know of its numbers.

        Args:
            shares: of the words of each text that were taken out.
        """
        mean = sum(shares) / len(shares) if shares else 0.0
        return (
            f"input-reduction took out {100 * mean:.0f} % of the words of {len(shares)} texts, and "
            f"the answers stayed: that share is its number, and accuracy under it is clean "
            f"accuracy."
        )
