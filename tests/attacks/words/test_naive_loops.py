"""The engine against loops over one text at a time, as the papers have them."""

import math
import random

import pytest
from naive_search import (
    Asker,
    distinct,
    from_source,
    greedy,
    put_together,
    pwws,
    taken_apart,
    with_word,
)
from torch import nn
from toy_attacks import Shuffled, Table, neighbours
from toy_victims import (
    FREE,
    SENTENCES,
    BagOfTokens,
    attacked,
    bert,
    engine_of,
    light,
    right_texts,
)

from nlp_adv.attacks.words.attacks import (
    PWWS,
    DeepWordBug,
    TextBugger,
    TextFooler,
)
from nlp_adv.attacks.words.candidates import DeepWordBugEdits
from nlp_adv.attacks.words.protocols import Protocol

NEIGHBOURS = neighbours(6)
# Attack, the naive loop, what stands in for a word when its importance is measured.
PAIRS = {
    "textfooler": (TextFooler(NEIGHBOURS), greedy, NEIGHBOURS, "[UNK]"),
    "textbugger": (TextBugger(Shuffled()), greedy, Shuffled(), ""),
    "deepwordbug": (DeepWordBug(), greedy, DeepWordBugEdits(), "[UNK]"),
    "pwws": (PWWS(NEIGHBOURS), pwws, NEIGHBOURS, "[UNK]"),
}
PROTOCOLS = {
    "free": FREE,
    "few words": Protocol(name="few", max_changed=0.2, candidates=3),
    "few queries": Protocol(name="queries", queries=17),
    "queries per word": Protocol(name="per word", queries_per_word=3, stop_words="none"),
}


def compare(pair: str, protocol: Protocol, model: nn.Module, target: int | None) -> list[str]:
    """Both on all sentences; the outcomes."""
    attack, naive, source, stand_in = PAIRS[pair]
    texts = right_texts(model, [*SENTENCES[:6], "!", "it", "Dull."])
    engine = engine_of(model, protocol, target=target, seed=5)
    outcomes = []
    for text, record in zip(texts, attacked(engine, attack, texts), strict=True):
        budget = min(
            protocol.queries or math.inf,
            (protocol.queries_per_word or math.inf) * max(1, record.words),
        )
        asker = Asker(model, text.label, budget, target)
        rng = random.Random(engine.seed_of(attack, text))
        said = naive(asker, text.text, from_source(source, rng), protocol, stand_in)
        assert record.adversarial == said.text
        assert record.queries == asker.queries
        skipped = target == text.label
        expected = "wrong" if skipped else "fooled" if said.wrong else "robust"
        assert record.outcome == expected
        if record.budget_stopped:
            assert asker.queries == budget
        outcomes.append(record.outcome)
    return outcomes


@pytest.mark.parametrize("pair", PAIRS)
class TestAgainstNaive:
    @pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
    def test_same_text_outcome_and_queries(self, pair, protocol):
        outcomes = compare(pair, protocol, light(), None)
        assert protocol is not FREE or set(outcomes) == {"robust", "fooled"}

    def test_another_model(self, pair):
        outcomes = compare(pair, FREE, bert(1), None)
        assert set(outcomes) == {"robust", "fooled"}

    def test_a_target(self, pair):
        outcomes = compare(pair, FREE, light(), 0)
        assert {"robust", "fooled"} <= set(outcomes)


class TestTies:
    """Of equals the first: by place, and among candidates as proposed."""

    def test_candidates_that_read_alike(self):
        model = light()
        (text,) = right_texts(model, ["sluggish music"])

        def adversarial(candidates: list[str]) -> str:
            attack = TextFooler(Table({"sluggish": candidates}))
            (record,) = attacked(engine_of(model), attack, [text])
            return record.adversarial

        # A word that is taken, whether the model falls or not; its tokens are in lower case.
        word = next(word for word in sorted(NEIGHBOURS.lists) if word in adversarial([word]))
        assert adversarial([word.upper(), word]) == f"{word.upper()} music"
        assert adversarial([word, word.upper()]) == f"{word} music"

    def test_places_of_equal_importance(self):
        model = BagOfTokens(200)
        (text,) = right_texts(model, ["sluggish sluggish sluggish"])
        one = Protocol(name="one", max_changed=0.1)
        table = Table({"sluggish": sorted(NEIGHBOURS.lists)})
        for attack in (TextFooler(table), PWWS(table)):
            (record,) = attacked(engine_of(model, one), attack, [text])
            assert record.words_changed == 1
            assert record.adversarial.split()[1:] == ["sluggish"] * 2


@pytest.mark.fault("E6")
def test_pwws_chooses_each_word_once():
    """Choosing again in the text as it is by then, as TextAttack does, finds other texts."""
    differ = 0
    for text in right_texts(light(), SENTENCES):
        asker = Asker(light(), text.label, math.inf)
        words, gaps = taken_apart(text.text)
        said = pwws(asker, text.text, from_source(NEIGHBOURS, None), FREE, "[UNK]")
        changed = [i for i, word in enumerate(taken_apart(said.text)[0]) if word != words[i]]
        again = list(words)
        for i in changed:
            options = distinct(words[i], NEIGHBOURS.candidates(words[i], None), FREE.candidates)
            again[i] = max(options, key=lambda one: asker(with_word(again, gaps, i, one)).margin)
        differ += put_together(again, gaps) != said.text
        (record,) = attacked(engine_of(light(), FREE), PWWS(NEIGHBOURS), [text])
        assert record.adversarial == said.text
    assert differ > 0
    assert "chooses it again" in " ".join(PWWS.__doc__.split())
