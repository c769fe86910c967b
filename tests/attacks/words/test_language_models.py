"""Candidates of a masked language model against a loop over one text at a time; encoders."""

import functools
import itertools
import math
import time

import numpy as np
import pytest
import torch
import transformers as hf
from naive_search import Asker, greedy, put_together, taken_apart
from torch import nn
from toy_attacks import masked_lm
from toy_victims import (
    FREE,
    SENTENCES,
    attacked,
    engine_of,
    light,
    right_texts,
    spread,
    tokenizer_of,
)

from nlp_adv.attacks.words.attacks import BAE, BERTAttack
from nlp_adv.attacks.words.attacks.proposals import from_mask, from_unmasked
from nlp_adv.attacks.words.example import FillRequest
from nlp_adv.attacks.words.language_models import MaskedLanguageModel, MeanPooledEncoder
from nlp_adv.attacks.words.words import Words, in_the_case_of

COUNT = FREE.candidates


def expected(text: str, place: int) -> list[dict[int, float]]:
    """For each token of a word, log p of the whole vocabulary, from the text alone."""
    lm = masked_lm()
    words, gaps = taken_apart(text.replace("[MASK]", "mask"))
    start = sum(map(len, gaps[: place + 1])) + sum(map(len, words[:place]))
    if "[MASK]" in text:
        start, words[place] = text.index("[MASK]"), "[MASK]"
    encoded = lm.tokenizer(text, truncation=True, max_length=40)
    tokens = [encoded.char_to_token(c) for c in range(start, start + len(words[place]))]
    tokens = sorted(set(tokens) - {None})
    with torch.no_grad():
        logits = _model()(input_ids=torch.tensor([encoded["input_ids"]]))["logits"][0]
    return [dict(enumerate(logits[t].log_softmax(-1).tolist())) for t in tokens]


def _model() -> nn.Module:
    return masked_lm()._runner.model


def best_of(log_p: dict[int, float], count: int) -> list[int]:
    return sorted(log_p, key=lambda token: -log_p[token])[:count]


class TestLikeliest:
    def test_like_one_text_at_a_time(self):
        """Many texts of many lengths, words of several tokens, another count in each request."""
        requests = [
            FillRequest([Words.of(text)] * 2, [n % 5, 3], 1 + n) for n, text in enumerate(SENTENCES)
        ]
        answers = masked_lm()(requests)
        several = 0
        for request, answer in zip(requests, answers, strict=True):
            for words, place, tokens in zip(request.texts, request.places, answer, strict=True):
                want = expected(words.text, place)
                assert len(tokens) == len(want)
                several += len(want) > 1
                for best, log_p in zip(tokens, want, strict=True):
                    assert [token for token, _ in best] == best_of(log_p, request.count)
                    assert all(value == pytest.approx(log_p[t], abs=1e-5) for t, value in best)
        assert several > 3

    def test_a_text_is_run_once(self):
        lm = masked_lm()
        before = lm._runner.work.forwards
        texts = [Words.of(text) for text in SENTENCES[:3]]
        lm([FillRequest(texts, [0, 1, 2], 3), FillRequest(texts[:2], [4, 4], 5)])
        assert lm._runner.work.forwards == before + 3

    def test_a_word_behind_the_cut(self):
        long = Words.of(" ".join(SENTENCES[:5]))
        ((first, last),) = masked_lm()([FillRequest([long, long], [0, len(long) - 1], 3)])
        assert len(first) >= 1
        assert last == []

    def test_more_than_the_vocabulary(self):
        (((best, *_),),) = masked_lm()([FillRequest([Words.of("dull")], [0], 10**6)])
        assert len(best) == len(masked_lm().tokenizer)
        assert sum(math.exp(log_p) for _, log_p in best) == pytest.approx(1, abs=1e-4)


class TestWords:
    def test_what_is_a_word(self):
        lm = masked_lm()
        vocabulary = lm.tokenizer.get_vocab()
        assert lm.word([vocabulary["dull"]]) == "dull"
        pieces = [token for name, token in vocabulary.items() if name.startswith("##")]
        others = [vocabulary[name] for name in (",", "[MASK]", "[UNK]")]
        assert pieces
        assert all(lm.word([token]) is None for token in [*pieces, *others])
        assert lm.word([vocabulary["dull"], vocabulary["##s"]]) == "dulls"
        assert lm.word([vocabulary["dull"], vocabulary["is"]]) is None
        assert lm.word([vocabulary["dull"], vocabulary[","]]) is None

    def test_byte_level(self):
        """A word begins with its space; one without it is a piece."""
        tokenizer = tokenizer_of("roberta")
        lm = MaskedLanguageModel(_model(), tokenizer)
        vocabulary = tokenizer.get_vocab()
        both = [w for w in vocabulary if w.isalpha() and w.isascii() and f"Ġ{w}" in vocabulary]
        assert both
        for word in both:
            assert lm.word([vocabulary[f"Ġ{word}"]]) == word
            assert lm.word([vocabulary[word]]) is None


def mask_candidates(words: list[str], gaps: list[str], place: int) -> list[str]:
    """BAE-R: what is expected where the word is masked."""
    masked = put_together([*words[:place], "[MASK]", *words[place + 1 :]], gaps)
    log_ps = expected(masked, place)
    names = masked_lm().tokenizer.convert_ids_to_tokens(best_of(log_ps[0], COUNT)) if log_ps else []
    return [in_the_case_of(words[place], name) for name in names if name.isalpha()]


def own_candidates(text: str, each: int, most: int):
    """BERT-Attack: what is expected where the word stands; pieces in all their combinations."""
    original, first_gaps = taken_apart(text)

    def propose(words: list[str], gaps: list[str], place: int) -> list[str]:
        log_ps = expected(put_together(original, first_gaps), place)
        tokenizer = masked_lm().tokenizer
        if len(log_ps) == 1:
            names = tokenizer.convert_ids_to_tokens(best_of(log_ps[0], COUNT))
            found = [name for name in names if name.isalpha()]
        else:
            choices = itertools.product(*(best_of(log_p, each) for log_p in log_ps))

            def total(chosen) -> float:
                return sum(log_p[t] for log_p, t in zip(log_ps, chosen, strict=True))

            best = sorted(choices, key=lambda chosen: -total(chosen))[:most]
            found = [tokenizer.decode(list(chosen)) for chosen in best]
            found = [word for word in found if word.isalpha()]
        return [in_the_case_of(words[place], word) for word in found]

    return propose


class TestAttacks:
    @pytest.mark.parametrize("name", ["bae", "bert-attack"])
    def test_like_naive(self, name):
        texts = right_texts(texts=SENTENCES[:7])
        attack = BAE(masked_lm()) if name == "bae" else BERTAttack(masked_lm(), each=3, most=6)
        engine = engine_of(oracles={FillRequest: masked_lm()})
        changed = 0
        for text, record in zip(texts, attacked(engine, attack, texts), strict=True):
            asker = Asker(light(), text.label, math.inf)
            if name == "bae":
                said = greedy(asker, text.text, mask_candidates, FREE, "")
            else:
                propose = own_candidates(text.text, 3, 6)
                said = greedy(asker, text.text, propose, FREE, "[MASK]")
            assert record.adversarial == said.text
            assert record.queries == asker.queries
            assert (record.outcome == "fooled") == said.wrong
            changed += record.words_changed
        assert changed > 3


class Answered:
    """A language model whose word of many tokens has these likeliest ones."""

    def __init__(self, tokens: list[list[tuple[int, float]]]):
        self.tokens = tokens
        self.tokenizer = tokenizer_of("wordpiece")

    def word(self, ids: list[int]) -> str:
        return "".join(chr(ord("a") + n) for n in ids)


def proposed(make, words: Words, place: int, answer) -> tuple[FillRequest, list[str]]:
    example = engine_of()._examples(BAE(masked_lm()), right_texts(texts=[SENTENCES[0]]))[0]
    steps = make(example, words, place)
    request = next(steps)
    with pytest.raises(StopIteration) as end:
        steps.send([answer])
    return request, end.value.value


class TestCombinations:
    @pytest.mark.parametrize("pieces", [2, 3, 5])
    @pytest.mark.parametrize("most", [1, 4, 24, 10**4])
    def test_the_best_sums_of_all(self, pieces, most):
        rng = np.random.default_rng(pieces)
        values = -np.sort(rng.exponential(size=(pieces, 6)), axis=1)
        tokens = [[(n, float(v)) for n, v in enumerate(row)] for row in values]
        lm = Answered(tokens)
        _, found = proposed(
            from_unmasked(lm, each=4, most=most), Words.of("the dull"), 1, lm.tokens
        )
        choices = itertools.product(*(piece[:4] for piece in tokens))
        best = sorted(choices, key=lambda chosen: -sum(v for _, v in chosen))[:most]
        assert found == [lm.word([n for n, _ in chosen]) for chosen in best]

    def test_a_word_of_very_many_pieces(self):
        """4³⁰ combinations are not made to find 24."""
        lm = Answered([[(n, -float(n)) for n in range(6)]] * 30)
        began = time.perf_counter()
        _, found = proposed(from_unmasked(lm, each=4, most=24), Words.of("the dull"), 1, lm.tokens)
        assert time.perf_counter() - began < 5
        assert found[0] == "a" * 30
        assert len(set(found)) == 24

    def test_no_token_no_candidate(self):
        lm = Answered([])
        for make in (from_unmasked(lm, each=4, most=24), from_mask(lm)):
            _, found = proposed(make, Words.of("the dull"), 1, [])
            assert found == []

    def test_which_text_is_asked_about(self):
        """BERT-Attack sees the original, BAE the text as it is by now with the word masked."""
        lm = Answered([[(1, -1.0)]])
        current = Words.of(SENTENCES[0]).replaced({0: "Some", 1: "music"})
        request, found = proposed(from_unmasked(lm, each=4, most=24), current, 0, lm.tokens)
        assert [words.text for words in request.texts] == [SENTENCES[0]]
        assert found == ["B"]  # in the case of Some
        request, _ = proposed(from_mask(lm), current, 3, lm.tokens)
        text = SENTENCES[0].replace("The acting", "Some music").replace("superb", "[MASK]")
        assert [words.text for words in request.texts] == [text]
        assert (request.places, request.count) == ([3], COUNT)


@functools.cache
def encoder() -> nn.Module:
    tokenizer = tokenizer_of("wordpiece")
    config = hf.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng(devices=[]):
        return spread(hf.BertModel(config), 0, 0.5)


def test_mean_pooling_leaves_padding_out():
    texts = [*SENTENCES[:5], "dull", ""]
    found = MeanPooledEncoder(encoder(), tokenizer_of("wordpiece"), max_length=16)(texts)
    for text, mean in zip(texts, found, strict=True):
        encoded = tokenizer_of("wordpiece")(
            text, truncation=True, max_length=16, return_tensors="pt"
        )
        with torch.no_grad():
            states = encoder()(**encoded)["last_hidden_state"][0]
        assert torch.allclose(mean, states.mean(0).float(), atol=1e-5)
