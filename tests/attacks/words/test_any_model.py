"""`evaluate_robustness` on models of every make: it works, or one sentence says why not."""

import contextlib
import copy
from types import SimpleNamespace

import pytest
import torch
import transformers as hf
from datasets import ClassLabel, Dataset, Features, Value
from test_cut_texts import SlowTokenizer
from torch import nn
from toy_attacks import neighbours
from toy_victims import SENTENCES, BagOfTokens, bert, tokenizer_of, without_confidence

from nlp_adv.attacks.words.attacks import A2T
from nlp_adv.attacks.words.encoding import Splicer
from nlp_adv.attacks.words.victim import Victim
from nlp_adv.attacks.words.words import characters
from nlp_adv.errors import UserError
from nlp_adv.robustness import Resources, WhiteBox, embedding_pgd, evaluate_robustness

TOKENIZER = tokenizer_of("wordpiece")


def own_bert():
    """Pipelines and configurations change what they are given; the toy is shared."""
    return copy.deepcopy(bert())


ROWS = [{"text": text, "label": n % 3} for n, text in enumerate(SENTENCES[:6])]
RADII = WhiteBox(embedding_pgd((0.1, 0.3), steps=2), checks=False)


def evaluated(model, tokenizer=TOKENIZER, rows=ROWS, attacks=("deepwordbug", "a2t"), **options):
    settings = {"resources": Resources(neighbours=neighbours()), "white_box": RADII, **options}
    return evaluate_robustness(model, tokenizer, rows, attacks, progress=False, **settings)


class Unnamed(nn.Module):
    """The tiny BERT, which answers in a form of its own, and takes and says nothing else."""

    def __init__(self, form):
        super().__init__()
        self.inner, self.form = own_bert(), form

    def forward(self, input_ids, attention_mask):
        return self.form(self.inner(input_ids=input_ids, attention_mask=attention_mask).logits)


class Answering(Unnamed):
    """The same, and says which module its word embedding is."""

    def get_input_embeddings(self):
        return self.inner.get_input_embeddings()


class InTuples(hf.BertForSequenceClassification):
    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs).to_tuple()


def in_tuples():
    model = InTuples(own_bert().config).double().eval()
    model.load_state_dict(own_bert().state_dict())
    return model


def without_mappings():
    config = copy.deepcopy(own_bert().config)
    config.return_dict = False
    model = hf.BertForSequenceClassification(config).double().eval()
    model.load_state_dict(own_bert().state_dict())
    return model


MODELS = {
    "pipeline": lambda: hf.pipeline("text-classification", model=own_bert(), tokenizer=TOKENIZER),
    "tuples": in_tuples,
    "return_dict=False": without_mappings,
    "a tensor": lambda: Answering(lambda z: z),
    "a tuple": lambda: Answering(lambda z: (z, None)),
    "a list": lambda: Answering(lambda z: [z]),
    "a dict": lambda: Answering(lambda z: {"logits": z}),
    "an object": lambda: Answering(lambda z: SimpleNamespace(logits=z)),
}


@pytest.mark.fault("E5")
@pytest.mark.parametrize("name", MODELS)
def test_the_form_of_the_answer_changes_nothing(name):
    """Not a record of the attacks on words, gradients or embeddings."""
    want, found = evaluated(own_bert()), evaluated(MODELS[name]())
    assert without_confidence(found.records) == without_confidence(want.records)
    assert {record.attack.split("@")[0] for record in found.records} == {
        *("deepwordbug", "a2t", "embedding-pgd-l2")
    }


@pytest.mark.fault("E5")
def test_the_model_is_left_as_it_was():
    model = Answering(lambda z: (z,)).train()
    with contextlib.suppress(UserError):
        evaluated(model)
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    assert model.training


@pytest.mark.fault("E5")
def test_a_model_without_a_configuration_has_the_names_of_the_data():
    names = ["bad", "so-so", "good"]
    features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
    rows = Dataset.from_list(ROWS, features=features)
    found = evaluated(Answering(lambda z: z), rows=rows, white_box=None)
    assert found.labels == tuple(names)
    assert "bad as LABEL_0" in found.notes[0]
    with pytest.raises(UserError, match="no class of the model"):
        evaluated(Answering(lambda z: z), rows=[{"text": "a film", "label": "good"}])


class Rules(nn.Module):
    """No parameter and no embedding: an answer from the ids alone."""

    def forward(self, input_ids, attention_mask):
        total = (input_ids * attention_mask).sum(1, keepdim=True).double()
        return torch.cat([total.sin(), total.cos(), (2 * total).sin()], 1)


@pytest.mark.fault("E5")
def test_a_module_without_parameters():
    found = evaluated(Rules(), attacks="deepwordbug", white_box=None)
    assert len(found.records) == len(ROWS)
    with pytest.raises(UserError, match=r"nn\.Embedding"):
        evaluated(Rules(), attacks=["deepwordbug"])


@pytest.mark.fault("E5")
def test_an_embedding_by_name():
    name = "inner.bert.embeddings.word_embeddings"
    want, model = evaluated(own_bert()), Unnamed(lambda z: z)
    found = evaluated(model, embedding=name)
    assert without_confidence(found.records) == without_confidence(want.records)
    # That of the one model inside is found by itself.
    assert without_confidence(evaluated(model).records) == without_confidence(want.records)


class IdsOnly(nn.Module):
    def forward(self, input_ids):
        return input_ids


@pytest.mark.fault("E5")
@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (lambda texts: texts, "A function cannot be attacked.*torch.nn.Module"),
        ("bert-base-uncased", "A str cannot be attacked.*from_pretrained"),
        (None, "cannot be attacked"),
        (SimpleNamespace(predict=print), "SimpleNamespace cannot be attacked"),
        (IdsOnly(), "takes no attention_mask"),
        (Answering(lambda z: ()), "returns a tuple without logits"),
        (Answering(lambda z: {"scores": z}), "returns a dict without logits"),
        (Answering(lambda z: z.softmax(1)), "probabilities"),
        (Answering(lambda z: z[:, :1]), "one label a text"),
    ],
    ids=lambda part: part if isinstance(part, str) else type(part).__name__,
)
def test_what_cannot_be_attacked_is_refused_before_anything_is_written(model, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence):
        evaluated(model, output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.fault("E5")
class TestSlowTokenizer:
    def test_attacks_that_need_no_places_of_tokens(self):
        tokenizer = SlowTokenizer()
        found = evaluated(
            BagOfTokens(len(tokenizer)), tokenizer, attacks=["deepwordbug"], max_length=9
        )
        outcomes = [record.outcome for record in found.records]
        assert set(outcomes) <= {"wrong", "robust", "fooled"}
        assert any(record.found.words_changed for record in found.records)

    @pytest.mark.parametrize("attacks", [["a2t"], ["hotflip"], [A2T(neighbours())]], ids=str)
    def test_others_are_refused(self, attacks):
        tokenizer = SlowTokenizer()
        model = BagOfTokens(len(tokenizer))
        rows = Splicer(tokenizer, 40).whole([(row["text"], None) for row in ROWS])
        right = Victim(model, tokenizer).logits(rows).argmax(1).tolist()
        texts = [{**row, "label": label} for row, label in zip(ROWS, right, strict=True)]
        with pytest.raises(UserError, match=r"SlowTokenizer does not say.*use_fast=True"):
            evaluated(model, tokenizer, texts, attacks)


CHINESE = [{"text": text, "label": n % 3} for n, text in enumerate(["这部电影很好看", "很无聊"])]


@pytest.mark.fault("E2")
def test_texts_without_spaces_are_said_and_segmented():
    rows = [*CHINESE, *ROWS]
    plain = evaluated(own_bert(), rows=rows, attacks="deepwordbug", white_box=None)
    (note,) = [note for note in plain.notes if "script" in note]
    assert note.startswith("2 of 8 texts")
    assert "--segmenter" in note
    assert [record.found.words for record in plain.records[:2]] == [1, 1]
    given = Resources(segmenter=characters, segmenter_name="characters")
    found = evaluated(own_bert(), rows=rows, attacks="deepwordbug", white_box=None, resources=given)
    assert not any("script" in note for note in found.notes)
    assert [record.found.words for record in found.records[:2]] == [7, 3]
    assert found.hashes != plain.hashes
    assert not any("script" in note for note in evaluated(own_bert(), white_box=None).notes)


@pytest.mark.fault("U9")
def test_blank_texts_are_counted_apart():
    rows = [{"text": text, "label": 0} for text in ("", "  ", "\ufffd")]
    found = evaluated(own_bert(), rows=[*rows, *ROWS], attacks="deepwordbug", clean_on_all=True)
    assert {record.id for record in found.records} == {3, 4, 5, 6, 7, 8}
    assert found.clean_on_all[1] == 6
    assert "3 of 9 texts hold nothing to read (row 1, 2, 3)" in found.notes[0]
