"""Memory: a δ comes back to its example, wherever padding puts it next time."""

import pytest
import torch
from torch import Tensor

from nlp_adv.perturbation import Memory

NAMES = ["a", "b", "c"]
LENGTHS = (4, 2, 3)


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def token_mask(lengths, tokens: int, side: str, width: int = 2) -> Tensor:
    free = torch.arange(tokens) < torch.tensor(lengths)[:, None]
    free = free.flip(1) if side == "left" else free
    return free.double()[..., None].expand(-1, -1, width)


@pytest.mark.parametrize("then", ["left", "right"])
@pytest.mark.parametrize("first", ["left", "right"])
def test_a_sentence_finds_its_delta_under_other_padding(first, then):
    memory, mask = Memory(), token_mask(LENGTHS, 4, first)
    delta = draws(3, 4, 2) * mask
    memory.keep(NAMES, delta, mask)
    again = token_mask((3, 4), 6, then)
    got = memory.recall(["c", "a"], draws(2, 6, 2, seed=1), again)
    for row, name in enumerate(["c", "a"]):
        kept = delta[NAMES.index(name)][mask[NAMES.index(name)] > 0]
        assert torch.equal(got[row][again[row] > 0], kept)


def test_a_recalled_delta_leaves_the_padding_of_the_start():
    memory, mask = Memory(), token_mask(LENGTHS, 4, "right")
    memory.keep(NAMES, draws(3, 4, 2), mask)
    got = memory.recall(NAMES, torch.zeros(3, 4, 2, dtype=torch.float64), mask)
    assert (got[mask == 0] == 0).all()
    assert (got[mask == 1] != 0).all()


def test_an_unknown_name_begins_at_the_start():
    memory, mask = Memory(), token_mask(LENGTHS, 4, "right")
    memory.keep(NAMES, draws(3, 4, 2), mask)
    start = draws(3, 4, 2, seed=1)
    got = memory.recall(["a", "new", "c"], start, mask)
    assert torch.equal(got[1], start[1])
    assert not torch.equal(got[0], start[0])


def test_an_example_of_another_length_begins_at_the_start():
    memory = Memory()
    memory.keep(NAMES, draws(3, 4, 2), token_mask(LENGTHS, 4, "right"))
    start = draws(3, 4, 2, seed=1)
    got = memory.recall(NAMES, start, token_mask((4, 3, 3), 4, "right"))
    assert torch.equal(got[1], start[1])
    assert not torch.equal(got[2], start[2])


def test_pixels_are_kept_whole():
    memory, mask = Memory(), torch.ones(3, 2, 4, 4)
    delta = draws(3, 2, 4, 4)
    memory.keep(NAMES, delta, mask)
    got = memory.recall(["b", "a", "c"], torch.zeros(3, 2, 4, 4).double(), mask)
    assert torch.equal(got, delta[[1, 0, 2]])


def test_a_later_delta_takes_the_place_of_an_earlier_one():
    memory, mask = Memory(), torch.ones(1, 2, 2)
    for seed in (0, 1):
        memory.keep(["a"], draws(1, 2, 2, seed=seed), mask)
    got = memory.recall(["a"], torch.zeros(1, 2, 2).double(), mask)
    assert torch.equal(got, draws(1, 2, 2, seed=1))
    assert set(memory.tensors) == {"delta/a", "free/a"}


def test_what_is_kept_has_no_graph_and_is_no_view():
    memory, mask = Memory(), torch.ones(2, 2, 2)
    delta = torch.ones(2, 2, 2, requires_grad=True)
    memory.keep(["a", "b"], delta, mask)
    with torch.no_grad():
        delta.fill_(7.0)
    got = memory.recall(["a", "b"], torch.zeros(2, 2, 2), mask)
    assert (got == 1).all()
    assert not got.requires_grad
    got.fill_(9.0)
    assert (memory.recall(["a", "b"], torch.zeros(2, 2, 2), mask) == 1).all()


def test_it_takes_the_precision_of_the_start_and_leaves_the_start_alone():
    memory, mask = Memory(), torch.ones(1, 2, 2)
    memory.keep(["a"], torch.ones(1, 2, 2, dtype=torch.float64), mask)
    start = torch.zeros(1, 1, 1).expand(1, 2, 2)
    got = memory.recall(["a"], start, mask)
    assert got.dtype == torch.float32
    assert (got == 1).all()
    assert (start == 0).all()


def test_memories_share_nothing():
    first, second = Memory(), Memory()
    first.keep(["a"], torch.ones(1, 2, 2), torch.ones(1, 2, 2))
    assert second.tensors == {}


def test_what_is_kept_elsewhere_comes_back_to_where_the_start_is():
    """ "meta" stands for a device whose numbers nobody can wait for: nothing may be read there."""
    memory, mask = Memory(), token_mask(LENGTHS, 4, "right").to("meta")
    memory.keep(NAMES, torch.empty(3, 4, 2, device="meta"), mask)
    assert {kept.device.type for kept in memory.tensors.values()} == {"meta"}
    got = memory.recall(
        NAMES, torch.empty(3, 6, 2, device="meta"), token_mask(LENGTHS, 6, "left").to("meta")
    )
    assert got.device.type == "meta"
    assert got.shape == (3, 6, 2)


def test_a_memory_of_an_older_version_has_no_counts():
    memory, mask = Memory(), token_mask(LENGTHS, 4, "right")
    delta = draws(3, 4, 2) * mask
    memory.keep(NAMES, delta, mask)
    memory.tensors = {key: kept for key, kept in memory.tensors.items() if "delta/" in key}
    assert torch.equal(memory.recall(NAMES, torch.zeros_like(delta), mask), delta)
    longer = token_mask((4, 3, 3), 4, "right")
    assert not memory.recall(NAMES, torch.zeros_like(delta), longer)[1].any()
