"""Every method under every configuration of the Trainer is a naive loop's training, or refused."""

import functools

import pytest
from cells import CONFIGURATIONS, NAMES, REFUSED, UNCOMPARED, measured
from tiny_training import assert_one_sentence

# Replays that are accumulated, a table and its checkpoint, weights that are moved, noise and masks
# of two passes, weights that cannot be moved; no other test has these pairs.
FAST = {
    ("accumulation", "freeat"),
    ("resumed", "tavat"),
    ("LoRA", "awp"),
    ("NEFTune", "rdrop"),
    ("LoRA", "fgm_matrix"),
    ("label smoothing", "cat"),
    ("LoRA", "rr"),
    ("resumed", "fgm_remembered"),
    ("accumulation", "capo"),
}


def cells():
    for column, configuration in CONFIGURATIONS.items():
        for name in NAMES:
            if (column, name) in UNCOMPARED:
                continue
            slow = () if (column, name) in FAST else pytest.mark.slow
            yield pytest.param(column, name, marks=slow, id=f"{column}-{name}")
            assert configuration.processes == 1 or slow


@functools.cache
def by_two(column):
    """Two processes begin once for all methods."""
    return measured(column, NAMES)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize(("column", "name"), list(cells()))
def test_a_cell(column, name):
    configuration = CONFIGURATIONS[column]
    pytest.importorskip(configuration.needs)
    found = by_two(column) if configuration.processes == 2 else measured(column, (name,))
    cell = found[name]
    if (column, name) in REFUSED:
        assert_one_sentence(ValueError(cell.refused))
        return
    assert not cell.refused
    assert cell.difference <= configuration.close
    assert cell.effect > max(0.05, 3 * cell.difference)  # it is not ordinary training
