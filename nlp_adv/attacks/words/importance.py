"""In which order words are attacked: the most important first, ties by place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch

from nlp_adv.attacks.words.example import Example, Steps

Order: TypeAlias = Callable[[Example, Sequence[int]], Steps[list[int]]]


def by_deletion(example: Example, places: Sequence[int]) -> Steps[list[int]]:
    """How much the score rises when the word is taken out; one query a word."""
    gains = yield from gains_of(example, places, "")
    return ranked(places, gains)


def by_unknown(example: Example, places: Sequence[int]) -> Steps[list[int]]:
    """How much the score rises when the word becomes the unknown token; one query a word.

    A vocabulary without an unknown token (byte-level ones) has the word taken out.
    """
    gains = yield from gains_of(example, places, unknown_word(example))
    return ranked(places, gains)


def by_mask(example: Example, places: Sequence[int]) -> Steps[list[int]]:
    """How much the score rises when the word becomes the mask token; one query a word."""
    mask = example.template.splicer.tokenizer.mask_token or ""
    gains = yield from gains_of(example, places, str(mask))
    return ranked(places, gains)


def by_gradient(example: Example, places: Sequence[int]) -> Steps[list[int]]:
    """Mean over the word's tokens of ‖∇ score‖₂ at each of them; one query in all."""
    grad = yield from example.gradient(example.words)
    lengths = torch.linalg.vector_norm(grad.double(), dim=-1)
    spans = example.template.spans(example.words)
    norms = [lengths[list(spans[place])].mean().item() if spans[place] else 0.0 for place in places]
    return ranked(places, norms)


def at_random(example: Example, places: Sequence[int]) -> Steps[list[int]]:
    """Any order: the baseline that shows what an order is worth; no query."""
    yield from ()
    return example.rng.sample(list(places), len(places))


def gains_of(example: Example, places: Sequence[int], word: str) -> Steps[list[float]]:
    """Rise of the score with `word` in each of the places; −inf where the budget was spent."""
    assert example.original is not None
    variants = [example.words.replaced({place: word}) for place in places]
    answers = yield from example.ask(variants)
    gains = [answer.score - example.original.score for answer in answers]
    return gains + [-torch.inf] * (len(places) - len(gains))


def unknown_word(example: Example) -> str:
    """What stands for no word in the model's vocabulary; "" where there is nothing such."""
    tokenizer = example.template.splicer.tokenizer
    unknown = tokenizer.unk_token
    # Byte-level vocabularies name their end-of-text token here, which would end the text.
    return "" if unknown is None or unknown == tokenizer.eos_token else str(unknown)


def ranked(places: Sequence[int], gains: Sequence[float]) -> list[int]:
    """The places by falling gain."""
    gain_of = dict(zip(places, gains, strict=True))
    return sorted(places, key=lambda place: (-gain_of[place], place))
