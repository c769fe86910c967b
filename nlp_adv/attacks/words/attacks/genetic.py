"""Genetic search: a population of texts that cross over and mutate towards another answer.

Alzantot, Sharma, Elgohary, Ho, Srivastava and Chang, "Generating Natural Language Adversarial
Examples", EMNLP 2018, https://aclanthology.org/D18-1316, Algorithm 1; with `crossover="cut"` texts
cross over as in Wang, Jin and He, "Natural Language Adversarial Attacks and Defenses in Word
Level", 2019, https://arxiv.org/abs/1909.06723 (IGA).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar, Literal, NamedTuple

from nlp_adv.attacks.words.attacks.proposals import from_source
from nlp_adv.attacks.words.candidates import Source
from nlp_adv.attacks.words.example import Answer, Example, Steps
from nlp_adv.attacks.words.search import similar
from nlp_adv.attacks.words.words import Words
from nlp_adv.errors import UserError

Options = dict[int, list[str]]  # place → what may stand there


class Drawn(NamedTuple):
    """A text that is to mutate: its first parent, itself, and where; None where nothing is free."""

    parent: Answer
    words: Words
    place: int | None


@dataclass(frozen=True)
class Genetic:
    """Words are drawn by how many candidates they have, and take the worst of these.

        P_1 ← `size` mutations of x;  then `generations` times:
        the best of P stays;  each other place takes a mutation of a child of two parents, drawn by
        their fitness;  until the best one succeeds

    Args:
        neighbours: word → synonyms, nearest first.
        size: S, texts of a population.
        generations: G.
        nearest: N, candidates a word.
        crossover: "uniform" takes each word from either parent; "cut" the words before a place
            drawn at random from one parent and those behind it from the other.

    Deviations: scores are logit margins, and a parent is drawn in proportion to its score above the
    lowest of the population, where the paper takes probabilities. No language model ranks the
    candidates (K of the N in the paper); parts of speech and similarity are the protocol's, which
    also has the largest share of changed words (0.2 in the paper). A child with more changed words
    than that loses some of them, drawn at random.

    Cost: size·nearest queries a generation at most, all of a generation in one request.
    """

    neighbours: Source
    size: int = 60
    generations: int = 20
    nearest: int = 8
    crossover: Literal["uniform", "cut"] = "uniform"

    name: ClassVar[str] = "genetic"
    draws: ClassVar[bool] = True  # places and parents: its number depends on the seed

    def __post_init__(self) -> None:
        if min(self.size, self.generations, self.nearest) < 1:
            raise UserError("size, generations and nearest must be at least 1.")

    def search(self, example: Example) -> Steps[Answer]:
        """Algorithm 1."""
        assert example.original is not None
        options = yield from self._options(example)
        if not options:
            return example.original
        drawn = [self._drawn(example, options) for _ in range(self.size)]
        population = yield from self._mutated(example, drawn, options)
        best = _best([*population, example.original])
        for _ in range(self.generations):
            if best.succeeded or example.spent:
                break
            drawn = [self._drawn(example, options, population) for _ in range(self.size - 1)]
            mutated = yield from self._mutated(example, drawn, options)
            population = [best, *mutated]
            best = _best(population)
        return best

    def _options(self, example: Example) -> Steps[Options]:
        """What may stand in each place that has something."""
        words, propose = example.words, from_source(self.neighbours)
        found: Options = {}
        for place in example.constraints.places(words):
            proposed = yield from propose(example, words, place)
            allowed = example.constraints.allowed(words, words, place, proposed)[: self.nearest]
            if allowed:
                found[place] = allowed
        return found

    def _drawn(
        self, example: Example, options: Options, population: Sequence[Answer] = ()
    ) -> Drawn:
        """A child of two parents, or the original, and the place in which it is to change."""
        assert example.original is not None
        first, words = example.original, example.words
        if population:
            first, second = self._parents(example, population)
            words = self._child(example, first, second)
        return Drawn(first, words, self._place(example, words, options))

    def _mutated(
        self, example: Example, drawn: Sequence[Drawn], options: Options
    ) -> Steps[list[Answer]]:
        """Perturb: of each text the best variant in its place.

        A text in which nothing may be changed any more stays as it is; one that is not allowed
        becomes its first parent, and so do those that the budget does not reach.
        """
        tried: list[list[Words]] = []
        for _, words, place in drawn:
            variants = [words]
            if place is not None:
                variants = [words.replaced({place: one}) for one in options[place]]
            variants = example.constraints.permitted(example.words, variants)
            if place is not None:
                variants = yield from similar(example, variants, place)
            tried.append(variants)
        answers = yield from example.ask([words for variants in tried for words in variants])
        found, rest = [], iter(answers)
        for variants, (parent, _, _) in zip(tried, drawn, strict=True):
            mine = list(islice(rest, len(variants)))
            found.append(_best(mine) if mine else parent)
        return found

    def _place(self, example: Example, words: Words, options: Options) -> int | None:
        """A word that is as it was, drawn by the number of its candidates; None without any."""
        changed = example.words.changed(words)
        if len(changed) >= example.protocol.changes(len(words)):
            return None
        free = [
            place
            for place in options
            if place not in changed and example.template.reads(words, place)
        ]
        if not free:
            return None
        return example.rng.choices(free, [len(options[place]) for place in free])[0]

    def _parents(self, example: Example, population: Sequence[Answer]) -> list[Answer]:
        least = min(answer.score for answer in population)
        fitness = [answer.score - least if answer.score > least else 0.0 for answer in population]
        total = sum(fitness)
        weights = [one / total for one in fitness] if 0 < total < float("inf") else None
        return example.rng.choices(population, weights, k=2)

    def _child(self, example: Example, first: Answer, second: Answer) -> Words:
        """Each word from one of the parents, and no more changed words than are allowed."""
        mine, other, count = first.words, second.words.words, len(first.words)
        if self.crossover == "cut":
            place = example.rng.randint(0, count)
            taken = list(range(place, count))
        else:
            taken = [place for place in range(count) if example.rng.random() < 0.5]
        child = mine.replaced({place: other[place] for place in taken})
        changed = example.words.changed(child)
        excess = max(0, len(changed) - example.protocol.changes(count))
        dropped = example.rng.sample(changed, excess)
        return child.replaced({place: example.words.words[place] for place in dropped})


def _best(answers: Sequence[Answer]) -> Answer:
    """The first of those that reached the goal, or else of the highest score."""
    return max(answers, key=lambda answer: (answer.succeeded, answer.score))
