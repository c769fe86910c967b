"""Every attack on tiny resources: tables, a masked language model, a sentence encoder."""

import functools
import random
from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
import transformers as hf
from torch import nn
from toy_victims import WORDS, light, spread, tokenizer_of

from nlp_adv.attacks.words.attacks import (
    A2T,
    BAE,
    CLARE,
    PWWS,
    BERTAttack,
    CheckList,
    DeepWordBug,
    Genetic,
    HotFlip,
    InputReduction,
    TextBugger,
    TextFooler,
    Vocabulary,
)
from nlp_adv.attacks.words.candidates.checklist import CheckListEdits
from nlp_adv.attacks.words.encoding import Splicer
from nlp_adv.attacks.words.engine import Attack
from nlp_adv.attacks.words.example import (
    Answer,
    Example,
    FillRequest,
    SimilarityRequest,
    Steps,
)
from nlp_adv.attacks.words.importance import Order, at_random, by_deletion, by_unknown
from nlp_adv.attacks.words.language_models import MaskedLanguageModel, Similarity
from nlp_adv.attacks.words.search import greedy
from nlp_adv.attacks.words.victim import Victim
from nlp_adv.attacks.words.words import Words


@dataclass(frozen=True)
class Table:
    """Candidates from a table, the way the package's own sources give them."""

    lists: dict[str, list[str]]
    fingerprint: str = "table"

    def candidates(self, word: str, rng: random.Random) -> list[str]:
        return list(self.lists.get(word.lower(), []))


@functools.cache
def neighbours(each: int = 6, seed: int = 0) -> Table:
    """Some other words of the sentences for every word, in lower case."""
    rng = random.Random(seed)
    words = sorted({word.lower() for word in WORDS})
    return Table({word: rng.sample(words, each) for word in words})


@dataclass(frozen=True)
class Shuffled:
    """Candidates that hang on the example's random numbers."""

    fingerprint: str = "shuffled"

    def candidates(self, word: str, rng: random.Random) -> list[str]:
        letters = list(word)
        return ["".join(rng.sample(letters, len(letters))) for _ in range(4)]


@dataclass(frozen=True)
class Greedy:
    """Greedy search from a table and an order, an `Attack`."""

    source: Table | Shuffled
    order: Order = by_unknown
    name: str = "greedy"

    def search(self, example: Example) -> Steps[Answer]:
        def propose(example: Example, words: Words, place: int) -> Steps[list[str]]:
            yield from ()
            return self.source.candidates(words.words[place], example.rng)

        return greedy(example, self.order, propose)


@functools.cache
def masked_lm(vocab: int = 260) -> MaskedLanguageModel:
    """Another tokenizer than the victim's: most words are one token. Shared: do not change it."""
    tokenizer = tokenizer_of("wordpiece", vocab)
    config = hf.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        model = spread(hf.BertForMaskedLM(config), 3, 0.5)
    return MaskedLanguageModel(model, tokenizer, max_length=40, fingerprint="toy")


def bag_of_words(texts: list[str]) -> np.ndarray:
    """How often each word stands in each text: a sentence encoder."""
    numbers = {word: n for n, word in enumerate(sorted({word.lower() for word in WORDS}))}
    rows = np.zeros((len(texts), len(numbers) + 1))
    for row, text in zip(rows, texts, strict=True):
        for word, count in Counter(Words.of(text.lower()).words).items():
            row[numbers.get(word, -1)] += count
    return rows


def oracles() -> dict:
    """What answers all requests but those to the victim."""
    return {FillRequest: masked_lm(), SimilarityRequest: Similarity(bag_of_words)}


def flips_of(model: nn.Module, kind: str = "wordpiece", **options) -> HotFlip:
    tokenizer = tokenizer_of(kind)
    vocabulary = Vocabulary.of(Victim(model, tokenizer), Splicer(tokenizer, 40))
    return HotFlip(vocabulary, **{"beam": 3, "tried": 5, **options})


ATTACKS = {
    "deletion": lambda: Greedy(neighbours(), by_deletion),
    "random": lambda: Greedy(neighbours(), at_random, name="random"),
    "textfooler": lambda: TextFooler(neighbours()),
    "deepwordbug": DeepWordBug,
    "textbugger": lambda: TextBugger(Shuffled()),
    "pwws": lambda: PWWS(neighbours()),
    "a2t": lambda: A2T(neighbours()),
    "hotflip": lambda: flips_of(light()),
    "bae": lambda: BAE(masked_lm()),
    "bert-attack": lambda: BERTAttack(masked_lm(), each=3, most=6),
    "clare": lambda: CLARE(masked_lm(), each=3, least=0.0),
    "genetic": lambda: Genetic(neighbours(), size=5, generations=3, nearest=3),
    "checklist": lambda: CheckList(CheckListEdits(each=2, groups=(tuple(WORDS),))),
    "input-reduction": lambda: InputReduction(beam=2),
}


@functools.cache
def attack_named(name: str) -> Attack:
    """An attack on `light()`."""
    return ATTACKS[name]()
