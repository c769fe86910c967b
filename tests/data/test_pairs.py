"""Rows of pairs and utility rows, made into one batch."""

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from nlp_adv import PairCollator, UserError
from nlp_adv.data.pairs import with_utility

WORDS = [f"w{index}" for index in range(20)]
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} </s> {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)


def tokenizer(template=TEMPLATE, *, begins=False):
    special = ["<pad>", "<unk>", "<s>", "</s>", "<user>", "<assistant>", "<system>"]
    vocabulary = {word: index for index, word in enumerate(special + WORDS)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if begins:
        words.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 2)]
        )
    names = dict(zip(("pad_token", "unk_token", "bos_token", "eos_token"), special, strict=False))
    made = PreTrainedTokenizerFast(tokenizer_object=words, **names)
    made.chat_template = template
    return made


def say(*contents):
    roles = ("user", "assistant") * len(contents)
    return [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]


def texts(batch, key="input_ids"):
    """The words of each row where the key's numbers are not padding, prompt or outside."""
    known = tokenizer()
    real = {"input_ids": batch["attention_mask"] == 1, "labels": batch["labels"] != -100}
    real["completion_mask"] = batch["completion_mask"] == 1
    rows = zip(batch["input_ids"], real[key], strict=True)
    return [" ".join(known.convert_ids_to_tokens(ids[kept])) for ids, kept in rows]


PAIR = {"prompt": "w0 w1", "chosen": "w2", "rejected": "w3 w4 w5"}


def test_a_pair_and_a_utility_row_are_one_batch():
    useful = {"prompt": "w6", "completion": "w7 w8"}
    batch = PairCollator(tokenizer(None))([useful, PAIR])
    assert batch["adv_rows"].tolist() == [0, 1, 2]
    assert texts(batch) == ["w0 w1 w3 w4 w5 </s>", "w0 w1 w2 </s>", "w6 w7 w8 </s>"]
    assert texts(batch, "completion_mask") == ["w3 w4 w5 </s>", "w2 </s>", "w7 w8 </s>"]
    assert texts(batch, "labels") == ["", "w2 </s>", "w7 w8 </s>"]
    assert (batch["input_ids"][batch["attention_mask"] == 0] == 0).all()
    assert not (batch["attention_mask"][:, 1:] > batch["attention_mask"][:, :-1]).any()


def test_rejected_rows_come_first_and_in_the_order_of_chosen_ones():
    other = {"prompt": "w9", "chosen": "w10", "rejected": "w11"}
    batch = PairCollator(tokenizer(None))([PAIR, other])
    assert batch["adv_rows"].tolist() == [0, 0, 1, 1]
    assert [row.split()[0] for row in texts(batch)] == ["w0", "w9", "w0", "w9"]


def test_texts_are_turns_where_there_is_a_template():
    batch = PairCollator(tokenizer())([PAIR])
    assert texts(batch)[1] == "<user> w0 w1 </s> <assistant> w2 </s>"
    assert texts(batch, "labels") == ["", "w2 </s>"]
    plain = PairCollator(tokenizer(), chat=False)([PAIR])
    assert texts(plain)[1] == "w0 w1 w2 </s>"


def test_messages_are_the_same_in_every_form():
    in_parts = {"prompt": say("w0 w1"), "chosen": [say("", "w2")[1]], "rejected": "w3 w4 w5"}
    whole = {"chosen": say("w0 w1", "w2"), "rejected": say("w0 w1", "w3 w4 w5")}
    wanted = PairCollator(tokenizer())([PAIR])
    for row in (in_parts, whole, {**PAIR, "prompt": say("w0 w1"), "messages": None}):
        batch = PairCollator(tokenizer())([row])
        assert all(torch.equal(batch[key], wanted[key]) for key in wanted)


def test_utility_rows_beside_a_pair_come_in_every_form():
    useful = {"messages": say("w6", "w7", "w8", "w9")}
    forms = [
        useful,
        useful["messages"],
        {"prompt": say("w6", "w7", "w8"), "completion": "w9"},
    ]
    for form in forms:
        batch = PairCollator(tokenizer())([{**PAIR, "utility": form}])
        assert batch["adv_rows"].tolist() == [0, 1, 2]
        last = "<user> w6 </s> <assistant> w7 </s> <user> w8 </s> <assistant> w9 </s>"
        assert texts(batch)[2] == last
        assert texts(batch, "labels")[2] == "w9 </s>"
    several = PairCollator(tokenizer())([{**PAIR, "utility": ["w6 w7", useful]}])
    assert several["adv_rows"].tolist() == [0, 1, 2, 2]
    assert texts(several, "labels")[2] == "w6 w7 </s>"


def test_a_prompt_of_a_plain_text_begins_as_the_tokenizer_begins_it():
    batch = PairCollator(tokenizer(None, begins=True))([PAIR])
    assert texts(batch)[1] == "<s> w0 w1 w2 </s>"


def test_long_rows_lose_their_end_and_no_prompt():
    batch = PairCollator(tokenizer(None), max_length=4, pad_to_multiple_of=8)([PAIR])
    assert texts(batch) == ["w0 w1 w3 w4", "w0 w1 w2 </s>"]
    assert batch["input_ids"].shape == (2, 8)


def test_utility_rows_are_shared_out_evenly():
    useful = [{"prompt": f"w{i}", "completion": "w9"} for i in range(5)]
    rows = with_utility([PAIR] * 10, useful, each=3, seed=1)
    counts = [row["prompt"] for one in rows for row in one["utility"]]
    assert [len(one["utility"]) for one in rows] == [3] * 10
    assert {counts.count(f"w{i}") for i in range(5)} == {6}
    assert rows == with_utility([PAIR] * 10, useful, each=3, seed=1)
    assert rows != with_utility([PAIR] * 10, useful, each=3, seed=2)
    batch = PairCollator(tokenizer(None))(list(Dataset.from_list(rows))[:2])
    assert batch["adv_rows"].tolist() == [0, 0, 1, 1] + [2] * 6


BARE = PairCollator(tokenizer(None))


@pytest.mark.parametrize(
    ("collator", "row", "said"),
    [
        (BARE, {"prompt": "w0", "chosen": "w1"}, "has no rejected"),
        (BARE, {"chosen": "w1", "rejected": "w2"}, "has no prompt"),
        (BARE, {"text": "w1"}, "has the columns text; a row needs"),
        (BARE, {**PAIR, "utility": {"text": "w1"}}, "utility row has the columns text"),
        (BARE, {**PAIR, "prompt": say("w0")}, "has no chat template"),
        (BARE, {**PAIR, "prompt": " ".join(WORDS * 30)}, "none of the completion is within"),
        (BARE, {"prompt": "w0", "completion": "w1", "rejected": "w2"}, "has no chosen"),
        (
            PairCollator(tokenizer()),
            {"chosen": say("w0", "w1"), "rejected": say("w2", "w3")},
            "prompts of chosen and rejected differ",
        ),
        (
            PairCollator(tokenizer("{{ messages | length }} {{ messages[0]['content'] }}")),
            PAIR,
            "writes a prompt otherwise",
        ),
    ],
)
def test_what_is_no_row_is_refused_in_one_sentence(collator, row, said):
    with pytest.raises(UserError, match=said) as caught:
        collator([row])
    assert ". " not in str(caught.value)
