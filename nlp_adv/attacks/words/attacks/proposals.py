"""Candidates for one place of a text, from a table or from a masked language model."""

from __future__ import annotations

from nlp_adv.attacks.words.candidates import Source
from nlp_adv.attacks.words.example import Example, FillRequest, Steps
from nlp_adv.attacks.words.language_models import MaskedLanguageModel
from nlp_adv.attacks.words.search import Propose
from nlp_adv.attacks.words.words import Words, in_the_case_of


def from_source(source: Source) -> Propose:
    """Candidates of the original word, whatever stands around it."""

    def propose(example: Example, words: Words, place: int) -> Steps[list[str]]:
        yield from ()
        return source.candidates(words.words[place], example.rng)

    return propose


def from_mask(model: MaskedLanguageModel) -> Propose:
    """What a masked language model expects where the word is masked."""

    def propose(example: Example, words: Words, place: int) -> Steps[list[str]]:
        masked = words.replaced({place: str(model.tokenizer.mask_token)})
        (tokens,) = yield FillRequest([masked], [place], example.protocol.candidates)
        found = (model.word([token]) for token, _ in tokens[0]) if tokens else ()
        return [in_the_case_of(words.words[place], word) for word in found if word]

    return propose


def from_unmasked(model: MaskedLanguageModel, *, each: int, most: int) -> Propose:
    """What a masked language model expects where the word stands, unmasked, in the original text.

    Args:
        model: the language model.
        each: tokens tried for each piece of a word of several pieces.
        most: combinations of those, by falling summed log p.
    """

    def propose(example: Example, words: Words, place: int) -> Steps[list[str]]:
        count = example.protocol.candidates
        (tokens,) = yield FillRequest([example.words], [place], count)
        if len(tokens) == 1:
            pools = [[chosen] for chosen in tokens[0]]
        else:
            pools = [[]] if tokens else []
            for piece in tokens:  # what is among the best sums begins as one of the best sums
                longer = [[*chosen, one] for chosen in pools for one in piece[:each]]
                pools = sorted(longer, key=lambda chosen: -sum(log_p for _, log_p in chosen))[:most]
        found = (model.word([token for token, _ in chosen]) for chosen in pools)
        return [in_the_case_of(words.words[place], word) for word in found if word]

    return propose
