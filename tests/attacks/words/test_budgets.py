"""What a protocol allows is never exceeded: queries, words, candidates, places."""

from dataclasses import replace

import pytest
from toy_attacks import ATTACKS, Greedy, Table, attack_named, neighbours, oracles
from toy_victims import (
    FREE,
    SENTENCES,
    BagOfTokens,
    attacked,
    engine_of,
    right_texts,
)

from nlp_adv.attacks.words.engine import Attack, Engine, Text
from nlp_adv.attacks.words.example import GradientRequest, LogitsRequest
from nlp_adv.attacks.words.protocols import PROTOCOLS, Protocol
from nlp_adv.attacks.words.result import WordResult
from nlp_adv.attacks.words.stop_words import ENGLISH_STOP_WORDS
from nlp_adv.attacks.words.words import Words

TEXTS = SENTENCES[1:5]


def run(attack: Attack, protocol: Protocol, texts: list[Text] | None = None) -> list[WordResult]:
    return attacked(
        engine_of(protocol=protocol, oracles=oracles()), attack, texts or right_texts(texts=TEXTS)
    )


def asked(attack: Attack, protocol: Protocol, text: Text) -> tuple[WordResult, list]:
    """The record, and what the model was really run on, in this order."""
    engine, seen = engine_of(protocol=protocol), []

    def logits(requests):
        seen.extend(row for request in requests for row in request.rows)
        return [engine.victim.logits(request.rows) for request in requests]

    def gradients(requests):
        seen.extend(("gradient", request.row) for request in requests)
        return engine.victim.gradients([r.row for r in requests], [r.label for r in requests])

    engine.oracles = {**oracles(), LogitsRequest: logits, GradientRequest: gradients}
    (record,) = engine.run(attack, [text])
    return record, seen


@pytest.mark.parametrize("name", ATTACKS)
class TestQueries:
    def test_no_more_than_the_budget_and_all_of_it_when_stopped(self, name):
        free = run(attack_named(name), replace(FREE, queries=10**6))
        assert not any(record.budget_stopped for record in free)
        stopped = 0
        for limit in (1, 2, 7, 13):
            records = run(attack_named(name), replace(FREE, queries=limit))
            for record in records:
                assert record.queries <= limit
                if record.budget_stopped:
                    assert record.queries == limit
                    assert record.outcome == "robust"
                    stopped += 1
        assert stopped >= 8

    def test_a_larger_budget_goes_on_where_a_smaller_one_ends(self, name, monkeypatch):
        # The limit is part of the protocol, and the protocol of the seed.
        monkeypatch.setattr(Engine, "seed_of", lambda engine, attack, text: text.id)
        attack, finished = attack_named(name), 0
        for text in right_texts(texts=TEXTS):
            whole, everything = asked(attack, FREE, text)
            for limit in (1, 12, 60):
                record, seen = asked(attack, replace(FREE, queries=limit), text)
                assert seen == everything[: len(seen)]
                if not record.budget_stopped and whole.queries <= limit:
                    finished += 1
                    assert record == whole
        assert finished > 0

    def test_what_the_model_was_run_on(self, name):
        """Records count the texts that were run, and none of them is run twice."""
        for text in right_texts(texts=TEXTS[:3]):
            record, seen = asked(attack_named(name), FREE, text)
            assert len(set(seen)) == len(seen) == record.forwards
            rows = [one[1] if one[0] == "gradient" else one for one in seen]
            assert record.tokens == sum(len(row.ids) for row in rows)
            assert record.queries >= record.forwards

    def test_words(self, name):
        for protocol in (
            Protocol(name="tenth", max_changed=0.1),
            Protocol(name="at least", max_changed=0.1, min_changed=3),
            PROTOCOLS["default"],
        ):
            records = run(attack_named(name), protocol)
            limits = [protocol.changes(record.words) for record in records]
            counts = [record.words_changed for record in records]
            assert all(n <= limit for n, limit in zip(counts, limits, strict=True))
            assert any(counts)
            for record in records:
                before, after = Words.of(record.original), Words.of(record.adversarial)
                if len(before) == len(after) and name != "clare":  # which merges and inserts
                    assert len(before.changed(after)) == record.words_changed

    def test_texts_without_words(self, name):
        texts = right_texts(texts=["", "!?", "..."])
        for protocol in (FREE, PROTOCOLS["default"]):
            for record in run(attack_named(name), protocol, texts):
                assert (record.outcome, record.queries, record.words) == ("robust", 1, 0)
                assert record.adversarial == record.original

    def test_which_words(self, name):
        for protocol in (
            FREE,
            replace(FREE, min_length=7),
            replace(FREE, stop_words="none"),
            replace(FREE, min_words=9),
        ):
            changed_stop_word = False
            for record in run(attack_named(name), protocol):
                before = Words.of(record.original)
                if len(before) < protocol.min_words:
                    assert (record.outcome, record.queries) == ("robust", 1)
                    assert record.words_changed == 0
                after = Words.of(record.adversarial)
                if len(before) != len(after):  # an edit may part a word
                    continue
                for place in before.changed(after):
                    word = before.words[place]
                    assert len(word) >= protocol.min_length
                    stop = word.lower() in ENGLISH_STOP_WORDS
                    assert protocol.stop_words == "none" or not stop
                    changed_stop_word = changed_stop_word or stop
            if protocol.stop_words == "none" and name in ("textfooler", "hotflip"):
                assert changed_stop_word


class TestCounting:
    TABLE = Table({"dull": ["DULL", "Dull", "boring", "Boring", "superb"], "it": ["It"]})

    def test_asked_and_uncached(self):
        """DULL, Dull and dull are the same ids for the model, as are boring and Boring."""
        texts = right_texts(BagOfTokens(200), ["it is dull, dull, dull"])
        records = {}
        for count in ("asked", "uncached"):
            protocol = Protocol(name=count, count=count, max_changed=0.2)
            engine = engine_of(BagOfTokens(200), protocol)
            (records[count],) = attacked(engine, Greedy(self.TABLE), texts)
        # The original, three words as [UNK], then the candidates of the first word in order.
        assert records["asked"].queries == 1 + 3 + 5
        # A bag of tokens, but no bag of ids: each place has its own row. DULL is the original.
        assert records["uncached"].queries == 1 + 3 + 2
        assert records["asked"].forwards == records["uncached"].forwards == 1 + 3 + 2
        assert records["asked"].adversarial == records["uncached"].adversarial

    @pytest.mark.parametrize("count", ["asked", "uncached"])
    def test_what_was_asked_before(self, count):
        """dull is the original, to be paid again or free; so is the second boring."""
        (text,) = right_texts(BagOfTokens(200), ["it is dull, dull, dull"])
        for limit in range(1, 7):
            protocol = Protocol(name="x", count=count, queries=limit, max_changed=0.2)
            engine = engine_of(BagOfTokens(200), protocol)
            (record,) = attacked(engine, Greedy(self.TABLE), [text])
            assert record.queries == limit
            # Paid in order: original, three unknowns, DULL, Dull, boring, Boring, superb.
            new = {"asked": [1, 2, 3, 4, 4, 4], "uncached": [1, 2, 3, 4, 5, 6]}
            assert record.forwards == new[count][limit - 1]

    def test_only_so_many_candidates(self):
        (text,) = right_texts(texts=["sluggish"])
        words = sorted(neighbours().lists)
        for most in (1, 3, 20):
            # The word itself and repetitions are no candidates.
            table = Table({"sluggish": ["sluggish", *words[:2], *words]})
            record, _ = asked(Greedy(table), replace(FREE, candidates=most), text)
            assert record.queries == 1 + 1 + most
            free = Greedy(Table({"sluggish": words[:most]}))
            (alike,) = run(free, replace(FREE, candidates=50), [text])
            assert alike.adversarial == record.adversarial
