"""HotFlip: the word flips of largest first-order effect, found by beam search.

Ebrahimi, Rao, Lowd and Dou, "HotFlip: White-Box Adversarial Examples for Text Classification", ACL
2018, https://aclanthology.org/P18-2006, equation (2) for words:

    score(x with v at i) − score(x) ≈ ∇_i score(x) · (E_v − E_{x_i})
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nlp_adv.attacks.words.encoding import Splicer
from nlp_adv.attacks.words.example import Answer, Example, Steps
from nlp_adv.attacks.words.search import similar
from nlp_adv.attacks.words.victim import Victim
from nlp_adv.attacks.words.words import Words, in_the_case_of
from nlp_adv.errors import UserError


@dataclass(frozen=True)
class Vocabulary:
    """The words of a model's vocabulary that are one token.

    Args:
        words: V of them, in lower case.
        vectors: (V, D), their embeddings.
        place: word → its number.
    """

    words: list[str]
    vectors: Tensor
    place: dict[str, int]

    @classmethod
    def of(cls, victim: Victim, splicer: Splicer) -> Vocabulary:
        """Read a model's.

        Raises:
            UserError: its embedding is no matrix with a row a token.
        """
        tokenizer = splicer.tokenizer
        matrix = getattr(victim.word_embedding(), "weight", None)
        if not isinstance(matrix, Tensor) or matrix.ndim != 2 or len(matrix) < len(tokenizer):
            raise UserError(
                "hotflip needs a word embedding with one row a token, which this model does not "
                "have; choose another attack."
            )
        spelt = {token: str(tokenizer.decode([token])).strip() for token in range(len(tokenizer))}
        spelt = {t: word for t, word in spelt.items() if word.isalpha() and word.islower()}
        splicer.learn(f" {word}" for word in spelt.values())
        whole = {word: t for t, word in spelt.items() if splicer.ids(f" {word}") == (t,)}
        vectors = matrix.detach()[list(whole.values())].float().cpu()
        return cls(list(whole), vectors, {word: n for n, word in enumerate(whole)})


@dataclass(frozen=True)
class HotFlip:
    """Beam search over word flips, estimated by one gradient a text and then tried exactly.

    Args:
        vocabulary: of the attacked model.
        beam: texts kept after each flip.
        tried: flips of the largest estimates that the model is asked about, over all texts kept.
        min_cosine: the least cosine of the two words' embeddings; −1 is no limit.

    Deviations: works on words that are one token; the paper's model reads characters, for which
    sub-word models have no gradient. The released limits on cosine (0.8, of other embeddings) and
    part of speech are the field and the protocol.

    Cost: a backward pass and `tried` forward passes a flip, for each text kept.
    """

    vocabulary: Vocabulary
    beam: int = 4
    tried: int = 16
    min_cosine: float = -1.0

    name: ClassVar[str] = "hotflip"

    def search(self, example: Example) -> Steps[Answer]:
        """One flip after the other, until the goal is reached."""
        assert example.original is not None
        kept = [example.original]
        flipped: set[Words] = set()
        for _ in range(example.protocol.changes(len(example.words))):
            flips: list[tuple[float, int, Words]] = []
            for words in [answer.words for answer in kept if answer.words not in flipped]:
                flips += yield from self._flips(example, words)
                flipped.add(words)  # a text that stays in the beam has no other flips later
            flips.sort(key=lambda flip: -flip[0])
            distinct: dict[Words, int] = {}  # two flips in either order are one text
            for _, place, words in flips:
                distinct.setdefault(words, place)
            variants = []
            for words, place in list(distinct.items())[: self.tried]:
                passed = example.constraints.permitted(example.words, [words])
                variants += yield from similar(example, passed, place)
            answers = yield from example.ask(variants)
            if not answers:
                break
            ranked = sorted([*kept, *answers], key=lambda answer: -answer.score)
            if ranked[: self.beam] == kept:
                break
            kept = ranked[: self.beam]
            if kept[0].succeeded or example.spent:
                break
        return kept[0]

    def _flips(self, example: Example, words: Words) -> Steps[list[tuple[float, int, Words]]]:
        """(estimate, place, text) of the most promising flips of one text."""
        places = self._places(example, words)
        if not places:
            return []
        grad = yield from example.gradient(words)
        if example.spent:
            return []
        spans = example.template.spans(words)
        numbers = [self.vocabulary.place[words.words[place].lower()] for place in places]
        own = self.vocabulary.vectors[numbers]
        slopes = grad[[spans[place][0] for place in places]].to(own.dtype)
        gains = slopes @ self.vocabulary.vectors.T - (slopes * own).sum(1, keepdim=True)
        if self.min_cosine > -1:
            unit = torch.nn.functional.normalize(self.vocabulary.vectors, dim=1)
            gains = gains.masked_fill(unit[numbers] @ unit.T < self.min_cosine, -torch.inf)
        best = gains.flatten().topk(min(4 * self.tried, gains.numel()))
        flips = []
        for gain, flat in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            place = places[flat // gains.shape[1]]
            word = self.vocabulary.words[flat % gains.shape[1]]
            word = in_the_case_of(words.words[place], word)
            if gain > 0 and example.constraints.allowed(example.words, words, place, [word]):
                flips.append((gain, place, words.replaced({place: word})))
        return flips[: self.tried]

    def _places(self, example: Example, words: Words) -> list[int]:
        """Words that may be changed, are one token and were not cut off."""
        spans = example.template.spans(words)
        free = set(example.constraints.places(example.words))
        if not example.protocol.repeat:
            free -= set(example.words.changed(words))
        known = self.vocabulary.place
        return [p for p in sorted(free) if words.words[p].lower() in known and len(spans[p]) == 1]
