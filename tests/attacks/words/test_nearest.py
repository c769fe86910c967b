"""Neighbour lists from word vectors: equal to the definition, and refused where the file is odd."""

import math
import random

import pytest
import torch

from nlp_adv.attacks.words.candidates import CandidateTable, nearest
from nlp_adv.attacks.words.candidates.nearest import nearest_words, read_vectors
from nlp_adv.errors import UserError


def naive(words, vectors, most, least):
    """The definition, word by word, in float64."""
    found = {}
    for i, u in enumerate(vectors.double()):
        near = []
        for j, v in enumerate(vectors.double()):
            if i != j and u.norm() > 0 and v.norm() > 0:
                cosine = float(u @ v / (u.norm() * v.norm()))
                if cosine >= least:
                    near.append((-cosine, j))
        nearest = sorted((round(cosine, 4), j) for cosine, j in sorted(near)[:most])
        if nearest:
            found[words[i]] = [words[j] for _, j in nearest]
    return found


@pytest.mark.parametrize(("most", "least"), [(3, 0.1), (50, 0.4), (1, -0.9), (700, 0.2)])
def test_neighbours_are_those_of_the_definition(most, least, monkeypatch):
    monkeypatch.setattr(nearest, "_ROWS", 16)  # several blocks, the last one smaller
    vectors = torch.randn(41, 7, generator=torch.Generator().manual_seed(most))
    vectors[5] = 0
    words = [f"w{i}" for i in range(41)]
    found = nearest_words(words, vectors, most=most, least=least)
    listed = {word: [other for other, _ in near] for word, near in found.items()}
    assert listed == naive(words, vectors, most, least)
    assert "w5" not in found


def test_cosines_are_those_of_the_angle():
    vectors = torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, -2.0]])
    found = nearest_words(["a", "b", "c"], vectors, least=-1)
    assert found["a"] == [("b", 0.6), ("c", 0.0)]
    assert found["b"] == [("a", 0.6), ("c", -0.8)]


def test_equal_cosines_stand_in_the_order_of_the_words():
    vectors = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, -1.0], [2.0, 2.0]])
    found = nearest_words(["a", "z", "m", "b"], vectors)
    assert [other for other, _ in found["a"]] == ["z", "m", "b"]


def test_scaling_a_vector_changes_nothing():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(40, 5, generator=generator)
    words = [f"w{i}" for i in range(40)]
    scaled = vectors * torch.rand(40, 1, generator=generator).add(0.5)
    assert nearest_words(words, vectors) == nearest_words(words, scaled)


def test_a_table_can_be_made_of_them():
    words, vectors = read_vectors(["film 1 0 0", "movie 0.9 0.1 0", "the 0 0 1"], "vectors")
    table = CandidateTable.from_mapping(nearest_words(words, vectors))
    assert table.candidates("Film", random.Random(0)) == ["Movie"]
    assert table.candidates("the", random.Random(0)) == []


def test_a_first_line_of_word2vec_is_left_out_and_words_count_once():
    words, vectors = read_vectors(["3 2", "a 1 2", "b 3 4e-1", "a 5 6"], "vectors")
    assert words == ["a", "b"]
    assert vectors.tolist() == [[1, 2], [3, pytest.approx(0.4)]]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "is empty"),
        (["a 1 2", "b 1"], "line 2: 1 numbers, where other lines have 2"),
        (["a 1 2", "b 1 x"], "line 2: what follows the word is no number"),
        (["a", "b"], "line 1: 0 numbers"),
        (["a 1 nan"], "inf or nan"),
        ([f"a 1 {math.inf}"], "inf or nan"),
        (["a 1 2", "", "b 1 2"], "line 2"),
    ],
)
def test_odd_files_are_refused_with_the_line(lines, said):
    with pytest.raises(UserError, match=said) as raised:
        read_vectors(lines, "vectors.txt")
    assert "vectors.txt" in str(raised.value)
