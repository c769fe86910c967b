"""The first block: found in the order of the forward pass, watched, or run alone."""

import pytest
import torch
from torch import Tensor, nn

from nlp_adv.perturbation import FirstBlock, find_first_block


class Block(nn.Module):
    """tanh(Wh); it counts its calls."""

    def __init__(self, *, returns: str = "tensor") -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4).double()
        self.returns, self.calls = returns, 0

    def forward(self, hidden_states: Tensor):
        self.calls += 1
        hidden = self.inner(hidden_states).tanh()
        return {"tensor": hidden, "tuple": (hidden, "more"), "dict": {"hidden": hidden}}[
            self.returns
        ]


class Stack(nn.Module):
    """An embedding of two tables, blocks, a head; blocks may be one and the same."""

    def __init__(self, *, shared: bool = False, returns: str = "tensor", keyword=False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList([Block(returns=returns) for _ in range(1 if shared else 3)])
        self.tables = nn.ModuleList([nn.Embedding(9, 4).double() for _ in range(2)])
        self.order = [0, 0, 0] if shared else [0, 1, 2]
        self.head = nn.Linear(4, 1).double()
        self.keyword = keyword

    def forward(self, ids: Tensor, delta: Tensor | float = 0.0) -> Tensor:
        hidden = sum(table(ids) for table in self.tables) + delta
        for index in self.order:
            block = self.blocks[index]
            hidden = block(hidden_states=hidden) if self.keyword else block(hidden)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        return self.head(hidden).sum()


IDS = torch.tensor([[1, 2, 3], [4, 5, 6]])
DELTA = torch.linspace(-1, 1, 24, dtype=torch.float64).view(2, 3, 4)

kinds = pytest.mark.parametrize("returns", ["tensor", "tuple"])
sharing = pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])


def first_of(net: Stack) -> FirstBlock:
    return FirstBlock(net.blocks[0], lambda delta: net(IDS, delta))


def hooks(net: nn.Module) -> list[int]:
    return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()]


def wanted(net: Stack, delta: Tensor) -> tuple[Tensor, Tensor]:
    """h by hand, and the gradient of the rest of the net there."""
    hidden = net.blocks[0].inner(sum(t(IDS) for t in net.tables) + delta).tanh().detach()
    leaf = hidden.clone().requires_grad_()
    above = leaf
    for index in net.order[1:]:
        above = net.blocks[index].inner(above).tanh()
    (p,) = torch.autograd.grad(net.head(above).sum(), leaf)
    return hidden, p


# --- run alone


@kinds
@sharing
def test_the_prefix_is_the_first_call_and_nothing_above_it_runs(returns, shared):
    net = Stack(shared=shared, returns=returns)
    hidden, _ = wanted(net, DELTA)
    got = first_of(net).prefix(DELTA)
    torch.testing.assert_close(got, hidden)
    assert [block.calls for block in net.blocks] == ([1] if shared else [1, 0, 0])


def test_the_prefix_has_a_graph_to_delta():
    net, leaf = Stack(), DELTA.clone().requires_grad_()
    _, p = wanted(net, DELTA)
    (p * first_of(net).prefix(leaf)).sum().backward()
    whole = DELTA.clone().requires_grad_()
    net(IDS, whole).backward()
    torch.testing.assert_close(leaf.grad, whole.grad)


@pytest.mark.parametrize("failing", [False, True])
def test_the_prefix_leaves_no_hook(failing):
    net = Stack()
    before = hooks(net)

    def run(delta):
        if failing:
            raise KeyboardInterrupt
        return net(IDS, delta)

    block = FirstBlock(net.blocks[0], run)
    if failing:
        with pytest.raises(KeyboardInterrupt):
            block.prefix(DELTA)
    else:
        block.prefix(DELTA)
    assert hooks(net) == before


def test_a_block_that_does_not_run_is_refused():
    net, other = Stack(), Block()
    with pytest.raises(RuntimeError, match=r"\(Block\) did not run"):
        FirstBlock(other, lambda delta: net(IDS, delta)).prefix(DELTA)
    assert hooks(other) == [0, 0]


def test_a_block_without_a_tensor_is_refused():
    net = Stack(returns="dict")
    with pytest.raises(RuntimeError, match="returns no tensor"):
        first_of(net).prefix(DELTA)
    assert sum(hooks(net)) == 0


# --- watched


@kinds
@sharing
def test_a_watched_pass_leaves_p(returns, shared):
    net = Stack(shared=shared, returns=returns)
    _, p = wanted(net, DELTA)
    with first_of(net).watched() as gradients:
        (0.5 * net(IDS, DELTA)).backward()
    assert len(gradients) == 1
    torch.testing.assert_close(gradients[0], 0.5 * p)
    assert not gradients[0].requires_grad
    assert sum(hooks(net)) == 0


def test_watching_changes_no_gradient():
    found = []
    for watching in (False, True):
        net = Stack()
        if watching:
            with first_of(net).watched():
                net(IDS, DELTA).backward()
        else:
            net(IDS, DELTA).backward()
        found.append([parameter.grad for parameter in net.parameters()])
    for got, want in zip(*found, strict=True):
        assert torch.equal(got, want)


def test_a_pass_without_a_graph_leaves_nothing():
    net = Stack()
    with first_of(net).watched() as gradients, torch.no_grad():
        net(IDS, DELTA)
    assert gradients == []


def test_an_exception_leaves_no_hook():
    net = Stack()
    with pytest.raises(KeyboardInterrupt), first_of(net).watched():
        raise KeyboardInterrupt
    assert sum(hooks(net)) == 0


# --- a checkpointed block


@pytest.mark.parametrize("flag", [True, False])
def test_checkpointing_is_off_inside_and_as_before_after_it(flag):
    net, seen = Stack(), []
    first = net.blocks[0]
    first.gradient_checkpointing = flag
    first.register_forward_pre_hook(lambda *_: seen.append(first.gradient_checkpointing))
    block = first_of(net)
    block.prefix(DELTA)
    with block.watched():
        net(IDS, DELTA).backward()
    assert seen == [False, False]
    assert first.gradient_checkpointing is flag
    with pytest.raises(KeyboardInterrupt), block.watched():
        raise KeyboardInterrupt
    assert first.gradient_checkpointing is flag


def test_a_block_that_knows_no_checkpointing_gets_no_flag():
    net = Stack()
    first_of(net).prefix(DELTA)
    assert not hasattr(net.blocks[0], "gradient_checkpointing")


# --- found


@sharing
@pytest.mark.parametrize("keyword", [False, True], ids=["positional", "keyword"])
def test_it_is_the_first_that_takes_hidden_states(shared, keyword):
    """The list of tables runs before it, and takes ids."""
    net = Stack(shared=shared, keyword=keyword)
    assert find_first_block(net, lambda: net(IDS)) is net.blocks[0]
    assert sum(block.calls for block in net.blocks) == 0
    assert sum(hooks(net)) == 0


def test_the_order_is_that_of_the_forward_pass():
    net = Stack()
    early = nn.ModuleList([nn.Linear(4, 4).double()])
    net.early = early

    def run():
        return net.head(net.blocks[0](early[0](DELTA)))

    assert find_first_block(net, run) is early[0]


def test_none_is_found_where_there_is_none():
    net = nn.Sequential(nn.Linear(4, 4).double(), nn.Tanh())
    assert find_first_block(net, lambda: net(DELTA)) is None
    stack = Stack()
    assert find_first_block(stack, lambda: stack.tables[0](IDS)) is None
    assert sum(hooks(stack)) == 0


def test_a_failing_run_leaves_no_hook():
    net = Stack()

    def run():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_first_block(net, run)
    assert sum(hooks(net)) == 0


def test_it_is_looked_for_without_a_graph():
    net, seen = Stack(), []
    net.blocks[0].register_forward_pre_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    find_first_block(net, lambda: net(IDS))
    assert seen == [False]
    assert torch.is_grad_enabled()
