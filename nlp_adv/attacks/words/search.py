"""Greedy search: the words in their order, in each the best of its candidates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from nlp_adv.attacks.words.example import (
    Answer,
    Example,
    SimilarityRequest,
    Steps,
)
from nlp_adv.attacks.words.importance import Order
from nlp_adv.attacks.words.words import Words


class Propose(Protocol):
    """Candidates for one place of a text."""

    def __call__(self, example: Example, words: Words, place: int) -> Steps[list[str]]:
        """Best first; a generator, for sources that ask a model."""
        ...


def greedy(example: Example, order: Order, propose: Propose) -> Steps[Answer]:
    """Replace word after word while the score rises, until the goal is reached.

        for place in order:
            x' ← argmax_{x' ∈ candidates(x, place)} score(x');  x ← x' if score(x') > score(x)

    Among candidates that reach the goal, the most similar one where a sentence encoder is in use,
    otherwise the one of the highest score.
    """
    assert example.original is not None
    places = example.constraints.places(example.words)
    best = example.original
    if not _can_change(example, places):
        return best
    for place in (yield from order(example, places)):
        if example.spent:
            break
        if len(example.words.changed(best.words)) >= example.protocol.changes(len(example.words)):
            break
        best = yield from improved(example, best, place, propose)
        if best.succeeded:
            break
    return best


def improved(example: Example, best: Answer, place: int, propose: Propose) -> Steps[Answer]:
    """The best allowed candidate for a place, or what there was before."""
    if not example.template.reads(best.words, place):
        return best
    proposed = yield from propose(example, best.words, place)
    candidates = example.constraints.allowed(example.words, best.words, place, proposed)
    variants = [best.words.replaced({place: candidate}) for candidate in candidates]
    variants = example.constraints.permitted(example.words, variants)
    eager = example.protocol.similarity == "eager"
    if eager:
        variants = yield from similar(example, variants, place)
    answers = yield from example.ask(variants)
    answers = [answer for answer in answers if answer.score > best.score or answer.succeeded]
    # Sorting is stable: of equals the first proposed.
    answers.sort(key=lambda answer: (not answer.succeeded, -answer.score))
    least = example.protocol.cosine(len(example.words))
    if least is None:
        return answers[0] if answers else best
    winners = [answer.words for answer in answers if answer.succeeded]
    if winners:
        cosines = yield from similarities(example, winners, place)
        kept = [n for n in range(len(winners)) if cosines[n] >= least]
        if kept:
            return answers[max(kept, key=lambda n: (cosines[n], -n))]
    for answer in answers[len(winners) :]:
        if eager or (yield from similar(example, [answer.words], place)):
            return answer
    return best


def similar(example: Example, variants: Sequence[Words], place: int) -> Steps[list[Words]]:
    """The variants that the sentence encoder lets pass; all without that constraint."""
    least = example.protocol.cosine(len(example.words))
    if least is None or not variants:
        return list(variants)
    cosines = yield from similarities(example, variants, place)
    return [words for words, cosine in zip(variants, cosines, strict=True) if cosine >= least]


def similarities(example: Example, variants: Sequence[Words], place: int) -> Steps[list[float]]:
    """Cosine of each variant with the original, around a place; one request for them all."""
    window = example.constraints.window
    texts = [window(words, place) for words in (example.words, *variants)]
    cosines: list[float] = yield SimilarityRequest(texts)
    return cosines


def _can_change(example: Example, places: Sequence[int]) -> bool:
    return bool(places) and example.protocol.changes(len(example.words)) > 0
