"""Equal scores: the first place and the first candidate win, whatever is batched with them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from toy_attacks import Greedy, Table, attack_named
from toy_victims import FREE, attacked, engine_of, tokenizer_of

from nlp_adv.attacks.words.attacks import PWWS, TextFooler
from nlp_adv.attacks.words.engine import Text
from nlp_adv.attacks.words.example import SimilarityRequest
from nlp_adv.attacks.words.importance import by_deletion, by_mask, by_unknown, ranked
from nlp_adv.attacks.words.language_models import Similarity

ANY = replace(FREE, stop_words="none")
WORDS = ["boring", "dreadful", "awkward", "tedious"]  # each hurts as much as the next one


class Counting(nn.Module):
    """z = (needed − ½ − number of WORDS in the text, 0): no rounding, and every word alike."""

    def __init__(self, needed: int = 1):
        super().__init__()
        self.needed = needed
        tokenizer = tokenizer_of("wordpiece")
        self.first = [tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in WORDS]

    def forward(self, input_ids, attention_mask, token_type_ids=None, labels=None):
        count = torch.isin(input_ids, torch.tensor(self.first)).sum(1).double()
        return {"logits": torch.stack([self.needed - 0.5 - count, 0 * count], 1)}


TEXT = Text(0, "dull dull dull dull", 0)


def found(attack, needed: int, protocol=ANY, text: Text = TEXT, **options) -> str:
    (record,) = attacked(engine_of(Counting(needed), protocol, **options), attack, [text])
    assert record.outcome == "fooled"
    return record.adversarial


@pytest.mark.parametrize("first", range(len(WORDS)))
@pytest.mark.parametrize("kind", [TextFooler, PWWS])
@pytest.mark.parametrize("needed", [1, 2, 3])
def test_the_first_place_and_the_first_candidate(kind, first, needed):
    order = [*WORDS[first:], *WORDS[:first]]
    expected = [order[0]] * needed + ["dull"] * (4 - needed)
    assert found(kind(Table({"dull": order})), needed) == " ".join(expected)


@pytest.mark.parametrize("order", [by_unknown, by_deletion, by_mask])
def test_in_whatever_order_words_are_asked_about(order):
    text = found(Greedy(Table({"dull": WORDS}), order), 2)
    assert text == "boring boring dull dull"


@pytest.mark.parametrize("mode", ["lazy", "eager"])
def test_the_first_of_those_that_are_alike(mode):
    """An encoder that finds all of them as near: again the first proposed."""
    oracles = {SimilarityRequest: Similarity(lambda texts: np.ones((len(texts), 2)))}
    protocol = replace(ANY, min_similarity=0.5, similarity=mode)
    for first in range(len(WORDS)):
        order = [*WORDS[first:], *WORDS[:first]]
        attack = TextFooler(Table({"dull": order}))
        expected = f"{order[0]} dull dull dull"
        assert found(attack, 1, protocol, oracles=oracles) == expected


def test_the_highest_score_before_the_first():
    """Ties are broken by place only where they are ties."""
    assert ranked([4, 2, 7, 1], [1.0, 3.0, 3.0, 1.0]) == [2, 7, 1, 4]
    assert ranked([3, 1, 2], [0.0, 0.0, 0.0]) == [1, 2, 3]
    assert ranked([3, 1, 2], [-torch.inf, 0.0, -torch.inf]) == [1, 2, 3]


@pytest.mark.parametrize("tokens_per_batch", [8, 64, 4096])
def test_batches_break_no_ties(tokens_per_batch):
    texts = [Text(n, " ".join(["dull"] * (n + 1)), 0) for n in range(6)]
    engine = engine_of(Counting(1), ANY, tokens_per_batch=tokens_per_batch)
    for record in attacked(engine, TextFooler(Table({"dull": WORDS})), texts):
        assert record.adversarial == " ".join(["boring", *["dull"] * record.id])


def test_what_gains_nothing_is_not_taken():
    """A candidate of equal score is no improvement: the text stays as it was."""
    table = Table({"dull": ["superb", "graceful"]})
    for attack in (TextFooler(table), PWWS(table), attack_named("deepwordbug")):
        (record,) = attacked(engine_of(Counting(1), ANY), attack, [TEXT])
        assert (record.outcome, record.adversarial) == ("robust", TEXT.text)
