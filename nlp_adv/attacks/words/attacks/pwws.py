"""PWWS: synonyms of WordNet, ordered by saliency times effect.

Ren, Deng, He and Che, "Generating Natural Language Adversarial Examples through Probability
Weighted Word Saliency", ACL 2019, https://aclanthology.org/P19-1103, Algorithm 1:

    w*_i = argmax_{w ∈ candidates(i)} score(x with w at i),   ΔP_i = score(x with w*_i) − score(x)
    H_i = φ(S)_i · ΔP_i,   S_i = score(x without word i) − score(x),   φ = softmax

The w*_i are put into the text in the order of H until the answer is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from nlp_adv.attacks.words.attacks.proposals import from_source
from nlp_adv.attacks.words.candidates import Source
from nlp_adv.attacks.words.example import Answer, Example, Steps
from nlp_adv.attacks.words.importance import gains_of, ranked, unknown_word
from nlp_adv.attacks.words.search import similar


@dataclass(frozen=True)
class PWWS:
    """Probability weighted word saliency.

    Args:
        synonyms: word → synonyms.

    Deviations: scores are logit margins, not probabilities; the saliencies of a text are divided by
    the largest of them before the softmax, so that its result does not change with the scale of
    the logits. Named entities get no candidates of their own. A candidate that makes a text
    harder to attack is never chosen. Each w*_i is chosen once, in the original text, as in
    Algorithm 1 and the authors' code; TextAttack's PWWS chooses it again in the text as it is by
    then, which asks more queries and finds other texts.
    """

    synonyms: Source

    name: ClassVar[str] = "pwws"

    def search(self, example: Example) -> Steps[Answer]:
        """Algorithm 1; the candidates of all words are asked about together."""
        assert example.original is not None
        words = example.words
        places = example.constraints.places(words)
        saliency = yield from gains_of(example, places, unknown_word(example))
        best = yield from self._best(example, places)
        effects = [best[place].score if place in best else -torch.inf for place in places]
        gains = [effect - example.original.score for effect in effects]
        weights = _softmax(saliency)
        order = ranked(places, [weight * gain for weight, gain in zip(weights, gains, strict=True)])
        found = example.original
        limit = example.protocol.changes(len(example.words))
        for place in [place for place in order if place in best][:limit]:
            if not example.template.reads(found.words, place):
                continue
            changed = found.words.replaced({place: best[place].words.words[place]})
            if not example.constraints.permitted(words, [changed]):
                continue  # each word passes alone, and not all of them together
            answers = yield from example.ask([changed])
            if not answers:
                break
            found = answers[0]
            if found.succeeded:
                break
        return found

    def _best(self, example: Example, places: list[int]) -> Steps[dict[int, Answer]]:
        """For each place the candidate of the highest score, where one raises it."""
        assert example.original is not None
        propose, words = from_source(self.synonyms), example.words
        variants, owners = [], []
        for place in places:
            proposed = yield from propose(example, words, place)
            allowed = example.constraints.allowed(words, words, place, proposed)
            changed = [words.replaced({place: candidate}) for candidate in allowed]
            changed = example.constraints.permitted(words, changed)
            changed = yield from similar(example, changed, place)
            variants += changed
            owners += [place] * len(changed)
        best: dict[int, Answer] = {}
        answers = yield from example.ask(variants)
        for place, answer in zip(owners, answers, strict=False):
            if answer.score > best.get(place, example.original).score:
                best[place] = answer
        return best


def _softmax(saliency: list[float]) -> list[float]:
    values = torch.tensor(saliency, dtype=torch.float64)
    finite = values[torch.isfinite(values)]
    largest = finite.abs().max() if len(finite) else torch.tensor(0.0)
    scaled = values / largest if largest > 0 else values
    weights: list[float] = scaled.softmax(0).tolist() if len(finite) else [0.0] * len(saliency)
    return weights
