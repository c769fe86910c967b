"""What only some methods ask of the objective: other masks, divergences, parts of the model."""

from contextlib import contextmanager

import pytest
import torch
from models import LinearClassifier, gradients, linear_objective
from torch import Tensor, nn

from nlp_adv.methods import FreeAT, FreeLB
from nlp_adv.perturbation import (
    FirstBlock,
    L2Ball,
    Memory,
    ModelObjective,
    Output,
    ScaledObjective,
    StepError,
    divergence,
    full_pass,
)
from nlp_adv.sites.site import Entry

SIGNS = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)
SHAPE = (3, 4, 2)


def points(shape=SHAPE, seed=1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


DELTA, OTHER = points(seed=2), points(seed=3)


class Net(nn.Module):
    """Two blocks with dropout, and a head with one or two outputs an example, or a token."""

    def __init__(self, dropout: float = 0.0, *, outputs: int = 2, of_tokens: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.blocks = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
            self.head = nn.Linear(2 if of_tokens else 8, outputs)
        self.dropout = nn.Dropout(dropout)
        self.of_tokens = of_tokens
        self.double().train()

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = self.dropout(block(x).tanh())
        return self.head(x if self.of_tokens else x.flatten(1))


def objective_of(net: Net, *, mask: Tensor | None = None, **options) -> ModelObjective:
    x = points()

    def run(delta: Tensor | None) -> Output:
        logits = net(x if delta is None else x + delta)
        return Output(logits.square().mean(), logits)

    block = FirstBlock(net.blocks[0], run)
    mask = torch.ones_like(x) if mask is None else mask
    options = {"seed": 0, "first_block": block, **options}
    return ModelObjective(run=run, x=x, mask=mask, model=net, **options)


# --- a dropout mask of its own


def test_a_redrawn_pass_has_other_masks_and_the_same_ones_for_a_seed():
    found = {}
    for seed in (7, 8, 7):
        torch.manual_seed(0)
        objective = objective_of(Net(0.5), seed=seed)
        found.setdefault(seed, []).append(objective.forward_redrawn().logits)
        first = objective.forward().logits
        assert not torch.equal(found[seed][-1], first)
    assert torch.equal(*found[7])
    assert not torch.equal(found[7][0], found[8][0])


@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_it_has_other_masks_even_where_the_stream_has_the_same_seed(seed):
    torch.manual_seed(seed)
    objective = objective_of(Net(0.5), seed=seed)
    assert not torch.equal(objective.forward_redrawn().logits, objective.forward().logits)


def test_after_a_redrawn_pass_the_others_draw_what_they_would_have_drawn():
    found, streams = [], []
    for redrawing in (False, True):
        torch.manual_seed(0)
        objective = objective_of(Net(0.5))
        if redrawing:
            objective.forward_redrawn()
        found.append((objective.forward().logits, objective.gradient(DELTA)))
        streams.append(torch.get_rng_state())
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert torch.equal(*streams)


def test_without_dropout_a_redrawn_pass_is_the_clean_one():
    objective = objective_of(Net())
    assert torch.equal(objective.forward_redrawn().logits, objective.forward().logits)
    assert objective.delta is None


# --- how far two outputs are apart


@pytest.mark.parametrize("kind", ["classes", "labels", "scores"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_the_divergence_is_the_mean_over_examples_of_what_the_outputs_are(kind, symmetric):
    objective = objective_of(Net(), outputs=lambda logits: (kind, None))
    p, q = objective.forward(), objective.forward(DELTA)
    want = divergence(p.logits, q.logits, kind, symmetric=symmetric).mean()
    torch.testing.assert_close(objective.divergence(p, q, symmetric=symmetric), want)


def test_its_gradient_flows_through_both():
    net = Net()
    objective, found = objective_of(net), []
    for still in ("none", "first", "second"):
        p, q = objective.forward(), objective.forward(DELTA)
        p = p.detached() if still == "first" else p
        q = q.detached() if still == "second" else q
        objective.divergence(p, q).backward()
        found.append(gradients(net))
        net.zero_grad()
    both, second, first = found
    for name, value in both.items():
        torch.testing.assert_close(value, first[name] + second[name])
        assert name.endswith("bias") or not torch.equal(first[name], second[name])


COUNTED = torch.tensor([4, 2, 1])[:, None] > torch.arange(4)


def test_tokens_that_do_not_count_do_not():
    objective = objective_of(Net(of_tokens=True), counted=COUNTED)
    p, q = objective.forward(), objective.forward(DELTA)
    values = divergence(p.logits, q.logits, "classes")
    want = sum(row[:n].mean() for row, n in zip(values, (4, 2, 1), strict=True)) / 3
    torch.testing.assert_close(objective.divergence(p, q), want)
    everything = objective_of(Net(of_tokens=True)).divergence(p, q)
    torch.testing.assert_close(everything, values.mean())


def test_a_mask_of_tokens_does_not_touch_the_outputs_of_sentences():
    objective = objective_of(Net(), counted=COUNTED)
    p, q = objective.forward(), objective.forward(DELTA)
    want = divergence(p.logits, q.logits, "classes").mean()
    torch.testing.assert_close(objective.divergence(p, q), want)


@pytest.mark.parametrize("share", [0.25, torch.tensor(0.25, dtype=torch.float64)], ids=str)
def test_the_share_of_an_accumulated_step_multiplies_it(share):
    whole, part = objective_of(Net()), objective_of(Net(), share=share)
    p, q = whole.forward(), whole.forward(DELTA)
    torch.testing.assert_close(part.divergence(p, q), 0.25 * whole.divergence(p, q))


def test_without_logits_there_is_no_divergence():
    objective = objective_of(Net())
    with_logits = objective.forward()
    without = with_logits._replace(logits=None)
    for pair in ((without, with_logits), (with_logits, without)):
        with pytest.raises(ValueError, match="compares logits, and the model returns none"):
            objective.divergence(*pair)
    assert without.detached().logits is None


# --- the first block


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_a_split_pass_is_a_full_pass_that_keeps_p(weight):
    found = []
    for verb in ("full", "split"):
        net = Net()
        objective = objective_of(net)
        if verb == "full":
            loss, grad = full_pass(objective, DELTA, weight=weight)
        else:
            loss, grad, p = objective.split_pass(DELTA, weight=weight)
        found.append((loss, grad, *gradients(net).values()))
    for want, got in zip(*found, strict=True):
        assert torch.equal(got, want)
    hidden = net.blocks[0](points() + DELTA).detach().requires_grad_()
    above = net.head(net.blocks[1](hidden.tanh()).tanh().flatten(1))
    (want,) = torch.autograd.grad(weight * above.square().mean(), hidden)
    torch.testing.assert_close(p, want)


def test_where_p_was_taken_the_prefix_gradient_is_the_whole_one():
    objective = objective_of(Net(0.5))
    _, grad, p = objective.split_pass(DELTA)
    torch.testing.assert_close(objective.prefix_gradient(DELTA, p), grad)
    assert (objective.prefix_gradient(OTHER, p) - objective.gradient(OTHER)).abs().max() > 1e-3


def test_a_prefix_gradient_touches_no_parameter_and_runs_no_other_block():
    net = Net()
    objective = objective_of(net)
    p = objective.split_pass(DELTA).p
    net.head.weight.requires_grad_(False)
    kept = [parameter.grad for parameter in net.parameters()]
    before, frozen = gradients(net), [p.requires_grad for p in net.parameters()]
    net.blocks[1].register_forward_hook(lambda *_: pytest.fail("the second block ran"))
    objective.prefix_gradient(OTHER, p)
    assert all(
        parameter.grad is grad for parameter, grad in zip(net.parameters(), kept, strict=True)
    )
    assert all(torch.equal(value, before[name]) for name, value in gradients(net).items())
    assert [parameter.requires_grad for parameter in net.parameters()] == frozen
    assert not net.blocks[0]._forward_hooks


def test_a_prefix_gradient_is_masked():
    mask = torch.ones(SHAPE, dtype=torch.float64)
    mask[0, 2:] = 0
    objective = objective_of(Net(), mask=mask)
    p = objective.split_pass(DELTA).p
    grad = objective.prefix_gradient(OTHER, p)
    assert (grad[mask == 0] == 0).all()
    assert (grad[mask == 1] != 0).all()
    assert torch.equal(objective.delta, OTHER * mask)


def test_a_prefix_gradient_that_is_not_finite_is_counted():
    objective = objective_of(Net())
    p = objective.split_pass(DELTA).p
    assert not objective.nonfinite
    p[1, 0, 0] = torch.nan
    objective.prefix_gradient(DELTA, p)
    assert objective.nonfinite


def test_without_a_first_block_there_is_no_split_pass():
    objective = objective_of(Net(), first_block=None)
    with pytest.raises(ValueError, match="needs to know the model's first block"):
        objective.split_pass(DELTA)
    with pytest.raises(ValueError, match="needs to know the model's first block"):
        objective.prefix_gradient(DELTA, DELTA)


def test_the_first_block_is_looked_for_once_and_only_when_it_is_needed():
    net, calls = Net(), []
    objective = objective_of(net)
    block = objective.first_block
    objective.first_block = lambda: calls.append(1) or block
    full_pass(objective, DELTA)
    assert calls == []
    p = objective.split_pass(DELTA).p
    objective.prefix_gradient(DELTA, p)
    assert calls == [1]


def test_a_first_block_off_the_way_is_refused():
    """It runs, and the loss does not depend on it."""
    net = Net()
    objective = objective_of(net)
    objective.run = lambda delta: Output((points() + delta).square().mean(), None)
    with pytest.raises(RuntimeError, match="No gradient reached the first block"):
        objective.split_pass(DELTA)


# --- the weights' gradient


def test_the_weights_gradient_is_theirs_and_no_grad_is_touched():
    net = Net(0.5)
    torch.manual_seed(0)
    objective = objective_of(net)
    full_pass(objective, DELTA)
    want = gradients(net)
    net.zero_grad()
    net.head.bias.grad = kept = torch.ones_like(net.head.bias)
    earlier = [parameter.grad for parameter in net.parameters()]
    names = ["blocks.0.weight", "head.weight"]
    got = objective.weight_gradient(DELTA, [net.get_parameter(name) for name in names])
    for name, grad in zip(names, got, strict=True):
        torch.testing.assert_close(grad, want[name])
    after = [parameter.grad for parameter in net.parameters()]
    assert all(a is b for a, b in zip(after, earlier, strict=True))
    assert (kept == 1).all()


def test_a_weight_off_the_way_has_a_gradient_of_zero():
    net = Net()
    net.spare = nn.Parameter(torch.ones(3, 3))
    (grad,) = objective_of(net).weight_gradient(DELTA, [net.spare])
    assert torch.equal(grad, torch.zeros(3, 3))


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_the_weights_gradient_leaves_the_grads_after_an_exception(where):
    net = Net()
    net.head.bias.grad = kept = torch.ones_like(net.head.bias)

    def fail(*_):
        raise KeyboardInterrupt

    def hook(module, args, output):
        fail() if where == "forward" else output.register_hook(fail)

    net.head.register_forward_hook(hook)
    with pytest.raises(KeyboardInterrupt):
        objective_of(net).weight_gradient(DELTA, [net.head.weight])
    assert net.head.bias.grad is kept
    assert (kept == 1).all()
    assert net.head.weight.grad is None


def test_the_weights_gradient_is_counted_when_it_is_not_finite():
    objective = objective_of(Net())
    run = objective.run
    objective.run = lambda delta: run(delta)._replace(loss=run(delta).loss * torch.inf)
    objective.weight_gradient(DELTA, [])
    assert objective.nonfinite


def test_a_nonfinite_gradient_of_a_weight_is_counted():
    net = Net()
    objective = objective_of(net)
    weights = [p for p in net.parameters() if p.ndim > 1]
    objective.weight_gradient(DELTA, weights)
    assert not objective.nonfinite
    weights[0].register_hook(lambda grad: grad * torch.inf)
    objective.weight_gradient(DELTA, weights)
    assert objective.nonfinite


def test_a_method_that_keeps_something_refuses_to_go_without_a_memory():
    objective = objective_of(Net())
    with pytest.raises(StepError, match="memory=Memory"):
        FreeAT(L2Ball(0.5), 0.5, replays=2).step(objective)
    with pytest.raises(StepError, match="memory=Memory"):
        FreeLB(L2Ball(0.5), 0.5, 2, reuse=True).step(objective)


def test_freeat_refuses_a_replay_that_is_never_counted():
    memory, method = Memory(), FreeAT(L2Ball(0.5), 0.5, replays=2)
    method.step(objective_of(Net(), memory=memory))
    with pytest.raises(StepError, match=r"memory\.replay"):
        method.step(objective_of(Net(), memory=memory))


def test_outputs_for_other_tokens_than_the_batchs_are_not_compared():
    objective = objective_of(Net(), counted=torch.ones(2, 5, dtype=torch.bool))
    output = Output(torch.zeros(()), torch.randn(2, 7, 3))
    with pytest.raises(StepError, match=r"\(2, 7\) of them for \(2, 5\)"):
        objective.divergence(output, output)


# --- what an example is called


def entry_of(ids: Tensor, free: Tensor) -> Entry:
    """What names examples of text: their ids, without the padding."""
    mask = free[..., None].double()
    return Entry(None, {}, None, x=mask, mask=mask, content=ids, real=free != 0)


def test_a_sentence_is_called_by_its_words_and_not_by_its_padding():
    free_right = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    free_left = torch.tensor([[0, 0, 0, 1, 1], [0, 0, 1, 1, 1]])
    right = entry_of(torch.tensor([[1, 2, 3, 0], [4, 5, 0, 0]]), free_right)
    left = entry_of(torch.tensor([[0, 0, 0, 4, 5], [0, 0, 1, 2, 3]]), free_left)
    first, second = right.names()
    assert left.names() == [second, first]
    assert first != second


@pytest.mark.parametrize("words", [[1, 2, 4], [3, 2, 1], [1, 2], [12, 3]], ids=str)
def test_other_words_are_another_name(words):
    def name(words):
        ids = torch.tensor([words + [0] * (4 - len(words))]) % 9
        return entry_of(ids, torch.arange(4)[None] < len(words)).names()[0]

    assert name(words) != name([1, 2, 3])
    assert name([1, 2, 3]) == name([1, 2, 3])


def test_a_picture_is_called_by_its_pixels():
    x = torch.rand(3, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[2] = x[0]
    names = linear_objective(LinearClassifier((2, 4, 4)), x, SIGNS).example_names()
    assert names[0] == names[2] != names[1]
    again = linear_objective(LinearClassifier((2, 4, 4)), x.flip(0), SIGNS).example_names()
    assert again == names[::-1]


def test_a_name_does_not_change_with_delta():
    objective = objective_of(Net())
    before = objective.example_names()
    full_pass(objective, DELTA)
    assert objective.example_names() == before
    assert len(set(before)) == 3


# --- exchange of gradients between processes


class Spans:
    """A stand-in for `no_sync` that says how often it is open."""

    def __init__(self) -> None:
        self.open = 0

    @contextmanager
    def __call__(self):
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1


@pytest.fixture
def watched():
    """An objective of two passes, and what happened: (forward or backward, within `unsynced`)."""
    spans, seen, net = Spans(), [], Net()

    def backward(loss):
        seen.append(("backward", bool(spans.open)))
        loss.backward()

    net.register_forward_hook(lambda *_: seen.append(("forward", bool(spans.open))))
    return objective_of(net, passes=2, unsynced=spans, backward_fn=backward), seen


def test_one_backward_for_two_passes_is_exchanged_with_the_second(watched):
    """TRADES: the first forward and the inner passes are alone, the second and the backward not."""
    objective, seen = watched
    clean = objective.forward()
    target = clean.detached()
    objective.gradient(DELTA, lambda out: objective.divergence(target, out))
    adversarial = objective.forward(DELTA)
    objective.backward(clean.loss + objective.divergence(clean, adversarial))
    alone, exchanged = ("forward", True), ("forward", False)
    assert seen == [alone, alone, exchanged, ("backward", False)]


def test_a_redrawn_pass_is_one_of_the_passes(watched):
    objective, seen = watched
    second = objective.forward_redrawn()
    first = objective.forward()
    objective.backward(first.loss + second.loss)
    assert seen == [("forward", True), ("forward", False), ("backward", False)]


def test_a_pass_without_a_graph_is_none_of_them(watched):
    """SMART's averaged model."""
    objective, seen = watched
    with torch.no_grad():
        objective.forward()
    full_pass(objective, DELTA)
    with torch.no_grad():
        objective.forward()
    full_pass(objective, DELTA)
    verbs = [("forward", True), ("backward", True), ("forward", False), ("backward", False)]
    assert seen == [("forward", True), *verbs[:2], ("forward", True), *verbs[2:]]


def test_the_weights_gradient_is_the_first_of_two_passes(watched):
    objective, seen = watched
    objective.weight_gradient(DELTA, list(objective.model.parameters()))
    full_pass(objective, DELTA)
    assert seen == [("forward", True), ("forward", False), ("backward", False)]


# --- the change of unit

SCALE = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64).view(3, 1, 1)

each_scale = pytest.mark.parametrize("scale", [2.5, SCALE], ids=["one", "each"])


@each_scale
def test_a_scaled_split_pass_obeys_the_chain_rule(scale):
    found = []
    for scaling in (True, False):
        net = Net()
        objective = objective_of(net)
        if scaling:
            scaled = ScaledObjective(objective, scale)
            loss, grad, p = scaled.split_pass(DELTA, weight=0.5)
            prefix = scaled.prefix_gradient(OTHER, p)
            weights = scaled.weight_gradient(DELTA, [net.head.weight])
        else:
            loss, grad, p = objective.split_pass(DELTA * scale, weight=0.5)
            grad, prefix = grad * scale, objective.prefix_gradient(OTHER * scale, p) * scale
            weights = objective.weight_gradient(DELTA * scale, [net.head.weight])
        found.append((loss, grad, p, prefix, *weights, *gradients(net).values()))
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want)


@each_scale
def test_a_scaled_objective_compares_outputs_as_its_objective_does(scale):
    objective = objective_of(Net())
    scaled = ScaledObjective(objective, scale)
    p, q = scaled.forward(), scaled.forward(DELTA)
    torch.testing.assert_close(q.loss, objective.forward(DELTA * scale).loss)
    for symmetric in (False, True):
        got = scaled.divergence(p, q, symmetric=symmetric)
        torch.testing.assert_close(got, objective.divergence(p, q, symmetric=symmetric))
    grad = scaled.gradient(DELTA, lambda out: scaled.divergence(p.detached(), out))
    inner = objective.gradient(DELTA * scale, lambda out: objective.divergence(p.detached(), out))
    torch.testing.assert_close(grad, inner * scale)


def test_a_scaled_objective_shows_what_its_objective_has():
    table, ids = nn.Parameter(torch.ones(9, 2)), torch.tensor([[1, 2, 3, 4]] * 3)
    objective = objective_of(Net(), table=table, ids=ids)
    scaled = ScaledObjective(ScaledObjective(objective, 2.0), SCALE)
    assert scaled.memory is objective.memory
    assert scaled.model is objective.model
    assert scaled.table is table
    assert scaled.ids is ids
    assert scaled.generator is objective.generator
    assert scaled.example_names() == objective.example_names()


def test_the_direction_of_an_ascent_does_not_depend_on_the_unit():
    objective = objective_of(Net())
    scaled = ScaledObjective(objective, SCALE)
    p = scaled.split_pass(DELTA).p
    step = L2Ball(1.0).steepest(scaled.prefix_gradient(DELTA, p))
    want = L2Ball(1.0).steepest(objective.prefix_gradient(DELTA * SCALE, p))
    torch.testing.assert_close(step, want)
