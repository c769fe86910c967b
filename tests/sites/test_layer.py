"""δ on the output of any module; entries; sites by name."""

import copy
from typing import NamedTuple

import pytest
import torch
import transformers as hf
from models import batch, checkpoint, gradients, tiny
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from nlp_adv import EmbeddingSite, FreeLB, L2Ball, LayerSite, PixelSite, UserError, objective
from nlp_adv.methods import TAVAT, YOPO, FGMMatrix
from nlp_adv.perturbation import Memory, StepError
from nlp_adv.sites.parse import parse_site


def noise(like: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(like.shape, generator=generator, dtype=like.dtype) * 0.1


LAYERS = {
    "bert": "bert.encoder.layer.0",
    "bert_choice": "bert.encoder.layer.0",
    "gpt2": "transformer.h.0",
    "longformer": "longformer.encoder.layer.0",
    "modernbert": "model.layers.0",
    "t5": "encoder.block.0",
    "xlnet": "transformer.layer.0",
}


@pytest.mark.parametrize("name", LAYERS)
def test_delta_is_added_to_the_hidden_states_of_its_example(name):
    """Against a hook that adds it by hand; zero changes no bit."""
    model, full = tiny(name), batch(name)
    of = objective(model, full, LayerSite(LAYERS[name]), seed=0)
    rows = full["attention_mask"].flatten(0, -2)
    assert torch.equal(of.mask[:, : rows.shape[1], 0], rows.double())
    assert not of.mask[:, rows.shape[1] :].any()  # Longformer's own padding
    assert torch.equal(of.forward(torch.zeros_like(of.mask)).loss, model(**full).loss)
    delta = noise(of.mask) * of.mask

    def by_hand(module, args, output):
        turned = delta.transpose(0, 1) if name == "xlnet" else delta
        if isinstance(output, Tensor):
            return output + turned
        return (output[0] + turned, *output[1:])

    handle = model.get_submodule(LAYERS[name]).register_forward_hook(by_hand)
    want = model(**full).loss
    handle.remove()
    assert torch.equal(of.forward(delta).loss, want)
    assert want != model(**full).loss


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


OUTPUTS = {
    "tensor": lambda h: h,
    "tuple": lambda h: (h, h.detach()),
    "list": lambda h: [h, h.detach()],
    "named": lambda h: Pair(h, h.detach()),
    "after-ids": lambda h: (torch.arange(3), h),
    "mapping": lambda h: {"other": h.detach(), "last_hidden_state": h},
    "model-output": lambda h: BaseModelOutput(last_hidden_state=h, hidden_states=(h.detach(),)),
}


class Wraps(nn.Module):
    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind

    def forward(self, hidden):
        return OUTPUTS[self.kind](hidden)


class Small(nn.Module):
    """Words, a layer whose output comes in some wrapping, and a linear head: its loss by hand."""

    def __init__(self, kind: str = "tensor", pooled: bool = False):
        super().__init__()
        self.words, self.layer = nn.Embedding(9, 4), Wraps(kind)
        self.pool, self.head = nn.Identity(), nn.Linear(4, 2)

    def forward(self, input_ids, attention_mask, labels):
        output = self.layer(self.words(input_ids))
        if isinstance(output, Tensor):
            hidden = output
        elif isinstance(output, dict):
            hidden = output["last_hidden_state"]
        else:
            hidden = next(one for one in output if one.is_floating_point())
        logits = self.head(self.pool((hidden * attention_mask[..., None]).sum(1)))
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


SMALL = {
    "input_ids": torch.tensor([[1, 2, 3], [4, 5, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]]),
    "labels": torch.tensor([0, 1]),
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_an_output_of_several_values_keeps_the_others(kind):
    model = Small(kind)
    of = objective(model, SMALL, LayerSite("layer"), seed=0)
    assert of.mask[..., 0].tolist() == SMALL["attention_mask"].tolist()
    delta = noise(of.mask)
    got = of.forward(delta).logits - model(**SMALL)["logits"]
    torch.testing.assert_close(got, (delta * of.mask).sum(1) @ model.head.weight.T)


def test_a_pooled_output_is_free_in_all_its_coordinates():
    model = Small()
    of = objective(model, SMALL, LayerSite("pool"), seed=0)
    assert of.mask.shape == (2, 4)
    assert of.mask.all()
    names = objective(model, SMALL, EmbeddingSite("words"), seed=0).example_names()
    assert of.example_names() == names  # what an example consists of, not its hidden states
    FreeLB(L2Ball(0.5), 0.2, 2).step(of)


def test_a_layer_of_an_image_model_has_no_padding():
    config = hf.ViTConfig(
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=8,
        image_size=8,
        patch_size=4,
    )
    model = hf.ViTForImageClassification(config)
    full = {"pixel_values": torch.rand(2, 3, 8, 8), "labels": torch.tensor([0, 1])}
    with pytest.raises(UserError, match=r"give site=PixelSite"):
        objective(model, full, seed=0)
    name = next(
        n for n, m in model.named_modules() if n.endswith("layer.0") or n.endswith("layers.0")
    )
    of = objective(model, full, LayerSite(name), seed=0)
    assert of.mask.shape == (2, 5, 8)
    assert of.mask.all()
    YOPO(L2Ball(0.5), 0.2, 2, 2).step(of)


def test_tokens_that_cannot_be_known_ask_for_a_mask():
    """Two latents for three tokens, as a Perceiver has."""

    class Latents(Small):
        def __init__(self):
            super().__init__()
            self.layer = nn.Identity()
            self.mix = nn.Identity()

        def forward(self, input_ids, attention_mask, labels):
            logits = self.head(self.mix(self.words(input_ids)[:, :2]).sum(1))
            return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

    with pytest.raises(UserError, match=r"cannot be known .* of shape \(2, 2\)"):
        objective(Latents(), SMALL, LayerSite("mix"), seed=0)
    own = torch.tensor([[1, 1], [0, 1]])
    of = objective(Latents(), SMALL, LayerSite("mix"), mask=own, seed=0)
    assert of.mask[..., 0].tolist() == own.tolist()


def test_an_unknown_module_comes_with_near_names():
    with pytest.raises(UserError, match=r"'bert.encoder.layers.0'; near names are 'bert.encoder"):
        objective(tiny("bert"), batch("bert"), LayerSite("bert.encoder.layers.0"))


def test_an_output_that_the_loss_does_not_use_is_refused():
    """The classifier takes the pooled output of BERT, not the hidden states beside it."""
    of = objective(tiny("bert"), batch("bert"), LayerSite("bert"), seed=0)
    with pytest.raises(StepError, match=r"does not depend on δ"):
        of.gradient(torch.zeros_like(of.mask))


@pytest.mark.parametrize("method", [TAVAT(L2Ball(0.5), 0.2, 2), FGMMatrix(0.5)])
def test_methods_of_one_table_refuse_several_modules(method):
    names = ("bert.embeddings.word_embeddings", "bert.embeddings.position_embeddings")
    of = objective(tiny("bert"), batch("bert"), EmbeddingSite(*names), memory=Memory(), seed=0)
    with pytest.raises(StepError, match=r"looked up in an embedding matrix"):
        method.step(of)


def test_yopo_refuses_modules_of_two_stacks():
    full = batch("t5")
    of = objective(tiny("t5"), full, LayerSite("encoder.block.0", "decoder.block.0"), seed=0)
    with pytest.raises(UserError, match=r"encoder and decoder"):
        YOPO(L2Ball(0.5), 0.2, 2, 2).step(of)


def test_the_first_block_lies_behind_delta():
    model, full = tiny("bert"), batch("bert")
    site = LayerSite("bert.encoder.layer.0")
    entry = site.enter(model, full)
    assert entry.first_block(model).module is model.bert.encoder.layer[1]
    with pytest.raises(UserError, match=r"first block .* was not found"):
        LayerSite("bert.encoder.layer.1").enter(model, full).first_block(model)


# --- entries


def test_rows_are_what_entering_them_alone_gives():
    model, full = tiny("bert").eval(), batch("bert")
    for site in (EmbeddingSite(), LayerSite("bert.encoder.layer.0")):
        entry = site.enter(model, full)
        for kept in (torch.tensor([True, False, True]), torch.tensor([0, 2])):
            some = entry.rows(kept)
            alone = site.enter(model, {k: v[kept] for k, v in full.items()})
            torch.testing.assert_close(some.x, alone.x)
            assert torch.equal(some.mask, alone.mask)
            assert some.names() == alone.names() == [entry.names()[0], entry.names()[2]]
            delta = noise(some.mask) * some.mask
            torch.testing.assert_close(some.run(model, delta), alone.run(model, delta))
            last = some.rows(torch.tensor([False, True]))  # and of these again
            one = last.run(model, delta[1:])
            torch.testing.assert_close(one.logits, some.run(model, delta).logits[1:])


def test_rows_of_several_modules_and_of_pixels():
    model, full = tiny("bert").eval(), batch("bert")
    entry = LayerSite("bert.encoder.layer.0", "bert.pooler").enter(model, full)
    kept = torch.tensor([False, True, True])
    some = entry.rows(kept)
    assert some.segments.index.shape == some.x.shape[:2] == (2, 8)
    with torch.no_grad():
        assert some.run(model, torch.zeros_like(some.mask)).logits.shape == (2, 2)
        last = some.rows(torch.tensor([1]))  # and of these again
        delta = noise(last.mask) * last.mask
        alone = LayerSite("bert.encoder.layer.0", "bert.pooler").enter(
            model, {key: value[2:] for key, value in full.items()}
        )
        torch.testing.assert_close(last.run(model, delta), alone.run(model, delta))
    z = torch.rand(3, 1, 2, 2)
    pixels = PixelSite(torch.tensor([0.0]), torch.tensor([1.0])).enter(
        model, {"pixel_values": z, "labels": torch.arange(3)}
    )
    assert torch.equal(pixels.rows(kept).low, -z[kept])
    assert pixels.rows(kept).names() == pixels.names()[1:]


def test_choices_cannot_be_taken_apart():
    entry = EmbeddingSite().enter(tiny("bert_choice"), batch("bert_choice"))
    with pytest.raises(UserError, match=r"3 examples and δ has 6 rows"):
        entry.rows(torch.tensor([0]))


def test_names_do_not_depend_on_batch_or_padding_and_tell_masks_apart():
    model, full = tiny("bert"), batch("bert")
    names = EmbeddingSite().enter(model, full).names()
    padded = {k: nn.functional.pad(v, (0, 2)) if v.ndim == 2 else v for k, v in full.items()}
    assert EmbeddingSite().enter(model, padded).names() == names
    assert len(set(names)) == 3
    own = torch.ones(3, 7)
    own[:, 1] = 0
    assert not set(EmbeddingSite().enter(model, full, mask=own).names()) & set(names)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.filterwarnings("ignore:.*requires_grad=True:UserWarning")
def test_a_module_inside_a_checkpointed_block_is_perturbed_as_without(reentrant):
    found = []
    for checkpointed in (False, True):
        model = copy.deepcopy(tiny("bert"))
        if checkpointed:
            checkpoint(model, use_reentrant=reentrant)
        site = LayerSite("bert.encoder.layer.0.output.dense")
        FreeLB(L2Ball(0.5), 0.2, 2).step(objective(model, batch("bert"), site, seed=0))
        assert model.bert.encoder.layer[0].gradient_checkpointing is checkpointed
        found.append(gradients(model))
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value)


# --- by name


def test_a_text_names_a_site():
    model = tiny("bert")
    one = parse_site("layer:bert.encoder.layer.0").taps(model)
    assert [tap.module for tap in one] == [model.bert.encoder.layer[0]]
    several = parse_site(
        "embedding, layer:bert.pooler,embedding:bert.embeddings.position_embeddings"
    )
    words = model.bert.embeddings
    want = [words.word_embeddings, model.bert.pooler, words.position_embeddings]
    assert [tap.module for tap in several.taps(model)] == want
    assert parse_site("pixels") is None


@pytest.mark.parametrize(
    "text", ["", "layer", "layer:", "embeddings", "layer:a,", "pixels,layer:a"]
)
def test_a_text_that_names_none_is_refused(text):
    with pytest.raises(UserError, match=r"names no site: write embedding"):
        parse_site(text)


def test_a_module_named_twice_is_refused():
    with pytest.raises(UserError, match=r"names one module twice"):
        LayerSite("bert.pooler", "bert.pooler").taps(tiny("bert"))


def test_a_number_names_a_block_of_the_longest_stack():
    model = tiny("gpt2_lm")
    numbered, named = (LayerSite(name).taps(model) for name in ("1", "transformer.h.1"))
    assert numbered[0].module is named[0].module is model.transformer.h[1]
    both = parse_site("embedding,layer:0,layer:1").taps(model)
    wanted = [model.transformer.wte, *model.transformer.h]
    assert all(tap.module is one for tap, one in zip(both, wanted, strict=True))


@pytest.mark.parametrize(
    ("name", "number", "said"),
    [("gpt2_lm", "2", "has 2 blocks, 0 to 1"), ("t5", "0", "several stacks of blocks")],
)
def test_a_number_that_names_no_block_is_refused(name, number, said):
    with pytest.raises(UserError, match=said) as caught:
        LayerSite(number).taps(tiny(name))
    assert ". " not in str(caught.value)
