"""Matrices in bfloat16: what the model says then, and that it is another measurement."""

import copy
import json

import pytest
import torch
from toy_victims import SENTENCES, bert, tokenizer_of

from nlp_adv.attacks.words.encoding import Splicer
from nlp_adv.attacks.words.victim import Victim, bf16_slowdown
from nlp_adv.cli import text_attack
from nlp_adv.errors import UserError
from nlp_adv.robustness import Predictor, evaluate_robustness
from nlp_adv.robustness.embedding import embedding_pgd
from nlp_adv.robustness.white_box import WhiteBox

ROWS = [{"text": text, "label": number % 2} for number, text in enumerate(SENTENCES[:4])]


@pytest.fixture
def victims():
    tokenizer, model = tokenizer_of("wordpiece"), copy.deepcopy(bert(classes=2)).float().eval()
    rows = Splicer(tokenizer, 64).whole([(text, None) for text in SENTENCES[:4]])
    return Victim(model, tokenizer), Victim(model, tokenizer, bf16=True), rows


def test_matrices_are_multiplied_in_bfloat16_and_weights_stay(victims):
    whole, half, rows = victims
    before = copy.deepcopy(whole.model.state_dict())
    exact, rough = whole.logits(rows), half.logits(rows)
    assert rough.dtype == torch.float32
    assert torch.equal(rough, rough.to(torch.bfloat16).float())  # 8 bits are left of a logit
    assert not torch.equal(rough, exact)
    assert torch.allclose(rough, exact, atol=0.05)
    # After what was asked in inference mode gradients are there, and close.
    labels = [0] * len(rows)
    pairs = zip(half.gradients(rows, labels), whole.gradients(rows, labels), strict=True)
    for mine, other in pairs:
        assert mine.dtype == torch.float32
        cosine = torch.nn.functional.cosine_similarity(mine.flatten(), other.flatten(), dim=0)
        assert cosine > 0.99
    after = whole.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_it_is_another_run_with_another_hash(victims, tmp_path):
    whole, _, _ = victims
    model, tokenizer = whole.model, whole.tokenizer
    box = WhiteBox(embedding_pgd((0.05,), steps=2), 4, False, 4)
    given = {"attacks": ["deepwordbug"], "white_box": box, "progress": False}
    plain = evaluate_robustness(model, tokenizer, ROWS, **given)
    half = evaluate_robustness(model, tokenizer, ROWS, **given, bf16=True, output_dir=tmp_path)
    assert half.environment["precision"] == "bf16"
    assert not set(plain.hashes.values()) & set(half.hashes.values())
    assert plain.settings == {}
    header = json.loads((tmp_path / "evaluation.json").read_text())
    assert header["settings"] == {"precision": "bf16"}
    with pytest.raises(UserError, match="its precision is 'bf16'"):
        evaluate_robustness(model, tokenizer, ROWS, **given, output_dir=tmp_path)


def test_a_function_computes_as_it_does():
    function = Predictor(lambda texts: [[0.0, 1.0] for _ in texts], name="fixed", classes="ab")
    with pytest.raises(UserError, match="a function of texts"):
        evaluate_robustness(function, function.tokenizer, ROWS, bf16=True, progress=False)


@pytest.mark.parametrize(("slower", "refused"), [(12.0, True), (0.6, False)])
def test_the_command_refuses_it_where_it_is_slower(monkeypatch, slower, refused):
    monkeypatch.setattr(text_attack, "bf16_slowdown", lambda device: slower)
    if refused:
        with pytest.raises(UserError, match=r"12\.0 times as long .* on this cpu"):
            text_attack._check_bf16(torch.nn.Linear(1, 1))
    else:
        text_attack._check_bf16(torch.nn.Linear(1, 1))


def test_how_much_slower_is_measured():
    assert 0.01 < bf16_slowdown(torch.device("cpu")) < 1000
