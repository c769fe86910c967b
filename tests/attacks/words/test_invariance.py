"""An example's record hangs on nothing but the example; and never on the scale of the logits."""

import functools
import random
from dataclasses import replace

import pytest
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from toy_attacks import ATTACKS, Greedy, Shuffled, attack_named, flips_of, neighbours, oracles
from toy_victims import (
    FREE,
    SENTENCES,
    WORDS,
    BagOfTokens,
    Scaled,
    attacked,
    engine_of,
    light,
    right_texts,
    spread,
    tokenizer_of,
)

from nlp_adv.attacks.words.attacks import A2T
from nlp_adv.attacks.words.engine import Engine, Text
from nlp_adv.attacks.words.example import Example
from nlp_adv.attacks.words.importance import by_deletion
from nlp_adv.attacks.words.protocols import Protocol
from nlp_adv.attacks.words.result import WordResult
from nlp_adv.robustness.shards import Shard

PROTOCOL = Protocol(name="some", candidates=4, queries=60, max_changed=0.25, stop_words="none")
STAYS = "input-reduction"  # the answer does
ANY = replace(FREE, candidates=5, stop_words="none")


@functools.cache
def texts() -> list[Text]:
    """Right, wrong, empty, cut and repeated ones; numbers with holes."""
    chosen = right_texts(
        texts=[*SENTENCES[4:7], SENTENCES[2], "", "Dull!", " ".join(SENTENCES[3:7])]
    )
    chosen[2] = replace(chosen[2], label=(chosen[2].label + 1) % 3)
    return [replace(text, id=3 * text.id + 1) for text in [*chosen, replace(chosen[0], id=11)]]


def records(name: str, chosen: list[Text], **options) -> list[WordResult]:
    engine = engine_of(light(), PROTOCOL, oracles=oracles(), max_length=24, **options)
    return attacked(engine, attack_named(name), chosen)


@functools.cache
def one_by_one(name: str) -> list[WordResult]:
    return [record for text in texts() for record in records(name, [text])]


def assert_same(got: list[WordResult], want: list[WordResult], atol: float = 1e-9) -> None:
    """Equal; confidences up to the rounding of the model."""
    for mine, other in zip(got, sorted(want, key=lambda record: record.id), strict=True):
        assert mine.confidence == pytest.approx(other.confidence, abs=atol)
        change = {"confidence": mine.confidence}
        assert mine.adversarial_confidence == pytest.approx(other.adversarial_confidence, abs=atol)
        change["adversarial_confidence"] = mine.adversarial_confidence
        assert mine == replace(other, **change)


@pytest.mark.parametrize("name", ATTACKS)
class TestInvariance:
    @pytest.mark.parametrize(
        "options",
        [{"live": 1}, {"live": 3, "tokens_per_batch": 1}, {"live": 256, "tokens_per_batch": 150}],
        ids=str,
    )
    def test_batches_and_order(self, name, options):
        chosen = list(texts())
        random.Random(5).shuffle(chosen)
        assert_same(records(name, chosen, **options), one_by_one(name))

    def test_shards(self, name):
        found = []
        for index in (1, 2, 3):
            shard = Shard(index, 3)
            found += records(name, [t for t in texts() if shard.takes(t.id // 3)], live=2)
        assert_same(sorted(found, key=lambda record: record.id), one_by_one(name))

    def test_the_cases_are_all_there(self, name):
        """So that equal records say something."""
        found = one_by_one(name)
        outcomes = {"wrong", "robust", "fooled"} - ({"fooled"} if name == STAYS else set())
        assert {record.outcome for record in found} == outcomes
        assert len({record.queries for record in found}) > 2 or name == STAYS
        assert any(record.words_changed > 1 for record in found) or name in ("textbugger", "pwws")


@given(st.permutations(range(8)), st.integers(1, 8), st.integers(1, 9), st.integers(1, 400))
@settings(max_examples=8)
def test_any_order_any_part_any_batch(order, many, live, tokens):
    chosen = [texts()[number] for number in order[:many]]
    want = [one_by_one("deepwordbug")[number] for number in order[:many]]
    got = records("deepwordbug", chosen, live=live, tokens_per_batch=tokens)
    assert_same(got, want)


def test_random_numbers_are_the_examples_own():
    twice = right_texts(texts=[SENTENCES[1]] * 6)
    found = attacked(engine_of(), Greedy(Shuffled()), twice)
    assert len({record.adversarial for record in found}) > 1
    assert len({engine_of().seed_of(Greedy(Shuffled()), text) for text in twice}) == 6
    again = attacked(engine_of(), Greedy(Shuffled()), twice)
    assert again == found
    other = attacked(engine_of(seed=1), Greedy(Shuffled()), twice)
    assert other != found


def causal() -> nn.Module:
    """Relative positions, and the answer at the last token."""
    tokenizer = tokenizer_of("gpt2")
    config = hf.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        pad_token_id=tokenizer.pad_token_id,
        num_labels=3,
    )
    return spread(hf.LlamaForSequenceClassification(config), 0, 0.5)


def test_padding_on_the_left():
    model = causal()
    chosen = [Text(n, sentence, 0) for n, sentence in enumerate(SENTENCES)]
    for attack in (Greedy(neighbours(), by_deletion), A2T(neighbours()), flips_of(model, "gpt2")):
        alone = [
            record
            for text in chosen
            for record in attacked(engine_of(model, kind="gpt2"), attack, [text])
        ]
        together = attacked(engine_of(model, kind="gpt2"), attack, chosen)
        # Rotary angles are float32.
        assert_same(together, alone, atol=1e-3)
        assert {record.outcome for record in alone} >= {"wrong", "fooled"}


def never_spliced(engine: Engine) -> Engine:
    """An engine that tokenizes every variant whole."""
    templates = engine.splicer.templates

    def whole(texts):
        made = templates(texts)
        for template in made:
            template.splices = False
        return made

    engine.splicer.templates = whole
    return engine


@pytest.mark.parametrize("kind", ["roberta", "unigram"])
def test_other_tokenizers(kind):
    """Spliced or tokenized whole, the records are the same."""
    model = BagOfTokens(len(tokenizer_of(kind)), linear=False)
    chosen = [Text(n, sentence, n % 3) for n, sentence in enumerate(SENTENCES)]
    attack = Greedy(neighbours(), by_deletion)
    engine = engine_of(model, kind=kind)
    found = attacked(engine, attack, chosen)
    assert (engine.unspliced > 0) == (kind == "unigram")
    assert_same(found, attacked(never_spliced(engine_of(model, kind=kind)), attack, chosen))
    assert any(record.outcome == "fooled" for record in found)


class Bracketed(Shuffled):
    """Random letters, and a candidate that becomes one token with the bracket behind its place."""

    def candidates(self, word: str, rng: random.Random) -> list[str]:
        return [*super().candidates(word, rng), "[UNK"]


def test_a_text_that_ends_otherwise_than_spliced_is_attacked_again(monkeypatch):
    """From the start: the same random numbers, and nothing of the first time is counted."""
    words = [word for word in WORDS if len(word) > 5]
    sentences = [f"it is {a}] and {b}] {a}" for a, b in zip(words, words[7:], strict=False)]
    chosen = right_texts(texts=sentences)
    attack, start_over, again = Greedy(Bracketed()), Example.start_over, []
    monkeypatch.setattr(Example, "start_over", lambda one: again.append(one.id) or start_over(one))
    engine = engine_of()
    found = attacked(engine, attack, chosen)
    want = attacked(never_spliced(engine_of()), attack, chosen)
    assert 1 < len(again) == len(set(again)) == engine.unspliced < len(chosen)
    again.sort()  # from the order in which they ended
    assert_same([found[number] for number in again], [want[number] for number in again])
    for text, record in zip(chosen, found, strict=True):
        (row,) = engine.splicer.whole([(record.adversarial, None)])
        (logits,) = engine.victim.logits([row])
        assert int(logits.argmax()) == record.adversarial_prediction
        assert (record.outcome == "fooled") == (int(logits.argmax()) != text.label)


@functools.cache
def unscaled(name: str, target: int | None) -> list[WordResult]:
    engine = engine_of(protocol=ANY, oracles=oracles(), target=target)
    return attacked(engine, attack_named(name), texts()[:5])


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("target", [None, 0])
@pytest.mark.parametrize("factor", [0.0001, 0.01, 30, 300])
def test_the_scale_of_the_logits_changes_nothing(name, target, factor):
    engine = engine_of(Scaled(light(), factor), ANY, oracles=oracles(), target=target)
    found = attacked(engine, attack_named(name), texts()[:5])
    want = unscaled(name, target)
    assert "fooled" in [record.outcome for record in want] or name == STAYS
    for mine, other in zip(found, want, strict=True):
        confidences = {
            "confidence": mine.confidence,
            "adversarial_confidence": mine.adversarial_confidence,
        }
        assert mine == replace(other, **confidences)


def test_the_scale_does_reach_the_confidence():
    """The model is scaled: what softmax says of the same texts is something else."""
    chosen = right_texts(texts=SENTENCES[:3])
    attack = Greedy(neighbours())
    small, large = (
        attacked(engine_of(Scaled(light(), factor)), attack, chosen) for factor in (1e-4, 300)
    )
    assert all(record.confidence == pytest.approx(1 / 3, abs=1e-2) for record in small)
    assert all(record.confidence > 0.99 for record in large)
