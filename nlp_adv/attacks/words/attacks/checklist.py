"""CheckList's invariance tests as an attack: names, places, numbers and contractions change.

Ribeiro, Wu, Guestrin and Singh, "Beyond Accuracy: Behavioral Testing of NLP Models with CheckList",
ACL 2020, https://aclanthology.org/2020.acl-main.442.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from nlp_adv.attacks.words.candidates.checklist import CheckListEdits
from nlp_adv.attacks.words.example import Answer, Example, Steps
from nlp_adv.attacks.words.search import similar
from nlp_adv.attacks.words.words import Words


@dataclass(frozen=True)
class CheckList:
    """The edit of the highest score first, then the best beside it, until the answer changes.

        x ← argmax_{a in the edits of unchanged places} score(a(x)), while that raises the score

    What is said stays the same, or the label does at least, so that a model that is fooled is
    wrong: few texts are, and each of them is a mistake worth looking at.

    Args:
        edits: of words and of pairs of words.

    Deviations: CheckList draws edits and counts answers that change; here the worst edits are
    looked for, as in TextAttack's recipe of that name. Of a protocol its stop words and the
    shortest word do not hold: contractions are stop words, and numbers have no letters.
    """

    edits: CheckListEdits = field(default_factory=CheckListEdits)

    name: ClassVar[str] = "checklist"
    draws: ClassVar[bool] = True  # which names and numbers: its number depends on the seed

    def search(self, example: Example) -> Steps[Answer]:
        """Greedy search over all places at once."""
        assert example.original is not None
        best, edits = example.original, self._edits(example)
        limit = example.protocol.changes(len(example.words))
        while not best.succeeded and not example.spent:
            changed = set(example.words.changed(best.words))
            variants: list[Words] = []
            for edit in edits:
                if changed & edit.keys() or len(changed) + len(edit) > limit:
                    continue
                place = min(edit)
                if not example.template.reads(best.words, place):
                    continue
                text = best.words.replaced(edit).closed()
                passed = example.constraints.permitted(example.words, [text])
                variants += yield from similar(example, passed, place)
            answers = yield from example.ask(variants)
            answers = [one for one in answers if one.succeeded or one.score > best.score]
            if not answers:
                break
            best = max(answers, key=lambda one: (one.succeeded, one.score))
        return best

    def _edits(self, example: Example) -> list[dict[int, str]]:
        """Words by place, in the order of the text."""
        words, found = example.words, list[dict[int, str]]()
        free = example.constraints.unprotected(words)
        for place in sorted(free):
            candidates = self.edits.candidates(words.words[place], example.rng)
            found += [{place: one} for one in candidates[: example.protocol.candidates]]
            if place + 1 in free and words.gaps[place + 1].isspace():
                drawn = self.edits.pair(words.words[place], words.words[place + 1])
                found += [{place: drawn, place + 1: ""}] if drawn else []
        return found
