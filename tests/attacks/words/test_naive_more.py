"""Genetic search, input reduction, CLARE and CheckList against loops over one text at a time."""

import math
import random
from dataclasses import replace

import pytest
from naive_more import checklist, clare, genetic, reduction
from naive_search import Asker
from toy_attacks import ATTACKS, neighbours, oracles
from toy_victims import FREE, SENTENCES, attacked, bert, engine_of, light, right_texts

from nlp_adv.attacks.words.attacks import CLARE, CheckList, Genetic, InputReduction
from nlp_adv.attacks.words.attacks.build import Resources, attack_hash
from nlp_adv.attacks.words.candidates.checklist import CONTRACTIONS, GROUPS, CheckListEdits
from nlp_adv.attacks.words.protocols import Protocol
from nlp_adv.attacks.words.words import Words
from nlp_adv.errors import UserError
from nlp_adv.robustness import Predictor, evaluate_robustness

PAIRS = {
    "genetic": (ATTACKS["genetic"](), genetic),
    "genetic by cuts": (replace(ATTACKS["genetic"](), crossover="cut"), genetic),
    "input-reduction": (ATTACKS["input-reduction"](), reduction),
    "clare": (ATTACKS["clare"](), clare),
    "checklist": (ATTACKS["checklist"](), checklist),
}
PROTOCOLS = {
    "free": FREE,
    "few words": Protocol(name="few", max_changed=0.2, candidates=3),
    "few queries": Protocol(name="queries", queries=25),
    "stop words too": Protocol(name="all", queries_per_word=6, stop_words="none"),
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
@pytest.mark.parametrize("model", [light, lambda: bert(1)], ids=["light", "bert"])
def test_same_text_outcome_and_queries(pair, protocol, model):
    attack, naive = PAIRS[pair]
    texts = right_texts(model(), [*SENTENCES[:6], "!", "it", "Dull."])
    engine = engine_of(model(), protocol, oracles=oracles(), seed=5)
    changed = 0
    for text, record in zip(texts, attacked(engine, attack, texts), strict=True):
        per_word = (protocol.queries_per_word or math.inf) * max(1, record.words)
        asker = Asker(model(), text.label, min(protocol.queries or math.inf, per_word))
        rng = random.Random(engine.seed_of(attack, text))
        said = naive(asker, text.text, attack, protocol, rng)
        assert record.adversarial == said.text
        assert record.queries == asker.queries
        assert record.outcome == ("fooled" if said.wrong else "robust")
        changed += record.adversarial != text.text
    assert changed


class TestInputReduction:
    def test_the_answer_stays_and_no_word_can_go(self):
        texts = right_texts(texts=SENTENCES)
        for record in attacked(engine_of(), InputReduction(beam=1), texts):
            assert record.outcome == "robust"
            assert record.adversarial_prediction == record.label
            left = record.words - record.words_changed
            assert left >= 1
            words = Words.of(record.adversarial)
            assert len(words) == left
            fewer = [words.replaced({p: ""}).text for p in range(len(words))] if left > 1 else []
            engine = engine_of()
            rows = engine.splicer.whole([(text, None) for text in fewer]) if fewer else []
            said = engine.victim.logits(rows).argmax(1).tolist() if rows else []
            assert record.label not in said

    def test_a_wider_beam_leaves_no_more_words(self):
        texts = right_texts(texts=SENTENCES)
        left = [
            sum(one.words - one.words_changed for one in attacked(engine_of(), attack, texts))
            for attack in (InputReduction(1), InputReduction(5))
        ]
        assert left[1] <= left[0]

    def test_its_share_is_said(self):
        model = Predictor(lambda texts: [[1.0, 0.0] for _ in texts], name="constant")
        rows = [{"text": "one two three four", "label": 0}]
        found = evaluate_robustness(model, model.tokenizer, rows, "input-reduction", progress=False)
        assert any("took out 75 % of the words of 1 texts" in note for note in found.notes)


class TestCheckList:
    def edits(self, word: str) -> list[str]:
        return CheckListEdits(each=50).candidates(word, random.Random(0))

    def test_names_and_places_of_one_kind(self):
        for group in GROUPS:
            assert len(set(group)) == len(group)
            assert set(self.edits(group[0])) >= {*group[1:]}
            assert group[0] not in self.edits(group[0])
        assert not {*self.edits("Mary")} & {*self.edits("James")}
        assert self.edits("mark") == self.edits("film") == []

    @pytest.mark.parametrize("digits", ["7", "10", "42", "99", "1990", "0"])
    def test_numbers_of_as_many_digits(self, digits):
        found = self.edits(digits)
        assert found
        for one in found:
            assert len(one) == len(digits)
            assert one != digits
            assert abs(int(one) - int(digits)) <= max(1, 0.2 * int(digits))

    def test_contractions(self):
        edits = CheckListEdits()
        for long, short in CONTRACTIONS.items():
            assert self.edits(short) == [long]
            if " " in long:
                assert edits.pair(*long.split()) == short
        assert self.edits("Isn’t") == ["Is not"]
        assert edits.pair("It", "is") == "It's"
        assert self.edits("it's") == []  # it may be "it has"
        assert edits.pair("film", "is") is None

    def test_it_changes_nothing_else(self):
        """On a model that answers by length, so that every edit counts."""
        model = Predictor(
            lambda texts: [[0.0, len(text) % 7 - 3.0] for text in texts], name="length"
        )
        text = "Mary isn't in Paris, and we are not 42."
        label = int(len(text) % 7 - 3 > 0)
        rows = [{"text": text, "label": label}]
        protocol = Protocol(name="x", stop_words="english")
        found = evaluate_robustness(
            model, model.tokenizer, rows, "checklist", protocol=protocol, progress=False
        )
        (record,) = found.records
        assert record.found.adversarial != text
        assert "in" in record.found.adversarial


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Genetic(neighbours()), Genetic(neighbours(), size=30)),
        (Genetic(neighbours()), Genetic(neighbours(), crossover="cut")),
        (CheckList(), CheckList(CheckListEdits(each=3))),
        (InputReduction(), InputReduction(beam=2)),
        (CLARE(ATTACKS["bae"]().model), CLARE(ATTACKS["bae"]().model, least=0.1)),
    ],
)
def test_every_number_enters_the_hash(one, other):
    assert attack_hash(one, FREE, Resources()) != attack_hash(other, FREE, Resources())


@pytest.mark.parametrize(
    "make",
    [
        lambda: Genetic(neighbours(), size=0),
        lambda: Genetic(neighbours(), generations=0),
        lambda: InputReduction(beam=0),
    ],
)
def test_numbers_that_are_none(make):
    with pytest.raises(UserError, match="must be at least 1"):
        make()
