"""torch.compile: few graphs for all lengths of texts, and the gradients of eager mode."""

import functools
import shutil
import sys

import pytest
import torch
from models import VOCAB, checkpoint, gradients, tiny
from tiny_training import METHODS, assert_one_sentence, distance, slowly, trained
from torch import nn

from nlp_adv.perturbation import Memory
from nlp_adv.sites.embeddings import EmbeddingSite
from nlp_adv.sites.objective import objective

LENGTHS = range(3, 17)
OTHERS = (
    *("noise-clean", "fgsm", "fgm", "fgm-tokens", "fgm_matrix", "pgd-clean", "freelb-clean"),
    *("freeat", "tavat", "vat", "rdrop", "awp", "relative"),
)
FORCED_STATIC = "force_nn_module_property_static_shapes"


class Bag(nn.Module):
    """Its embedding lies in the model itself, so that Dynamo comes to δ by way of nn.Embedding."""

    def __init__(self):
        super().__init__()
        self.words, self.out = nn.Embedding(VOCAB, 8), nn.Linear(8, 2)
        self.double()

    def get_input_embeddings(self):
        return self.words

    def forward(self, input_ids, attention_mask, labels=None):
        hidden = nn.functional.dropout(torch.tanh(self.words(input_ids)), 0.1, self.training)
        logits = self.out((hidden * attention_mask[..., None]).mean(1))
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def bag():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Bag()


def batches():
    """One of each length, the second row a token shorter."""
    draws = torch.Generator().manual_seed(5)
    for length in LENGTHS:
        attention = torch.ones(2, length, dtype=torch.long)
        attention[1, -1] = 0
        ids = torch.randint(4, VOCAB, (2, length), generator=draws)
        yield {"input_ids": ids, "attention_mask": attention, "labels": torch.tensor([0, 1])}


def counting(model):
    """The model, compiled, and the list of its graphs."""
    torch._dynamo.reset()
    graphs = []

    def backend(graph, inputs):
        if any(node.op == "call_function" for node in graph.graph.nodes):
            graphs.append(graph)
        return graph

    return torch.compile(model, backend=backend), graphs


def gradients_of(model, inner, method):
    """∇θ after a step of the method on each batch, without an optimizer; None is plain training."""
    torch.manual_seed(1)
    site, memory, found = EmbeddingSite(), Memory(), []
    site.install(model)
    try:
        for seed, batch in enumerate(batches()):
            inner.zero_grad()
            if method is None:
                model(**batch)["loss"].backward()
            else:
                for memory.replay in range(getattr(method, "replays", 1)):
                    method.step(objective(model, batch, site, seed=seed, memory=memory))
            found.append({name: value.clone() for name, value in gradients(inner).items()})
    finally:
        site.remove()
    return found


@functools.cache
def plain_graphs(make):
    model = make()
    compiled, graphs = counting(model)
    gradients_of(compiled, model, None)
    return len(graphs)


def assert_alike(make, method):
    eager = make()
    want = gradients_of(eager, eager, method)
    model = make()
    compiled, graphs = counting(model)
    torch._dynamo.utils.counters.clear()
    got = gradients_of(compiled, model, method)
    assert max(map(distance, got, want)) <= 1e-12
    assert not [said for said in torch._dynamo.utils.counters["unimplemented"] if "limit" in said]
    assert getattr(torch._dynamo.config, FORCED_STATIC)
    return len(graphs)


@pytest.mark.parametrize("name", ["trades", *slowly(*OTHERS)])
def test_fourteen_lengths_take_two_graphs_more_than_plain_training_at_most(name):
    """Two for each way that the parameters are in, trained on or frozen: the first length's, and
    one for all others. Dropout is on, and the gradients are those of eager mode."""
    assert assert_alike(bag, METHODS[name]) <= plain_graphs(bag) + 2


def bert():
    return tiny("bert", dropout=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["freelb", "trades"])
def test_of_bert_too(name):
    assert assert_alike(bert, METHODS[name]) <= plain_graphs(bert) + 2


def test_texts_of_one_length_keep_a_static_graph():
    model = bag()
    compiled, graphs = counting(model)
    site, batch = EmbeddingSite(), next(batches())
    site.install(model)
    for seed in range(3):
        METHODS["freelb"].step(objective(compiled, batch, site, seed=seed))
    site.remove()
    (graph,) = graphs
    sizes = [node.meta["example_value"] for node in graph.graph.nodes if node.op == "placeholder"]
    assert sizes
    assert not any(isinstance(size, torch.SymInt) for size in sizes)


@pytest.mark.parametrize("own", [True, False], ids=["of this model", "of another model"])
def test_a_graph_of_plain_passes_is_no_graph_of_attacked_ones(own):
    """A user evaluates, attacks and evaluates; or trains plainly first, in one process."""
    *_, last = batches()
    eager, model, other = bag().eval(), bag().eval(), bag().eval()
    clean = eager(**last)["loss"].item()
    METHODS["pgd-clean"].step(objective(eager, last, EmbeddingSite(), seed=3))
    with torch._dynamo.config.patch(skip_nnmodule_hook_guards=True):  # torch's default
        torch._dynamo.reset()
        compiled = torch.compile(model, backend="eager")
        plain = compiled if own else torch.compile(other, backend="eager")
        for _ in range(2):
            assert plain(**last)["loss"].item() == pytest.approx(clean, rel=1e-12)
            model.zero_grad()
            METHODS["pgd-clean"].step(objective(compiled, last, EmbeddingSite(), seed=3))
            assert distance(gradients(model), gradients(eager)) <= 1e-12


def test_a_run_that_reaches_the_limit_of_graphs_says_so(tmp_path, caplog):
    rows = [{key: value[0] for key, value in batch.items()} for batch in batches()]

    def said():
        caplog.clear()
        torch._dynamo.reset()
        trained(
            tmp_path,
            model=bag(),
            data=rows,
            options={"method": METHODS["pgd"]},
            per_device_train_batch_size=1,
            torch_compile=True,
            torch_compile_backend="eager",
        )
        return [r.getMessage() for r in caplog.records if r.name == "nlp_adv.training"]

    with torch._dynamo.config.patch(recompile_limit=1):
        (sentence,) = [one for one in said() if "limit of graphs" in one]
    assert "pad_to_multiple_of" in sentence
    assert_one_sentence(ValueError(sentence))
    assert not [one for one in said() if "limit of graphs" in one]


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [None, False, True], ids=["whole", "anew", "reentrant"])
@pytest.mark.parametrize("name", ["pgd", "freelb"])
def test_inductor_computes_the_gradients_of_eager_mode(name, checkpointing, monkeypatch):
    """The compiler that users have by default, with gradient checkpointing of either kind too."""
    if shutil.which("g++") is None:
        pytest.skip("inductor compiles with g++")
    monkeypatch.setattr(sys.modules[__name__], "LENGTHS", (5, 9))

    def make():
        model = tiny("bert").train()
        if checkpointing is not None:
            checkpoint(model, use_reentrant=checkpointing)
        return model

    eager, model = make(), make()
    want = gradients_of(eager, eager, METHODS[name])
    torch._dynamo.reset()
    got = gradients_of(torch.compile(model), model, METHODS[name])
    assert max(map(distance, got, want)) <= 1e-12
