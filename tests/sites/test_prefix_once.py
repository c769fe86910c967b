"""What lies below a layer is computed once for all passes for δ alone, and δ stays the same."""

import random
from collections import Counter

import pytest
import torch
from models import ARCHITECTURES, assert_gradients, batch, checkpoint, gradients, tiny
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nlp_adv import LayerSite, objective
from nlp_adv.errors import UserError
from nlp_adv.methods import AWP, PGD, TRADES, InnerPasses, SomeRows, build, describe
from nlp_adv.perturbation import L2Ball, StepError
from nlp_adv.sites.embeddings import EmbeddingSite
from nlp_adv.sites.pixels import PixelSite
from nlp_adv.sites.prefix import beside

l2 = L2Ball(0.5)
METHOD = PGD(l2, 0.2, 3, random_start=False)
LAYERS = {
    "albert": "albert.encoder.albert_layer_groups.0",
    "bart": "model.decoder.layers.0",
    "bert": "bert.encoder.layer.1",
    "bert_choice": "bert.encoder.layer.1",
    "distilbert": "distilbert.transformer.layer.1",
    "electra": "electra.encoder.layer.1",
    "gpt2": "transformer.h.1",
    "gpt2_lm": "transformer.h.1",
    "llama": "model.layers.1",
    "longformer": "longformer.encoder.layer.1",
    "modernbert": "model.layers.1",
    "roberta": "roberta.encoder.layer.1",
    "t5": "decoder.block.0",
    "t5_token": "transformer.encoder.block.1",
    "xlnet": "transformer.layer.1",
}


def stepped(method, model, full, site):
    torch.manual_seed(0)
    random.seed(0)
    run = objective(model, full, site, seed=0)
    loss = method.step(run).loss
    return loss, run.delta, gradients(model), torch.get_rng_state(), random.random()


def assert_alike(method, make, full, site):
    """To the last bit: δ, ∇θ, the loss, and where the random streams stand."""
    want = stepped(method, make(), full, site())
    got = stepped(InnerPasses(method, prefix="once"), make(), full, site())
    assert want[1].any()
    for one, other in zip(got[:2], want[:2], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    assert_gradients(got[2], want[2], atol=1e-12)
    assert torch.equal(got[3], want[3])
    assert got[4] == want[4]


def counted(model):
    """How often each module does its own work."""
    found: Counter = Counter()

    def counting(name, forward):
        def call(*args, **kwargs):
            found[name] += 1
            return forward(*args, **kwargs)

        return call

    for name, module in model.named_modules():
        module.forward = counting(name, module.forward)
    return found


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_delta_and_gradients_are_those_of_whole_passes(name):
    """Under dropout, in every architecture: caches, shared layers, encoders with decoders."""
    name_of = LAYERS[name]
    assert_alike(METHOD, lambda: tiny(name, dropout=0.2), batch(name), lambda: LayerSite(name_of))


def test_the_modules_below_run_once():
    model = tiny("bert", dropout=0.1)
    for module in model.modules():
        module.train()
    found = counted(model)
    site = LayerSite("bert.encoder.layer.0")
    objective(model, batch("bert"), site, seed=0)  # the first look of a kind is a whole pass
    found.clear()
    InnerPasses(METHOD, prefix="once").step(objective(model, batch("bert"), site, seed=0))
    look, first, full = 1, 1, 1
    below = ("bert.embeddings.word_embeddings", "bert.embeddings", "bert.encoder.layer.0")
    assert [found[one] for one in below] == [look + first + full] * 3
    assert found["bert.encoder.layer.1"] == found["classifier"] == METHOD.inner_passes + full
    found.clear()
    METHOD.step(objective(model, batch("bert"), site, seed=0))
    assert found["bert.encoder.layer.0"] == look + METHOD.inner_passes + full


def test_what_is_spared_is_the_forward_half_below_the_layer():
    model, site = tiny("bert"), LayerSite("bert.encoder.layer.0")

    def flops(do) -> int:
        with FlopCounterMode(display=False) as counter:
            do()
        return counter.get_total_flops()

    run = objective(model, batch("bert"), site, seed=0)
    plain = flops(lambda: METHOD.step(run))
    once = flops(lambda: InnerPasses(METHOD, prefix="once").step(run))
    hidden = model.bert.embeddings(batch("bert")["input_ids"])
    prefix = flops(lambda: model.bert.encoder.layer[0](hidden))
    assert plain - once == (METHOD.inner_passes - 1) * prefix > 0


@pytest.mark.parametrize(
    "method",
    [
        PGD(l2, 0.2, 3),
        PGD(l2, 0.2, 3, random_start=False, clean_weight=0.5),
        TRADES(l2, 0.2, 3, beta=6.0, init_magnitude=0.2),
        AWP(l2, 0.3, 2, gamma=0.05),
        SomeRows(PGD(l2, 0.2, 3, clean_weight=0.5), 0.5),
        InnerPasses(PGD(l2, 0.2, 3), dropout=False),
    ],
    ids=["pgd", "pgd-clean", "trades", "awp", "rows", "no-dropout"],
)
def test_of_every_method_with_such_passes(method):
    def site():
        return LayerSite("bert.encoder.layer.0")

    assert_alike(method, lambda: tiny("bert", dropout=0.2), batch("bert"), site)


@pytest.mark.parametrize("reentrant", [False, True])
def test_under_gradient_checkpointing(reentrant):
    def make():
        model = tiny("bert", dropout=0.2)
        checkpoint(model, use_reentrant=reentrant)
        return model

    assert_alike(METHOD, make, batch("bert"), lambda: LayerSite("bert.encoder.layer.0"))


def test_two_layers_have_the_prefix_of_the_lower_one():
    def site():
        return LayerSite("bert.encoder.layer.0", "bert.encoder.layer.1")

    assert_alike(METHOD, lambda: tiny("bert", dropout=0.2), batch("bert"), site)


def test_the_whole_encoder_lies_below_the_words_of_the_decoder():
    def site():
        return EmbeddingSite("decoder.embed_tokens")

    assert_alike(METHOD, lambda: tiny("t5", dropout=0.2), batch("t5"), site)


class Odd(nn.Module):
    """Runs itself twice, writes into what modules gave, hands its input on, and draws by itself."""

    def __init__(self):
        super().__init__()
        self.below, self.same = nn.Linear(4, 4), nn.Identity()
        self.noisy, self.inner = nn.Dropout(0.5), nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.3))
        self.layer, self.above = nn.Linear(4, 4), nn.Linear(4, 2)
        self.double()

    def forward(self, values, labels):
        loss = 0
        for _ in range(2):
            hidden = self.below(values)
            hidden += 1
            kept = self.same(hidden)
            kept *= 2
            hidden = self.noisy(hidden) + random.random() + torch.rand(1, dtype=torch.double)
            hidden = nn.functional.dropout(self.inner(hidden), 0.2)
            logits = self.above(nn.functional.dropout(self.layer(hidden).tanh(), 0.2))
            loss = loss + nn.functional.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}


def odd():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Odd()


VALUES = {"values": torch.arange(12.0).double().view(3, 4) / 9, "labels": torch.tensor([0, 1, 1])}


def test_a_model_with_odd_habits():
    """The second call of the layer comes after the first δ, and runs as ever."""
    assert_alike(METHOD, odd, VALUES, lambda: LayerSite("layer"))
    model = odd()
    found = counted(model)
    objective(model, VALUES, LayerSite("layer"), seed=0)
    found.clear()
    run = objective(model, VALUES, LayerSite("layer"), seed=0)
    found.clear()
    InnerPasses(METHOD, prefix="once").step(run)
    assert found["below"] == 2 + 1 + 1 + 2  # the first pass, two later ones, the full one
    assert found["same"] == 8


def test_a_hook_within_a_module_is_heard_in_every_pass():
    heard = []

    def make():
        model = tiny("bert", dropout=0.2)
        dense = model.bert.encoder.layer[0].output.dense
        dense.register_forward_hook(lambda m, args, output: heard.append(output.detach()))
        return model

    assert_alike(METHOD, make, batch("bert"), lambda: LayerSite("bert.encoder.layer.1"))
    half = len(heard) // 2
    assert half == 5  # a whole look, three passes for δ, a full one
    assert all(torch.equal(one, heard[0]) for one in heard)


def test_a_weight_that_moves_between_the_passes_is_seen():
    def found(method):
        model = tiny("bert", dropout=0.2)
        torch.manual_seed(0)
        run, site = [], LayerSite("bert.encoder.layer.0")
        whole = objective(model, batch("bert"), site, seed=0)
        inner = whole if method is None else whole.inner_within(torch.enable_grad, prefix_once=True)
        for shift in (0, 0.1, 0):
            with torch.no_grad():
                model.bert.embeddings.LayerNorm.bias.add_(shift)
            run.append(inner.gradient(torch.zeros_like(whole.mask)))
        return run

    got, want = found("once"), found(None)
    assert all(torch.equal(one, other) for one, other in zip(got, want, strict=True))
    assert not torch.equal(want[0], want[1])


def test_no_trace_also_after_an_exception():
    model = tiny("bert", dropout=0.2)
    own = model.bert.pooler.forward = model.bert.pooler.forward  # accelerate leaves such things
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    site = LayerSite("bert.encoder.layer.0")
    run = objective(model, batch("bert"), site, seed=0)
    inner = run.inner_within(torch.enable_grad, prefix_once=True)
    zero = torch.zeros_like(run.mask)
    want = inner.gradient(zero)
    handle = model.classifier.register_forward_pre_hook(lambda *args: 1 / 0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            inner.gradient(zero)
    handle.remove()
    assert torch.equal(inner.gradient(zero), want)
    for name, module in model.named_modules():
        assert vars(module).get("forward") is before[name].get("forward")
    assert model.bert.pooler.forward is own


def test_modules_beside_the_way():
    model = tiny("bert")
    layers = model.bert.encoder.layer
    found = beside(model, [layers[1]])
    assert set(found) == {
        *(model.bert.embeddings, layers[0], layers[1], model.bert.pooler),
        *(model.dropout, model.classifier),
    }


# --- flags, and what is refused


def test_the_flag_is_written_down_and_read_again():
    flat = describe(build("trades", inner_prefix="once", steps=2))
    assert flat["inner_prefix"] == "once"
    assert describe(build(flat.pop("method"), **flat)) == {"method": "trades", **flat}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "freelb"}, "freelb makes none with these settings"),
        ({"name": "fgm", "clean_weight": 0.0}, "fgm makes one with these settings"),
        ({"name": "pgd", "inner_prefix": "twice"}, "must be once, not 'twice'"),
        ({"name": "none"}, "inner_prefix needs a method"),
    ],
)
def test_what_it_would_not_change_is_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        build(**({"inner_prefix": "once"} | settings))


def test_where_nothing_lies_below_it_is_refused():
    once = InnerPasses(METHOD, prefix="once")
    with pytest.raises(StepError, match="nothing lies below the embedding"):
        once.step(objective(tiny("bert"), batch("bert"), seed=0))
    images = {"pixel_values": torch.rand(2, 1, 4, 4), "labels": torch.tensor([0, 1])}
    site = PixelSite(torch.zeros(1), torch.ones(1))
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with pytest.raises(StepError, match="nothing lies below the pixels"):
        once.step(objective(net, images, site, seed=0, forward=None))


def test_a_compiled_model_is_refused():
    model = torch.compile(tiny("bert"), backend="eager")
    run = objective(model, batch("bert"), LayerSite("bert.encoder.layer.0"), seed=0)
    with pytest.raises((StepError, UserError), match="leave --torch_compile off"):
        InnerPasses(METHOD, prefix="once").step(run)
