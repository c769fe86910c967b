"""Where δ may move in a language model's row: prompt, completion or all."""

import pytest
import torch
from models import answered, batch, tiny

from nlp_adv import UserError
from nlp_adv.sites.layer import LayerSite
from nlp_adv.sites.objective import objective, text_objective

PROMPTS = torch.tensor([3, 2, 1])  # tokens of each row's prompt


def moves(found):
    """(B, T): where δ may move."""
    return found.mask.amax(-1).int()


REAL = batch("gpt2_lm")["attention_mask"].int()
PROMPT = (torch.arange(7) < PROMPTS[:, None]).int()


def test_without_a_flag_the_prompt_moves_where_the_labels_leave_one_out():
    assert torch.equal(moves(text_objective(tiny("gpt2_lm"), answered())), PROMPT)


def test_labels_on_every_token_leave_no_prompt():
    assert torch.equal(moves(text_objective(tiny("gpt2_lm"), batch("gpt2_lm"))), REAL)


def test_the_first_tokens_label_says_nothing():
    """Nothing predicts it, and collators of packed texts leave it out."""
    full = answered((1, 1, 1))
    assert torch.equal(moves(text_objective(tiny("gpt2_lm"), full)), REAL)
    starts = torch.tensor([[0, 1, 2, 0, 1, 2, 3], [0, 1, 0, 1, 2, 3, 4], [0, 1, 2, 3, 0, 1, 2]])
    ids = full["input_ids"].clamp(min=4)
    packed = {
        "input_ids": ids,
        "position_ids": starts,
        "labels": ids.masked_fill(starts == 0, -100),
    }
    assert moves(text_objective(tiny("gpt2_lm"), packed)).all()
    packed["labels"] = packed["labels"].masked_fill(starts <= 1, -100)
    found = text_objective(tiny("gpt2_lm"), packed)
    assert torch.equal(moves(found), (starts <= 1).int())


def test_tokens_left_out_in_the_middle_or_at_the_end_are_no_prompt():
    """As where a collator pads with the end of a text and leaves all of these out."""
    full = batch("gpt2_lm")
    full["labels"][:, 3] = -100
    last = full["attention_mask"].sum(1, keepdim=True) - 1
    full["labels"].scatter_(1, last, -100)
    assert torch.equal(moves(text_objective(tiny("gpt2_lm"), full)), REAL)
    unmasked = {key: full[key] for key in ("input_ids", "labels")}
    assert torch.equal(moves(text_objective(tiny("gpt2_lm"), unmasked)), REAL)


@pytest.mark.parametrize(
    ("span", "want"),
    [("all", REAL), ("prompt", PROMPT), ("completion", REAL - PROMPT)],
)
def test_a_span_is_what_it_says_at_every_site(span, want):
    for site in (None, LayerSite("transformer.h.0")):
        assert torch.equal(moves(objective(tiny("gpt2_lm"), answered(), site, span=span)), want)
    site = LayerSite("transformer.h.0", "transformer.h.1")
    found = objective(tiny("gpt2_lm"), answered(), site, span=span)
    assert torch.equal(moves(found), want.repeat(1, 2))


def test_left_padding_and_a_completion_mask_tell_the_same():
    full = answered()
    lengths = full["attention_mask"].sum(1)
    turned = {
        key: torch.stack([row.roll(7 - int(n)) for row, n in zip(value, lengths, strict=True)])
        for key, value in full.items()
    }
    want = torch.stack([row.roll(7 - int(n)) for row, n in zip(PROMPT, lengths, strict=True)])
    assert torch.equal(moves(text_objective(tiny("gpt2_lm"), turned)), want)
    masked = {key: full[key] for key in ("input_ids", "attention_mask")}
    masked["completion_mask"] = (full["labels"] != -100).long()
    model = tiny("gpt2_lm")

    def forward(model, batch):
        from nlp_adv.perturbation import model_forward

        given = {k: v for k, v in batch.items() if k != "completion_mask"}
        return model_forward(model, given | {"labels": given["input_ids"]})

    assert torch.equal(moves(text_objective(model, masked, forward=forward)), PROMPT)


def test_a_mask_of_ones_own_goes_before_the_default_and_meets_a_span():
    own = torch.zeros(3, 7)
    own[:, 1:6] = 1
    model, full = tiny("gpt2_lm"), answered()
    assert torch.equal(moves(text_objective(model, full, mask=own)), (own * REAL).int())
    met = text_objective(model, full, mask=own, span="completion")
    assert torch.equal(moves(met), (own * (REAL - PROMPT)).int())
    column = full | {"adv_mask": own}
    assert torch.equal(moves(text_objective(model, column, span="prompt")), (own * REAL).int())


def test_delta_is_zero_outside_the_span_and_so_is_its_gradient():
    found = text_objective(tiny("gpt2_lm"), answered(), seed=0)
    grad = found.gradient(torch.ones_like(found.mask))
    assert (grad[PROMPT == 0] == 0).all()
    assert grad[PROMPT == 1].abs().min() > 0
    assert (found.delta[PROMPT == 0] == 0).all()


@pytest.mark.parametrize(
    ("name", "full", "span", "said"),
    [
        ("gpt2_lm", batch("gpt2_lm"), "prompt", "has a token in the prompt"),
        ("gpt2_lm", batch("gpt2_lm") | {"labels": torch.full((3, 7), -100)}, "completion",
         "has a token in the completion"),
        ("gpt2_lm", answered(), "prompts", "must be one of all, prompt, completion"),
        ("bert", batch("bert"), "prompt", "tells the prompt of a causal language model"),
        ("t5", batch("t5"), "completion", "tells the prompt of a causal language model"),
    ],
)  # fmt: skip
def test_a_span_that_is_none_is_refused_in_one_sentence(name, full, span, said):
    with pytest.raises(UserError, match=said) as caught:
        text_objective(tiny(name), full, span=span)
    assert str(caught.value).count(". ") == 0
