"""Encoder–decoder models whose embedding was resized: both sides call one module from then on."""

import copy

import pytest
import torch
import transformers as hf
from models import assert_gradients, batch, gradients
from tiny_training import hooks, rows, trained
from torch import nn
from torch.nn.functional import pad

from nlp_adv.methods import VAT, FreeLB
from nlp_adv.perturbation import L2Ball
from nlp_adv.sites.embeddings import embedding_tap
from nlp_adv.sites.objective import text_objective

pytestmark = pytest.mark.fault("T18")

T5 = {"vocab_size": 60, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
T5 |= {"decoder_start_token_id": 0, "dropout_rate": 0.1, "classifier_dropout": 0.1}
BART = {"vocab_size": 60, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1}
BART |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 16}
BART |= {"decoder_ffn_dim": 16, "max_position_embeddings": 32, "pad_token_id": 0}
BART |= {"decoder_start_token_id": 3, "dropout": 0.1}
CLASSES = {
    "T5ForConditionalGeneration": T5,
    "MT5ForConditionalGeneration": T5,
    "LongT5ForConditionalGeneration": T5,
    "T5ForSequenceClassification": T5 | {"num_labels": 2, "eos_token_id": 3},
    "BartForConditionalGeneration": BART,
    "BartForSequenceClassification": BART | {"num_labels": 2, "eos_token_id": 3},
    "MBartForConditionalGeneration": BART,
    "M2M100ForConditionalGeneration": BART | {"eos_token_id": 3},
    "PegasusForConditionalGeneration": BART,
    "MarianMTModel": BART | {"eos_token_id": 3},
}
each_class = pytest.mark.parametrize("name", CLASSES)


def resized(name: str) -> nn.Module:
    """A tiny model after `resize_token_embeddings`; encoder and decoder have one module."""
    cls = getattr(hf, name)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = cls(cls.config_class(**CLASSES[name]))
        model.resize_token_embeddings(70)
        model = model.double().train()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.3)
    encoder, decoder = (stack.get_input_embeddings() for stack in stacks(model))
    assert encoder is decoder
    return model


def stacks(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    return model.get_encoder(), model.get_decoder()


def told_apart(model: nn.Module) -> nn.Module:
    """The same weights, and a module of its own for the encoder, as before the resizing."""
    encoder, _ = stacks(model)
    own = copy.deepcopy(encoder.get_input_embeddings())
    own.weight = encoder.get_input_embeddings().weight
    encoder.set_input_embeddings(own)
    return model


def inputs(name: str) -> dict[str, torch.Tensor]:
    full = batch("bart")  # its sentences end as classifiers want them
    if "Classification" not in name:  # the decoder's side is longer than the encoder's
        labels = full["input_ids"].masked_fill(full["attention_mask"] == 0, -100)
        full["labels"] = pad(labels, (0, 2), value=5)
    return full


@each_class
@pytest.mark.parametrize(
    "method",
    [
        FreeLB(L2Ball(0.8), 0.4, 3, init_magnitude=0.5),
        VAT(L2Ball(0.8), 0.1),
    ],
    ids=lambda method: method.name,
)
def test_the_encoders_call_is_perturbed_and_no_other(name, method):
    found = []
    for model in (resized(name), told_apart(resized(name))):
        torch.manual_seed(0)
        report = method.step(text_objective(model, inputs(name), seed=0))
        found.append((report.adversarial, gradients(model)))
        assert hooks(model) == 0
    (shared, got), (apart, want) = found
    torch.testing.assert_close(shared, apart)
    assert_gradients(got, {key: want[key] for key in got})


@each_class
def test_what_the_decoder_looks_up_is_clean(name):
    model, full = resized(name), inputs(name)
    tap = embedding_tap(model)
    tap.install()
    looked_up = []
    tap.module.register_forward_hook(lambda module, args, output: looked_up.append(output))
    model(**full)
    delta = torch.full((*full["input_ids"].shape, 16), 0.25, dtype=torch.float64)
    with tap.adding(delta):
        model(**full)
    clean_encoder, clean_decoder, encoder, decoder = looked_up
    torch.testing.assert_close(encoder, clean_encoder + delta)
    assert torch.equal(decoder, clean_decoder)


def test_naming_the_decoders_call_takes_it():
    model = resized("BartForConditionalGeneration")
    assert embedding_tap(model, "model.encoder.embed_tokens").within is model.model.encoder
    assert embedding_tap(model, "model.decoder.embed_tokens").within is model.model.decoder
    assert embedding_tap(model, "model.shared").within is model.model.encoder


@pytest.mark.parametrize("name", ["T5ForConditionalGeneration", "BartForConditionalGeneration"])
def test_in_the_trainer(tmp_path, name):
    data = rows(8, language=True)
    for row in data:
        row["labels"] = pad(row["labels"], (0, 2), value=5)
    trainer = trained(tmp_path, model=resized(name), data=data, adv="freelb")
    assert trainer.state.global_step == 2
    assert hooks(trainer.model) == 0
