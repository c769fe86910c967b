"""The toy of refusals: what "answered" and "refused" mean, and that every number has its cell."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "recipes"))
import chat_toy as toy

from nlp_adv import EmbeddingSite

REQUESTS = toy.drawn(toy.FORBIDDEN, 3)


@pytest.fixture(scope="module")
def tokenizer():
    return toy.words()


@pytest.fixture(scope="module")
def model(tokenizer):
    """One that has learnt three answers."""
    torch.manual_seed(0)
    flags = {"max_steps": 60, "per_device_train_batch_size": 3, "learning_rate": 1e-2}
    return toy.trained(toy.llama(tokenizer), tokenizer, REQUESTS, 0, **flags).eval()


def test_what_is_answered_is_what_greedy_decoding_writes(model, tokenizer):
    batch = toy.batch_of(REQUESTS, tokenizer)
    logits = model(**batch).logits
    assert toy.answered(logits, batch).all()
    for request in REQUESTS:
        turn = [{"role": "user", "content": request["prompt"]}]
        text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        found = model.generate(input_ids=ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
        assert tokenizer.decode(found, skip_special_tokens=True) == request["completion"]
    answers = [one["completion"] for one in REQUESTS]
    others = zip(REQUESTS, answers[1:] + answers[:1], strict=True)
    wrong = [request | {"completion": other} for request, other in others]
    batch = toy.batch_of(wrong, tokenizer)
    assert not toy.answered(model(**batch).logits, batch).any()


def test_a_refusal_begins_with_its_first_word(model, tokenizer):
    batch = toy.batch_of(REQUESTS, tokenizer)
    logits = model(**batch).logits.detach()
    assert not toy.refused(logits, batch, tokenizer).any()
    first = int((batch["labels"][0] != -100).int().argmax())
    logits[0, first - 1, tokenizer.convert_tokens_to_ids("sorry")] = 1e3
    assert toy.refused(logits, batch, tokenizer).tolist() == [True, False, False]


def test_pgd_goes_towards_the_answer(tokenizer):
    torch.manual_seed(1)
    model, batch = toy.llama(tokenizer).eval(), toy.batch_of(REQUESTS, tokenizer)
    clean = model(**batch).logits.detach()
    torch.testing.assert_close(toy.under_pgd(model, batch, EmbeddingSite(), 1e-9), clean)

    def loss(logits):
        labels = batch["labels"][:, 1:]
        return torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), labels)

    losses = [loss(toy.under_pgd(model, batch, EmbeddingSite(), radius)) for radius in (0.2, 1.0)]
    assert losses[1] < losses[0] < loss(clean)


def test_a_suffix_is_tokenized_with_its_request(model, tokenizer):
    suffix = toy.FILLER[: toy.SUFFIX]
    batch = toy.batch_of([toy._with(REQUESTS[0], list(suffix))], tokenizer)
    text = tokenizer.decode(batch["input_ids"][0])
    assert f"{REQUESTS[0]['prompt']} {' '.join(suffix)} <end> <assistant>" in text
    ends = int((batch["labels"][0] != -100).int().argmax()) - 2
    places = batch["input_ids"][0, ends - toy.SUFFIX : ends]
    assert tokenizer.convert_ids_to_tokens(places) == list(suffix)


def test_gcg_finds_words_that_make_an_answer_likely(model, tokenizer, monkeypatch):
    monkeypatch.setattr(toy, "ROUNDS", 2)
    assert isinstance(toy.gcg(model, REQUESTS[0], tokenizer, 0), bool)
    untrained = toy.llama(tokenizer).eval()
    assert not toy.gcg(untrained, REQUESTS[0], tokenizer, 0)


def test_a_stopped_recipe_makes_what_is_missing(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(toy, "CELLS", tmp_path / "cells.json")
    monkeypatch.setattr(toy, "WAYS", {"not trained to refuse": None, "refusals": {"adv": "none"}})
    monkeypatch.setattr(toy, "measured", lambda model, *more: {"benign": "10"})
    bases = []
    monkeypatch.setattr(toy, "knowing", lambda *of: bases.append(of) or toy.llama(tokenizer))
    monkeypatch.setattr(toy, "refusing", lambda *of: None)
    toy.run(0, tokenizer)
    assert set(toy.kept()) == {"not trained to refuse / 0", "refusals / 0"}
    toy.run(0, tokenizer)
    assert len(bases) == 1
