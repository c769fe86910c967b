"""What `nlp-adv train` says of ε: the numbers, the warnings, and that it changes nothing."""

import math
import re
from types import SimpleNamespace

import pytest
import torch
from commands import BRIEF, SPLITS, call
from datasets import Dataset
from transformers import AutoTokenizer, BertForSequenceClassification, DataCollatorWithPadding

from nlp_adv.cli.radius import radius_in_words
from nlp_adv.methods import METHODS, build

WIDTH = 16


@pytest.fixture(scope="module")
def parts(files):
    """A model, its tokenizer and tokenized rows of several lengths."""
    folder = files["model_name_or_path"]
    model = BertForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [row["text"] for row in SPLITS["train"][:5]]
    texts = [" ".join([text] * (1 + index % 3)) for index, text in enumerate(texts)]
    rows = Dataset.from_list([{**tokenizer(text), "labels": 0} for text in texts])
    return model, tokenizer, rows


def said(parts, method, *, special: bool = False, embedding: str | None = None) -> str | None:
    training = SimpleNamespace(adv_exclude_special_tokens=special, adv_embedding=embedding)
    return radius_in_words(method, *parts, training, DataCollatorWithPadding(parts[1]))


def norms(parts, order: float, *, special: bool = False) -> list[float]:
    """Of each sentence's embeddings, by hand; the root-mean-square for order inf."""
    model, tokenizer, rows = parts
    found = []
    for row in rows:
        ids = [i for i in row["input_ids"] if not special or i not in tokenizer.all_special_ids]
        x = model.bert.embeddings.word_embeddings.weight[ids].detach().double()
        scale = x.square().mean().sqrt() * x.numel() ** (1 / order if order < math.inf else 0)
        found.append(float(scale))
    return found


def median(values: list[float]) -> float:
    return sorted(values)[(len(values) - 1) // 2]


def numbers(text: str) -> list[float]:
    """Of the first sentence."""
    first = text.split(" here.")[0]
    return [float(one) for one in re.findall(r"(?<![\w.])\d[\d.]*(?:e[+-]?\d+)?", first)]


def near(got: float, want: float) -> bool:
    return got == pytest.approx(want, rel=6e-3)  # three digits are shown


def test_relative(parts):
    whole = median(norms(parts, 2))
    text = said(parts, build("fgm", epsilon=0.03, unit="relative"))
    epsilon, absolute, share, about = numbers(text.replace("(l2,", "("))
    assert text.startswith("ε = 0.03 relative = ")
    assert "(l2, per example): 3 % of a sentence's embedding norm, about" in text
    assert (epsilon, share) == (0.03, 3)
    assert near(about, whole)
    assert near(absolute, 0.03 * whole)


@pytest.mark.fault("S3")
@pytest.mark.parametrize(("norm", "power"), [("l1", 1), ("l2", 0.5), ("linf", 0)])
def test_what_one_token_may_get(parts, norm, power):
    """All of a sentence's δ: of T tokens of norm 1, T^(1/p) times the share."""
    tokens = median([len(row["input_ids"]) for row in parts[2]])
    text = said(parts, build("fgm", epsilon=0.01, norm=norm, unit="relative"))
    found = re.search(r"get all of it: ([\d.]+) % of its norm, of (\d+) tokens", text)
    assert int(found[2]) == tokens
    assert float(found[1]) == pytest.approx(100 * 0.01 * tokens**power, rel=0.05)
    per_token = build("fgm", epsilon=0.01, per="token", unit="relative")
    assert "get all of it" not in said(parts, per_token)


def test_absolute(parts):
    whole = median(norms(parts, 2))
    text = said(parts, build("pgd", epsilon=0.1 * whole, unit="absolute"))
    assert f"ε = {0.1 * whole:g} absolute (l2, per example): 10 % of" in text


def test_per_coordinate(parts):
    sizes = [len(row["input_ids"]) * WIDTH for row in parts[2]]
    text = said(parts, build("pgd", epsilon=0.01, unit="per_coordinate"))
    _, absolute, share, about = numbers(text.replace("(l2,", "("))
    assert "per coordinate = " in text
    assert near(absolute, 0.01 * math.sqrt(median(sizes)))
    assert share == pytest.approx(100 * absolute / about, rel=0.05)


def test_per_token_and_other_norms(parts):
    text = said(parts, build("fgm", epsilon=0.03, per="token", unit="relative"))
    token = median([norm for norm in norms(parts, math.inf)]) * math.sqrt(WIDTH)
    assert "(l2, per token): 3 % of a token's embedding norm" in text
    assert near(numbers(text)[-1], token)
    text = said(parts, build("fgm", epsilon=0.03, norm="linf", unit="relative"))
    assert "3 % of the root mean square of a sentence's embedding coordinates" in text
    assert near(numbers(text)[-1], median(norms(parts, math.inf)))
    text = said(parts, build("fgm", epsilon=0.03, norm="l1", unit="relative"))
    assert near(numbers(text)[-1], median(norms(parts, 1)))


def test_special_tokens_that_do_not_move_do_not_count(parts):
    method = build("fgm", epsilon=0.03, unit="relative")
    with_them, without = (numbers(said(parts, method, special=s))[-1] for s in (False, True))
    assert near(without, median(norms(parts, 2, special=True)))
    assert without < with_them


@pytest.mark.parametrize(
    ("epsilon", "words"),
    [(0.31, "may collapse"), (0.3, None), (1e-4, None), (9e-5, "hardly differs"), (5, "500 %")],
)
def test_what_does_not_make_sense_is_named(parts, epsilon, words):
    text = said(parts, build("freelb", epsilon=epsilon, unit="relative"))
    if words is None:
        assert text.endswith(" tokens.")
    else:
        assert words in text
        assert ("--adv_start_step" in text) == (epsilon > 0.3)


def test_no_ball(parts):
    text = said(parts, build("pgd", epsilon=math.inf, step_size=0.01))
    assert text == "ε = inf: there is no ball; how far δ goes is up to the steps."


def test_the_matrix(parts):
    norm = parts[0].bert.embeddings.word_embeddings.weight.norm().item()
    text = said(parts, build("fgm_matrix", epsilon=0.1 * norm))
    assert "(Frobenius, the whole embedding matrix): 10 % of the matrix's norm" in text
    assert near(numbers(text)[-1], norm)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_and_nothing_changes(parts, name):
    model = parts[0].train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    text = said(parts, METHODS[name].preset())
    has_epsilon = name == "fgm_matrix" or hasattr(METHODS[name].preset(), "ball")
    assert (text is not None) == has_epsilon
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(("adv", "times"), [("fgm", 1), ("none", 0)])
def test_the_command_says_it_once_before_training(files, work, adv, times):
    run = call(**files, **BRIEF, adv=adv, compare_plain=True, output_dir="out")
    assert run.code == 0, run.err
    lines = [line for line in run.err.splitlines() if line.startswith("ε = ")]
    assert len(lines) == times
    if times:
        assert lines[0].startswith("ε = 0.03 relative = ")
        assert "ε =" not in run.out
