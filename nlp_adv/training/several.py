"""Scores of examples with several answers each: tags of words, yes-or-no labels, next words.

A score takes the right answers and the model's, one list an example, so that it says the same of an
evaluation and of an attack.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.metrics import f1_score
from torch import Tensor

from nlp_adv.perturbation.evaluating import answers

if TYPE_CHECKING:
    from transformers import EvalPrediction

Answers = Sequence[Sequence[int]]
Scores = Callable[[Answers, Answers], dict[str, float]]

NONE = -100  # the label of what has no right answer, as in transformers
_BEGINS, _ENDS, _IN = ("B", "S", "U"), ("E", "S", "L", "U"), ("I", "M")


def entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """The entities of one sentence: (type, first word, last word), by the rules of conlleval.

    A tag is "O" or a prefix and a type, such as B-person. An entity begins at a B (or S, U), and
    wherever its type changes or the word before is in none, whatever the prefix: a tagger that
    forgets a B still finds the entity.

    Source: Tjong Kim Sang and De Meulder, "Introduction to the CoNLL-2003 shared task", 2003,
    section 2.4, for what counts; the lenient reading is that of its script.
    """
    found: set[tuple[str, int, int]] = set()
    begun, before = -1, "O"
    for place, tag in enumerate([*tags, "O"]):
        prefix, _, kind = tag.partition("-")
        last, _, previous = before.partition("-")
        inside = last != "O" and last not in _ENDS
        goes_on = tag != "O" and inside and prefix not in _BEGINS and kind == previous
        if begun >= 0 and not goes_on:
            found.add((previous, begun, place - 1))
            begun = -1
        if tag != "O" and not goes_on:
            begun = place
        before = tag
    return found


def marks_entities(names: Sequence[str]) -> bool:
    """Whether tags are "O" and prefixes with types; others, as parts of speech, are classes."""
    prefixes = {*_BEGINS, *_ENDS, *_IN}
    others = [name for name in names if name != "O"]
    return bool(others) and all(
        name.partition("-")[0] in prefixes and name.partition("-")[2] for name in others
    )


def tag_scores(names: Sequence[str]) -> Scores:
    """Of tags of words: "accuracy" of words, and of entities "precision", "recall" and "f1".

    An entity is found where its type and both its ends are right; all sentences count together.
    Tags that mark no entities have "f1_macro" over the tags instead.

    Args:
        names: of the tags, in the model's order.
    """

    def named(tags: Sequence[int]) -> list[str]:
        return [names[tag] if 0 <= tag < len(names) else "O" for tag in tags]

    def of_entities(right: Answers, said: Answers) -> dict[str, float]:
        there = [entities(named(tags)) for tags in right]
        found = [entities(named(tags)) for tags in said]
        hits = sum(len(one & other) for one, other in zip(there, found, strict=True))
        precision = _share(hits, sum(map(len, found)))
        recall = _share(hits, sum(map(len, there)))
        f1 = _share(2 * precision * recall, precision + recall)
        scores = {"precision": precision, "recall": recall, "f1": f1}
        return scores | word_scores(right, said)

    def of_classes(right: Answers, said: Answers) -> dict[str, float]:
        one, other = _flat(right), _flat(said)
        labels = sorted({*one.tolist(), *other.tolist()} & {*range(len(names))})
        f1 = f1_score(one, other, labels=labels, average="macro", zero_division=0.0)
        return {"f1_macro": float(f1)} | word_scores(right, said)

    return of_entities if marks_entities(names) else of_classes


def label_scores(right: Answers, said: Answers) -> dict[str, float]:
    """Of yes-or-no labels: "f1" of all yeses together, "accuracy" of labels, "exact_match" of rows.

    Args:
        right: 0 or 1 of each label of a row.
        said: the same of the model.
    """
    hits = sum(one == other == 1 for one, other in _pairs(right, said))
    yeses = sum(sum(answer == 1 for answer in row) for rows in (right, said) for row in rows)
    exact = [list(one) == list(other) for one, other in zip(right, said, strict=True)]
    scores = {"f1": _share(2 * hits, yeses), "exact_match": _share(sum(exact), len(exact))}
    return scores | word_scores(right, said)


def word_scores(right: Answers, said: Answers) -> dict[str, float]:
    """The "accuracy" of all answers together."""
    hits = [one == other for one, other in _pairs(right, said)]
    return {"accuracy": _share(sum(hits), len(hits))}


def in_answers(logits: Any, labels: Any) -> Tensor:
    """What a Trainer keeps of its logits: each answer's class, see `answers`.

    Args:
        logits: (B, T, C), or (B, L) of yes-or-no labels; of a tuple the first.
        labels: (B, T) or, of yes-or-no labels, (B, L), which are floating-point numbers.
    """
    logits = logits[0] if isinstance(logits, list | tuple) else logits
    if isinstance(labels, Tensor) and labels.is_floating_point():
        logits = torch.stack([torch.zeros_like(logits), logits], -1)
    return answers(logits)


def compute_several(
    scores: Scores, *, next_words: bool = False, largest: bool = False
) -> Callable[[EvalPrediction], dict[str, float]]:
    """Return what a Trainer takes as ``compute_metrics``, beside `in_answers`.

    Args:
        scores: of answers.
        next_words: an answer is about the token after its own, as a language model's.
        largest: with the share of the most frequent answer, `largest_answer`.
    """

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        said, right = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
        if next_words:
            said, right = said[:, :-1], right[:, 1:]
        there = right != NONE
        rows = range(len(right))
        one = [right[row][there[row]].astype(int).tolist() for row in rows]
        other = [said[row][there[row]].astype(int).tolist() for row in rows]
        found = scores(one, other)
        if largest:
            counts = np.unique(_flat(other), return_counts=True)[1]
            found["largest_answer"] = _share(int(counts.max(initial=0)), int(counts.sum()))
        return found

    return compute


def _pairs(right: Answers, said: Answers) -> list[tuple[int, int]]:
    rows = zip(right, said, strict=True)
    return [pair for one, other in rows for pair in zip(one, other, strict=True)]


def _flat(rows: Answers) -> np.ndarray[Any, Any]:
    return np.asarray([answer for row in rows for answer in row], dtype=np.int64)


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0
