"""Frozen dropout: the same masks in every block, and the stream as after one of them."""

import pytest
import torch
from torch import nn

from nlp_adv.perturbation import FrozenDropout


@pytest.fixture
def drop():
    torch.manual_seed(0)
    return nn.Dropout(0.5).train()


def test_every_block_draws_the_same_masks(drop):
    frozen = FrozenDropout(torch.device("cpu"))
    masks = []
    for _ in range(3):
        with frozen():
            masks.append(torch.stack([drop(torch.ones(100)), drop(torch.ones(100))]))
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[0], masks[2])
    assert not torch.equal(masks[0][0], masks[0][1])  # within a block the stream runs on


def test_the_first_block_draws_what_it_would_have_drawn(drop):
    state = torch.get_rng_state()
    want = drop(torch.ones(100))
    torch.set_rng_state(state)
    with FrozenDropout(torch.device("cpu"))():
        assert torch.equal(drop(torch.ones(100)), want)


@pytest.mark.parametrize("blocks", [1, 3])
def test_the_stream_ends_as_after_one_block(drop, blocks):
    state = torch.get_rng_state()
    drop(torch.ones(100))
    after_one = torch.get_rng_state()
    torch.set_rng_state(state)
    frozen = FrozenDropout(torch.device("cpu"))
    for _ in range(blocks):
        with frozen():
            drop(torch.ones(100))
    assert torch.equal(torch.get_rng_state(), after_one)
    assert not torch.equal(after_one, state)


def test_draws_between_blocks_do_not_reach_the_masks(drop):
    frozen = FrozenDropout(torch.device("cpu"))
    with frozen():
        first = drop(torch.ones(100))
    torch.rand(7)
    with frozen():
        assert torch.equal(drop(torch.ones(100)), first)


@pytest.mark.parametrize("failing", [1, 2])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failing_block_puts_the_stream_back_and_the_error_through(drop, failing, error):
    state = torch.get_rng_state()
    frozen = FrozenDropout(torch.device("cpu"))
    for _ in range(failing - 1):
        with frozen():
            drop(torch.ones(100))

    def fail():
        drop(torch.ones(100))
        raise error

    with pytest.raises(error), frozen():
        fail()
    assert torch.equal(torch.get_rng_state(), state)


def test_restore_goes_back_to_the_beginning(drop):
    frozen = FrozenDropout(torch.device("cpu"))
    with frozen():
        first = drop(torch.ones(100))
    frozen.restore()
    assert torch.equal(drop(torch.ones(100)), first)


# --- another mask


def test_a_redrawn_block_draws_others(drop):
    frozen = FrozenDropout(torch.device("cpu"))
    masks = {}
    for seed in (3, 4, 3):
        with frozen.redrawn(seed):
            masks.setdefault(seed, []).append(drop(torch.ones(100)))
    with frozen():
        first = drop(torch.ones(100))
    assert torch.equal(*masks[3])
    assert not torch.equal(masks[3][0], masks[4][0])
    assert not torch.equal(masks[3][0], first)


@pytest.mark.parametrize("before", [0, 1], ids=["first", "second"])
def test_a_redrawn_block_changes_no_other(drop, before):
    """The streams stand at the state after it; the other blocks draw what they would have drawn."""
    state = torch.get_rng_state()
    frozen = FrozenDropout(torch.device("cpu"))
    masks = []
    for turn in range(2):
        if turn == before:
            with frozen.redrawn(3):
                drop(torch.ones(100))
            assert torch.equal(torch.get_rng_state(), state)
        with frozen():
            masks.append(drop(torch.ones(100)))
    torch.set_rng_state(state)
    want = drop(torch.ones(100))
    assert torch.equal(masks[0], want)
    assert torch.equal(masks[1], want)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failing_redrawn_block_puts_the_stream_back(drop, error):
    state = torch.get_rng_state()
    with pytest.raises(error), FrozenDropout(torch.device("cpu")).redrawn(3):
        raise error
    assert torch.equal(torch.get_rng_state(), state)
