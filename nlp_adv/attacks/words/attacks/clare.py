"""CLARE: words are replaced, inserted and merged by what a masked language model expects.

Li, Zhang, Peng, Chen, Brockett, Sun and Dolan, "Contextualized Perturbation for Textual Adversarial
Attack", NAACL 2021, https://aclanthology.org/2021.naacl-main.400, Algorithm 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from nlp_adv.attacks.words.example import Answer, Example, FillRequest, Steps
from nlp_adv.attacks.words.language_models import MaskedLanguageModel
from nlp_adv.attacks.words.search import similar
from nlp_adv.attacks.words.words import Words, in_the_case_of


class Edit(NamedTuple):
    """Words in their places; "" takes one out."""

    places: tuple[int, ...]
    words: tuple[str, ...]

    def of(self, words: Words) -> Words:
        """The text after the edit."""
        return words.replaced(dict(zip(self.places, self.words, strict=True))).closed()


@dataclass(frozen=True)
class CLARE:
    """Each place gets the worst of three kinds of edits, and the places their turn by its effect.

        replace: … w_i …      → … z …
        insert:  … w_i …      → … w_i z …
        merge:   … w_i w_i+1 … → … z …

        a_i = argmax over the edits at i of score(a(x));  the a_i in turn, by falling score,
        until one succeeds

    Args:
        model: the masked language model.
        each: candidates tried an edit, the likeliest.
        least: the smallest probability that the language model gives a candidate.

    Deviations: any two words may be merged that the protocol lets an attack touch; TextAttack's
    version merges pairs of certain parts of speech, which takes a tagger. The paper tries all
    candidates above `least`; `each` of them are tried here, since budgets are by the word.
    Similarity is the protocol's, and so are parts of speech, which are compared where one word is
    replaced by another.

    Cost: 3·each queries a word, asked together, and one pass of the language model an edit.
    """

    model: MaskedLanguageModel
    each: int = 8
    least: float = 5e-4

    name: ClassVar[str] = "clare"

    def search(self, example: Example) -> Steps[Answer]:
        """Algorithm 1."""
        assert example.original is not None
        edits = yield from self._edits(example)
        answers = yield from example.ask([edit.of(example.words) for edit in edits])
        worst: dict[int, tuple[Answer, Edit]] = {}
        for answer, edit in zip(answers, edits, strict=False):
            place = edit.places[0]
            before = worst[place][0] if place in worst else example.original
            if (answer.succeeded, answer.score) > (before.succeeded, before.score):
                worst[place] = answer, edit
        order = sorted(worst, key=lambda p: (not worst[p][0].succeeded, -worst[p][0].score, p))
        limit = example.protocol.changes(len(example.words))
        best, done = example.original, set[int]()
        for place in order:
            if best.succeeded:
                break
            edit = worst[place][1]
            if not done:  # alone it has been asked about
                best, done = worst[place][0], {*edit.places}
                continue
            if done & {*edit.places} or len(done) + len(edit.places) > limit:
                continue
            changed = edit.of(best.words)
            if not example.constraints.permitted(example.words, [changed]):
                continue  # each edit passes alone, and not all of them together
            answers = yield from example.ask([changed])
            if not answers:
                break
            best, done = answers[0], done | {*edit.places}
        return best

    def _edits(self, example: Example) -> Steps[list[Edit]]:
        """What may be tried, place by place."""
        words, mask = example.words, str(self.model.tokenizer.mask_token)
        places, limit = example.constraints.places(words), example.protocol.changes(len(words))
        asked: list[tuple[str, Edit]] = []
        for place in places:
            old = words.words[place]
            asked.append(("replace", Edit((place,), (mask,))))
            asked.append(("insert", Edit((place,), (f"{old} {mask}",))))
            if place + 1 in places and limit > 1:
                asked.append(("merge", Edit((place, place + 1), (mask, ""))))
        if not asked:
            return []
        masked = [edit.of(words) for _, edit in asked]
        firsts = [edit.places[0] for _, edit in asked]
        filled = yield FillRequest(masked, firsts, example.protocol.candidates)
        found: list[Edit] = []
        for (kind, edit), tokens in zip(asked, filled, strict=True):
            expected = tokens[-1] if tokens else ()  # at the mask, which is the last of its word
            likely = [token for token, log_p in expected if math.exp(log_p) >= self.least]
            candidates = [one for one in (self.model.word([token]) for token in likely) if one]
            found += yield from self._allowed(example, kind, edit.places, candidates)
        return found

    def _allowed(
        self, example: Example, kind: str, places: tuple[int, ...], candidates: list[str]
    ) -> Steps[list[Edit]]:
        words, place = example.words, places[0]
        old = words.words[place]
        candidates = [one if kind == "insert" else in_the_case_of(old, one) for one in candidates]
        if kind == "replace":
            candidates = example.constraints.allowed(words, words, place, candidates)
        candidates = [one for one in dict.fromkeys(candidates) if kind != "merge" or one != old]
        edits = [
            Edit(places, (f"{old} {one}" if kind == "insert" else one, *[""] * (len(places) - 1)))
            for one in candidates[: self.each]
        ]
        by_text = {edit.of(words): edit for edit in edits}
        passed = example.constraints.permitted(words, list(by_text))
        passed = yield from similar(example, passed, place)
        return [by_text[text] for text in passed]
