"""The embedded demo: its sentences, its tokenizer and its model."""

import re

import pytest
import torch
from datasets import DatasetDict
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from nlp_adv.data.text_demo import (
    ADJECTIVES,
    SPECIAL_TOKENS,
    demo_dataset,
    demo_model,
    demo_tokenizer,
    held_out_words,
)


@pytest.fixture(scope="module")
def data() -> DatasetDict:
    return demo_dataset(seed=0)


@pytest.fixture(scope="module")
def tokenizer(data: DatasetDict) -> PreTrainedTokenizerBase:
    return demo_tokenizer(data["train"]["text"])


def words(texts) -> set[str]:
    return set(re.findall(r"[a-z]+", " ".join(texts)))


def reread(sentence: str) -> str:
    """Read a sentence again, by rules of our own: find the main clause, its word, its negator."""
    body = sentence.rstrip(".")
    if " but " in body:
        main = body.split(" but ", 1)[1]
    elif " although " in f" {body}" or "even if " in body:
        before, after = re.split(r"\b(?:although|even if) ", body, maxsplit=1)
        leads = before == "" or before.endswith(("tuesday, ", "hours, ", "record, ", "here, "))
        # A concession in front ends where the last ", the ..." or ", this/her ..." begins.
        main = re.split(r", (?=the (?!poster)|this |her )", after)[-1] if leads else before
    else:
        main = re.split(r" because |, and (?=the |this |her )", body)[0]
    stems = {adj: label for label, adjectives in ADJECTIVES.items() for adj in adjectives}
    (found,) = [w for w in re.findall(r"[a-z]+", main) if w in stems or w[:-2] in stems]
    positive = stems.get(found, stems.get(found[:-2])) == "positive"
    predicate = main.split(" is ")[-1]
    if re.match(r"(not|hardly|far from|never(?! less than)) ", predicate):
        positive = not positive
    return "positive" if positive else "negative"


@pytest.mark.parametrize(
    ("sentence", "label"),
    [
        ("the acting is superb.", "positive"),
        ("the acting is not superb.", "negative"),
        ("the plot is far from dreadful.", "positive"),
        ("the plot is never less than dreadful.", "negative"),
        ("the plot is nothing short of superb.", "positive"),
        ("although the plot is tedious, the acting is very brilliantly done.", "positive"),
        ("the acting is superb, but the second half is boringly made.", "negative"),
        ("the acting is hardly boring, although the plot is tedious.", "positive"),
        ("for the record, even if this film is witless, the ending is elegant.", "positive"),
        ("the ending, shot in black and white, is never charming.", "negative"),
        ("the ending is superb because the script is not dreadful.", "positive"),
    ],
)
def test_the_second_reader_reads_hand_written_sentences_right(sentence, label):
    assert reread(sentence) == label


def test_labels_agree_with_a_second_reading(data):
    for split in data.values():
        names = split.features["label"].int2str(list(split["label"]))
        wrong = [t for t, n in zip(split["text"], names, strict=True) if reread(t) != n]
        assert wrong == []


def test_same_seed_same_sentences_and_another_seed_others(data):
    again, other = demo_dataset(seed=0), demo_dataset(seed=1)
    for split in data:
        assert data[split].to_dict() == again[split].to_dict()
        assert data[split].to_dict() != other[split].to_dict()


def test_splits_share_no_sentence_and_repeat_none(data):
    texts = [text for split in data.values() for text in split["text"]]
    assert list(data) == ["train", "validation", "test"]
    assert len(texts) == len(set(texts))


def test_classes_are_balanced_and_named(data):
    for split in data.values():
        assert split.features["label"].names == ["negative", "positive"]
        assert sum(split["label"]) * 2 == len(split)


def test_held_out_words_occur_in_the_test_split_only(data):
    held_out = held_out_words()
    assert not held_out & words(data["train"]["text"])
    assert not held_out & words(data["validation"]["text"])
    assert held_out <= words(data["test"]["text"])
    assert {word.removesuffix("ly") for word in held_out} <= words(data["train"]["text"])


def test_no_simple_cue_gives_the_label_away(data):
    # The opinion words alone, negators and structure ignored, leave many sentences open.
    def vote(text: str) -> int:
        positive = sum(word in text for word in ADJECTIVES["positive"])
        return positive - sum(word in text for word in ADJECTIVES["negative"])

    rows = zip(data["test"]["text"], data["test"]["label"], strict=True)
    right = [vote(text) * (1 if label else -1) > 0 for text, label in rows]
    assert sum(right) / len(right) < 0.7


def test_tokenizer_learns_the_same_vocabulary_every_time(data, tokenizer):
    again = demo_tokenizer(data["train"]["text"])
    assert again.get_vocab() == tokenizer.get_vocab()
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))


def test_tokenizer_frames_pads_and_decodes(tokenizer):
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == [0, 1, 2, 3, 4]
    batch = tokenizer(["the plot is dull.", "the plot is not a very good one."], padding=True)
    first, second = batch["input_ids"]
    assert len(first) == len(second)
    assert first[0] == tokenizer.cls_token_id
    assert second[-1] == tokenizer.sep_token_id
    assert first[-1] == tokenizer.pad_token_id
    assert batch["attention_mask"][0][-1] == 0
    text = "The Acting is superb"
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text.lower()
    assert tokenizer.tokenize("☃") == ["[UNK]"]


def test_every_sentence_fits_and_is_made_of_known_pieces(data, tokenizer):
    for split in data.values():
        for ids in tokenizer(list(split["text"]))["input_ids"]:
            assert len(ids) <= tokenizer.model_max_length
            assert tokenizer.unk_token_id not in ids


def test_tokenizer_survives_saving(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    text = "although the plot is tedious, the acting is superbly done."
    assert (
        AutoTokenizer.from_pretrained(tmp_path)(text)["input_ids"] == tokenizer(text)["input_ids"]
    )


def test_model_depends_on_its_seed_alone_and_leaves_torch_random_state(tokenizer):
    torch.manual_seed(123)
    before = torch.get_rng_state()
    first = demo_model(tokenizer, seed=3).state_dict()
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(456)
    second, other = demo_model(tokenizer, seed=3).state_dict(), demo_model(tokenizer, seed=4)
    assert all(torch.equal(first[name], second[name]) for name in first)
    embeddings = "bert.embeddings.word_embeddings.weight"
    assert not torch.equal(first[embeddings], other.state_dict()[embeddings])


def test_model_accepts_what_the_tokenizer_makes(data, tokenizer):
    model = demo_model(tokenizer)
    assert model.config.id2label == {0: "negative", 1: "positive"}
    batch = tokenizer(list(data["test"]["text"][:3]), padding=True, return_tensors="pt")
    assert model(**batch).logits.shape == (3, 2)
    assert demo_model(tokenizer, num_labels=3).config.num_labels == 3
