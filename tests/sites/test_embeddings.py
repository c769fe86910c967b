"""The embedding tap: it finds the module that runs, adds δ there once, and refuses silence."""

import pytest
import torch
from models import ARCHITECTURES, VOCAB, batch, tiny
from torch import nn

from nlp_adv.errors import UserError
from nlp_adv.perturbation import unwrapped
from nlp_adv.sites.embeddings import EmbeddingTap, find_embedding
from nlp_adv.sites.look import look

each_architecture = pytest.mark.parametrize("name", ARCHITECTURES)

# Where a reader of the model's code finds its word embedding.
PATHS = {
    "albert": "albert.embeddings.word_embeddings",
    "bart": "model.encoder.embed_tokens",
    "bert": "bert.embeddings.word_embeddings",
    "bert_choice": "bert.embeddings.word_embeddings",
    "distilbert": "distilbert.embeddings.word_embeddings",
    "electra": "electra.embeddings.word_embeddings",
    "gpt2": "transformer.wte",
    "gpt2_lm": "transformer.wte",
    "llama": "model.embed_tokens",
    "longformer": "longformer.embeddings.word_embeddings",
    "modernbert": "model.embeddings.tok_embeddings",
    "roberta": "roberta.embeddings.word_embeddings",
    "t5": "encoder.embed_tokens",
    "t5_token": "transformer.encoder.embed_tokens",
    "xlnet": "transformer.word_embedding",
}


def hooks(model: nn.Module) -> list[object]:
    """Every hook on every module."""
    kinds = ["_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"]
    return [hook for m in model.modules() for kind in kinds for hook in getattr(m, kind).values()]


# --- finding it


@each_architecture
def test_the_embedding_is_where_the_model_keeps_it(name):
    model = tiny(name)
    assert find_embedding(model) is model.get_submodule(PATHS[name])


@each_architecture
def test_the_embedding_runs_once_a_pass(name):
    model, calls = tiny(name), []
    find_embedding(model).register_forward_hook(lambda *_: calls.append(1))
    model(**batch(name))
    assert len(calls) == 1


@pytest.mark.parametrize("name", ["bart", "t5"])
def test_the_shared_table_of_an_encoder_decoder_never_runs(name):
    """Why `get_input_embeddings()` of the whole model will not do."""
    model = tiny(name)
    whole = model.get_input_embeddings()
    assert find_embedding(model) is not whole
    assert find_embedding(model).weight is whole.weight
    tap = EmbeddingTap(whole)
    with pytest.raises(RuntimeError, match="did not run"):
        looked(tap, lambda: model(**batch(name)))


def looked(tap, forward):
    """The first argument and the clean output of the first call."""
    (found,) = look([tap], forward)
    (call,) = found.seen
    return call.argument, call.output


class Wrapper(nn.Module):
    """As DDP and DeepSpeed wrap."""

    def __init__(self, module):
        super().__init__()
        self.module = module


class Compiled(nn.Module):
    """As torch.compile wraps; it passes attributes on."""

    def __init__(self, module):
        super().__init__()
        self._orig_mod = module

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._orig_mod, name)


class Adapted(nn.Module):
    """As PEFT wraps."""

    def __init__(self, model):
        super().__init__()
        self.base_model = model

    def get_base_model(self):
        return self.base_model


@pytest.mark.parametrize(
    "wrap",
    [
        Wrapper,
        Compiled,
        lambda m: Wrapper(Compiled(m)),
        lambda m: Compiled(Wrapper(m)),
        lambda m: Wrapper(Wrapper(m)),
    ],
    ids=["ddp", "compiled", "ddp-compiled", "compiled-ddp", "twice"],
)
@pytest.mark.parametrize("name", ["bert", "t5"])
def test_wrappers_are_seen_through(wrap, name):
    model = tiny(name)
    assert unwrapped(wrap(model)) is model
    assert find_embedding(wrap(model)) is model.get_submodule(PATHS[name])


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_an_adapted_model_is_seen_through(name):
    model = tiny(name)
    assert find_embedding(Wrapper(Adapted(model))) is model.get_submodule(PATHS[name])


def test_a_module_can_be_named():
    model = tiny("bert")
    found = find_embedding(Wrapper(model), "bert.embeddings.LayerNorm")
    assert found is model.bert.embeddings.LayerNorm


class Silent(nn.Module):
    """A model that does not say where its words are."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(VOCAB, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, input_ids):
        return self.head(self.words(input_ids).mean(1))


def test_a_model_that_does_not_say_is_asked_to_and_told_how():
    with pytest.raises(UserError, match="Silent does not say") as error:
        find_embedding(Silent())
    assert "--adv_embedding" in str(error.value)
    assert "'words'" in str(error.value)
    model = Silent()
    assert find_embedding(model, "words") is model.words


def test_a_model_that_returns_no_module_is_asked_too():
    model = Silent()
    model.get_input_embeddings = lambda: None
    with pytest.raises(UserError, match="Silent does not say"):
        find_embedding(model)


def test_an_unknown_module_is_refused_with_a_suggestion():
    with pytest.raises(UserError, match=r"no module named 'bert\.words'") as error:
        find_embedding(tiny("bert"), "bert.words")
    assert "'bert.embeddings.word_embeddings'" in str(error.value)


def test_a_model_without_any_embedding_says_so():
    with pytest.raises(UserError, match=r"^Linear has no nn\.Embedding; .* layer:NAME\.$"):
        find_embedding(nn.Linear(2, 2))
    with pytest.raises(UserError, match=r"from model\.named_modules\(\)\W*$"):
        find_embedding(nn.Linear(2, 2), "words")


# --- looking


@each_architecture
def test_look_sees_the_clean_embedding_and_stops_there(name):
    model, ran = tiny(name), []
    tap = EmbeddingTap(find_embedding(model))
    model.register_forward_hook(lambda *_: ran.append(1))
    ids, embedding = looked(tap, lambda: model(**batch(name)))
    assert ran == []
    assert not embedding.requires_grad
    assert torch.equal(embedding, tap.module(ids))
    given = batch(name)["input_ids"]
    real = batch(name)["attention_mask"] == 1
    assert sorted(ids[ids != ids.min()].tolist()) == sorted(given[given != ids.min()].tolist())
    assert ids.numel() >= int(real.sum())
    assert hooks(model) == [*model._forward_hooks.values()]


def test_look_refuses_silence_and_leaves_nothing_behind():
    model = tiny("bert")
    tap = EmbeddingTap(nn.Embedding(3, 3))
    with pytest.raises(RuntimeError, match=r"hooked embedding \(Embedding\) did not run"):
        looked(tap, lambda: model(**batch("bert")))
    assert hooks(model) == []
    assert hooks(tap.module) == []


def test_an_error_of_the_model_comes_through_look():
    model = tiny("bert")
    tap = EmbeddingTap(find_embedding(model))
    with pytest.raises(ValueError, match="input_ids"):
        looked(tap, lambda: model(input_ids=None))
    assert hooks(model) == []
    assert model(**batch("bert")).loss.isfinite()


# --- adding


@pytest.fixture
def words() -> nn.Embedding:
    return nn.Embedding(VOCAB, 4)


IDS = torch.tensor([[3, 1, 2]])
DELTA = torch.arange(12.0).view(1, 3, 4)


def test_delta_is_added_inside_the_block_only(words):
    tap, clean = EmbeddingTap(words), words(IDS)
    with tap.adding(DELTA):
        assert torch.equal(words(IDS), clean + DELTA)
    assert torch.equal(words(IDS), clean)
    assert tap.deltas is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_model_keeps_its_dtype(words, dtype):
    tap = EmbeddingTap(words.to(dtype))
    with tap.adding(DELTA):
        out = words(IDS)
    assert out.dtype == dtype


def test_the_gradient_reaches_delta_and_the_table(words):
    delta = DELTA.clone().requires_grad_()
    with EmbeddingTap(words).adding(delta):
        (words(IDS) * DELTA).sum().backward()
    assert torch.equal(delta.grad, DELTA)
    assert torch.equal(words.weight.grad[[3, 1, 2]], DELTA[0])


@pytest.mark.parametrize(("times", "said"), [(0, "did not run"), (2, "ran 2 times with a graph")])
def test_any_number_of_calls_but_one_is_refused(words, times, said):
    tap = EmbeddingTap(words)
    with pytest.raises(RuntimeError, match=said), tap.adding(DELTA):
        [words(IDS) for _ in range(times)]
    assert tap.deltas is None
    assert hooks(words) == []
    with tap.adding(DELTA):  # and the next pass counts afresh
        words(IDS)


@pytest.mark.fault("T6")
def test_a_call_without_a_graph_sees_the_clean_embedding_and_does_not_count(words):
    tap = EmbeddingTap(words)
    with tap.adding(DELTA):
        with torch.no_grad():
            assert torch.equal(words(IDS), words.weight[IDS])
        moved = words(IDS)
        with torch.no_grad():
            assert torch.equal(words(IDS), words.weight[IDS])
    assert torch.equal(moved, words.weight[IDS] + DELTA)
    with torch.no_grad(), tap.adding(DELTA):  # a pass without any graph is attacked
        assert torch.equal(words(IDS), words.weight[IDS] + DELTA)


@pytest.mark.fault("T6")
def test_the_look_is_at_the_first_call_with_a_graph(words):
    tap = EmbeddingTap(words)

    def forward():
        with torch.no_grad():
            words(IDS[:, :1])
        words(IDS)
        raise AssertionError("the look should have ended here")

    ids, embedding = looked(tap, forward)
    assert torch.equal(ids, IDS)
    assert torch.equal(embedding, words.weight[IDS])
    assert not embedding.requires_grad


@pytest.mark.parametrize("permanent", [False, True])
def test_an_error_in_the_block_comes_through_and_leaves_nothing(words, permanent):
    tap = EmbeddingTap(words)
    if permanent:
        tap.install()
    with pytest.raises(KeyError), tap.adding(DELTA):
        raise KeyError
    assert tap.deltas is None
    assert len(hooks(words)) == permanent


def test_a_permanent_hook_is_one_hook_and_can_be_taken_away(words):
    tap, clean = EmbeddingTap(words), words(IDS)
    tap.install()
    tap.install()
    (hook,) = hooks(words)
    with tap.adding(DELTA):
        assert torch.equal(words(IDS), clean + DELTA)
    assert hooks(words) == [hook]
    assert torch.equal(words(IDS), clean)
    tap.remove()
    tap.remove()
    assert hooks(words) == []


@each_architecture
def test_a_zero_delta_changes_no_bit_of_the_output(name):
    model = tiny(name, dropout=0.1)
    tap = EmbeddingTap(find_embedding(model))
    torch.manual_seed(0)
    want = model(**batch(name))
    _, embedding = looked(tap, lambda: model(**batch(name)))
    torch.manual_seed(0)
    with tap.adding(torch.zeros_like(embedding)):
        got = model(**batch(name))
    assert torch.equal(got.logits, want.logits)
    assert torch.equal(got.loss, want.loss)


def test_the_hook_agrees_with_inputs_embeds_where_that_is_exact():
    """BERT padded on the right takes positions and pooling from neither ids nor embeddings."""
    model, full = tiny("bert"), batch("bert")
    tap = EmbeddingTap(find_embedding(model))
    delta = torch.randn(3, 7, 16, generator=torch.Generator().manual_seed(0)).double()
    with tap.adding(delta):
        got = model(**full).logits
    ids = full.pop("input_ids")
    want = model(inputs_embeds=model.bert.embeddings.word_embeddings(ids) + delta, **full).logits
    assert (got - model(input_ids=ids, **full).logits).abs().max() > 1e-2
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
