"""Scores of tags, yes-or-no labels and next words."""

import itertools
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from nlp_adv.training.several import (
    compute_several,
    entities,
    in_answers,
    label_scores,
    marks_entities,
    tag_scores,
    word_scores,
)

NAMES = ("O", "B-a", "I-a", "B-b", "I-b")


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("", set()),
        ("O O", set()),
        ("B-a I-a O", {("a", 0, 1)}),
        ("B-a B-a", {("a", 0, 0), ("a", 1, 1)}),
        ("I-a I-a", {("a", 0, 1)}),
        ("B-a I-b I-b", {("a", 0, 0), ("b", 1, 2)}),
        ("O I-b", {("b", 1, 1)}),
        ("B-a E-a I-a", {("a", 0, 1), ("a", 2, 2)}),
        ("S-a S-a I-a", {("a", 0, 0), ("a", 1, 1), ("a", 2, 2)}),
        ("B-new-york I-new-york", {("new-york", 0, 1)}),
    ],
)
def test_entities(tags, found):
    assert entities(tags.split()) == found


def test_entities_are_those_of_seqeval():
    metrics = pytest.importorskip("seqeval.metrics.sequence_labeling")
    draw, tags = random.Random(0), ["O", *("-".join(p) for p in itertools.product("BIES", "ab"))]
    for _ in range(2000):
        sentence = draw.choices(tags, k=draw.randint(0, 8))
        assert entities(sentence) == set(metrics.get_entities(sentence))


def test_an_entity_counts_where_type_and_ends_are_right():
    right = [[1, 2, 0, 3], [0, 0]]
    said = [[1, 2, 0, 1], [3, 0]]
    scores = tag_scores(NAMES)(right, said)
    assert scores == {"precision": 1 / 3, "recall": 1 / 2, "f1": 0.4, "accuracy": 4 / 6}
    assert tag_scores(NAMES)([[0]], [[0]])["f1"] == 0.0
    assert tag_scores(NAMES)(right, [[-1] * 4, [-1] * 2])["accuracy"] == 0.0


def test_tags_that_mark_no_entity_are_classes():
    names = ("NOUN", "VERB", "O")
    assert marks_entities(NAMES)
    assert not marks_entities(names)
    assert not marks_entities(("O",))
    right, said = [[0, 1, 1], [0]], [[0, 0, 1], [0]]
    expected = f1_score([0, 1, 1, 0], [0, 0, 1, 0], average="macro")
    assert tag_scores(names)(right, said) == {"f1_macro": expected, "accuracy": 0.75}


def test_labels_of_several_classes():
    right, said = [[1, 0, 1], [0, 0, 0]], [[1, 1, 0], [0, 0, 0]]
    expected = f1_score(np.array(right), np.array(said), average="micro")
    assert label_scores(right, said) == {"f1": expected, "exact_match": 0.5, "accuracy": 4 / 6}
    assert label_scores([[0]], [[0]])["f1"] == 0.0


def test_answers_are_kept_instead_of_logits():
    logits = torch.tensor([[[0.0, 2.0, 1.0], [3.0, 3.0, 0.0], [0.0, torch.nan, 0.0]]])
    assert in_answers((logits, None), torch.zeros(1, 3).long()).tolist() == [[1, -1, -1]]
    assert in_answers(torch.tensor([[0.5, -0.5, 0.0]]), torch.zeros(1, 3)).tolist() == [[1, 0, -1]]


def test_a_trainer_is_given_the_scores_of_what_has_a_label():
    prediction = SimpleNamespace(
        predictions=np.array([[9, 1, 2, -100], [9, 0, 9, 9]]),
        label_ids=np.array([[-100, 1, 0, -100], [-100, 0, -100, -100]]),
    )
    assert compute_several(word_scores)(prediction) == {"accuracy": 2 / 3}
    found = compute_several(word_scores, largest=True)(prediction)
    assert found["largest_answer"] == 1 / 3


def test_a_language_models_answer_is_the_next_token():
    prediction = SimpleNamespace(
        predictions=np.array([[5, 6, 7, 1]]), label_ids=np.array([[4, 5, 9, -100]])
    )
    assert compute_several(word_scores, next_words=True)(prediction) == {"accuracy": 0.5}
