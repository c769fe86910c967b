"""TextBugger: five kinds of bugs, of which each word gets the worst.

Li, Ji, Du, Li and Wang, "TextBugger: Generating Adversarial Text Against Real-world Applications",
NDSS 2019, https://arxiv.org/abs/1812.05271, Algorithm 3 (black box).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nlp_adv.attacks.words.attacks.proposals import from_source
from nlp_adv.attacks.words.candidates import Source
from nlp_adv.attacks.words.example import Answer, Example, Steps
from nlp_adv.attacks.words.importance import by_deletion
from nlp_adv.attacks.words.search import greedy


@dataclass(frozen=True)
class TextBugger:
    """Words by what their deletion does, each replaced by its worst bug.

    Args:
        bugs: insert a space, delete, swap, substitute by a look-alike, substitute by a neighbour.

    Deviations: the paper first ranks the sentences of a document and then the words of each; here
    all words are ranked together, which asks more of long documents.
    """

    bugs: Source

    name: ClassVar[str] = "textbugger"
    draws: ClassVar[bool] = True  # letters and places: its number depends on the seed

    def search(self, example: Example) -> Steps[Answer]:
        """Greedy search."""
        return greedy(example, by_deletion, from_source(self.bugs))
