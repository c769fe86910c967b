"""Attacks as loops over one text at a time, the way the papers have them: what is expected."""

import functools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from toy_victims import tokenizer_of

from nlp_adv.attacks.words.protocols import Protocol
from nlp_adv.attacks.words.stop_words import ENGLISH_STOP_WORDS

# words, gaps, place → candidates
Propose = Callable[[list[str], list[str], int], list[str]]
# text as it was, text as it is, place → cosine
Compare = Callable[[str, str, int], float]

WORD = r"\w+(?:['’-]\w+)*"


@dataclass
class Said:
    """What the model answers to one text."""

    text: str
    margin: float
    wrong: bool


@functools.cache
def answered(model: nn.Module, text: str) -> list[float]:
    """The logits of one text, by itself."""
    encoded = tokenizer_of("wordpiece")(text, truncation=True, max_length=40, return_tensors="pt")
    with torch.no_grad():
        return model(**encoded)["logits"][0].tolist()


class Asker:
    """One text after the other through tokenizer and model; every question counts."""

    def __init__(self, model, label: int, budget: float, goal: int | None = None) -> None:
        self.model, self.label, self.budget, self.goal = model, label, budget, goal
        self.queries = 0

    def __call__(self, text: str) -> Said | None:
        if self.queries >= self.budget:
            return None
        self.queries += 1
        z = answered(self.model, text)
        best = z.index(max(z))
        if self.goal is not None:
            others = [value for j, value in enumerate(z) if j != self.goal]
            return Said(text, z[self.goal] - max(others), best == self.goal)
        others = [value for j, value in enumerate(z) if j != self.label]
        return Said(text, max(others) - z[self.label], best != self.label)


def taken_apart(text: str) -> tuple[list[str], list[str]]:
    return re.findall(WORD, text), re.split(WORD, text)


def put_together(words: list[str], gaps: list[str]) -> str:
    return "".join(gap + word for gap, word in zip(gaps, [*words, ""], strict=True))


def with_word(words: list[str], gaps: list[str], place: int, word: str) -> str:
    return put_together([*words[:place], word, *words[place + 1 :]], gaps)


def attackable(words: list[str], protocol: Protocol) -> list[int]:
    return [
        i
        for i, word in enumerate(words)
        if len(word) >= 2
        and any(c.isalpha() for c in word)
        and (protocol.stop_words == "none" or word.lower() not in ENGLISH_STOP_WORDS)
    ]


def most_changes(words: list[str], protocol: Protocol) -> int:
    share = round(protocol.max_changed * len(words))
    return min(len(words), max(share, protocol.min_changed))


def distinct(word: str, candidates: list[str], most: int) -> list[str]:
    found: list[str] = []
    for candidate in candidates:
        if candidate not in (word, "", *found):
            found.append(candidate)
    return found[:most]


def from_source(source, rng) -> Propose:
    return lambda words, gaps, place: source.candidates(words[place], rng)


def greedy(
    asker: Asker,
    text: str,
    propose: Propose,
    protocol: Protocol,
    stand_in: str,
    compare: Compare | None = None,
) -> Said:
    """TextFooler, Algorithm 1; DeepWordBug, TextBugger, BAE and BERT-Attack alike.

    stand_in: what takes the place of a word when its importance is measured.
    """
    least = protocol.min_similarity
    words, gaps = taken_apart(text)
    original = asker(text)
    assert original is not None
    if original.wrong:
        return original
    importance = []
    for i in attackable(words, protocol):
        said = asker(with_word(words, gaps, i, stand_in))
        importance.append((-math.inf if said is None else said.margin - original.margin, -i))
    order = [-negative for _, negative in sorted(importance, reverse=True)]
    best, changed = original, 0
    for i in order:
        if changed == most_changes(words, protocol) or asker.queries >= asker.budget:
            break
        tried = []
        for candidate in distinct(words[i], propose(words, gaps, i), protocol.candidates):
            changed_text = with_word(words, gaps, i, candidate)
            cosine = 1.0 if compare is None else compare(text, changed_text, i)
            if protocol.similarity == "eager" and least is not None and cosine < least:
                continue
            said = asker(changed_text)
            if said is not None and (least is None or cosine >= least):
                tried.append((candidate, said, cosine))
        winners = [one for one in tried if one[1].wrong]
        better = [one for one in tried if one[1].margin > best.margin]
        if winners and compare is not None:  # the most similar of those that succeed
            candidate, best, _ = max(winners, key=lambda one: (one[2], one[1].margin))
        elif winners or better:
            candidate, best, _ = max(winners or better, key=lambda one: one[1].margin)
        else:
            continue
        words[i] = candidate
        changed += 1
        if best.wrong:
            break
    return best


def pwws(asker: Asker, text: str, propose: Propose, protocol: Protocol, stand_in: str) -> Said:
    """Ren et al., Algorithm 1, with margins for probabilities and saliencies of unit size."""
    words, gaps = taken_apart(text)
    original = asker(text)
    assert original is not None
    if original.wrong:
        return original
    places = attackable(words, protocol)
    saliency = {}
    for i in places:
        said = asker(with_word(words, gaps, i, stand_in))
        if said is not None:
            saliency[i] = said.margin - original.margin
    chosen = {}
    for i in places:
        for candidate in distinct(words[i], propose(words, gaps, i), protocol.candidates):
            said = asker(with_word(words, gaps, i, candidate))
            if said is not None and said.margin > chosen.get(i, ("", original.margin))[1]:
                chosen[i] = (candidate, said.margin)
    largest = max((abs(s) for s in saliency.values()), default=0) or 1
    total = sum(math.exp(s / largest) for s in saliency.values())
    weight = {
        i: math.exp(saliency[i] / largest) / total * (chosen[i][1] - original.margin)
        for i in chosen
    }
    best = original
    order = sorted(weight, key=lambda i: (-weight[i], i))
    for i in order[: most_changes(words, protocol)]:
        words[i] = chosen[i][0]
        said = asker(put_together(words, gaps))
        if said is None:
            break
        best = said
        if best.wrong:
            break
    return best
