"""Parity of the methods that remember: every optimizer step of a short training run is the same."""

import math

import pytest
import reference_memory as reference
import torch
from agreement import SEED, SHAPE, assert_same_training, padded, steps_of, uniform_draws
from models import VOCAB, batch, tiny

from nlp_adv.methods import TAVAT, FGMRemembered, FreeAT, FreeLB
from nlp_adv.perturbation import L2Ball, LInfBall, Memory
from nlp_adv.sites.objective import text_objective

LR = 0.1
WIDTH = SHAPE[2]

SENTENCES = [[7, 9, 31, 8], [12, 40, 9], [7, 7, 22, 51, 30, 6], [33, 18], [5, 44, 9, 9], [21, 5, 6]]
LABELS = [0, 1, 1, 0, 1, 0]
TWO_EPOCHS = [(0, 1, 2), (3, 4, 5), (4, 0, 3), (2, 5, 1)]


def two_epochs() -> list[dict[str, torch.Tensor]]:
    """Six sentences twice, in other batches, and so with other padding, the second time."""
    return [padded([SENTENCES[i] for i in rows], [LABELS[i] for i in rows]) for rows in TWO_EPOCHS]


def draws_for(batches) -> list[torch.Tensor]:
    """U(−1, 1) of each step, from the seed of its objective."""
    shapes = [(*one["input_ids"].shape, WIDTH) for one in batches]
    return [uniform_draws(SEED + step, shape) for step, shape in enumerate(shapes)]


# --- FreeAT

OTHER = batch("bert") | {"input_ids": batch("bert")["input_ids"].flip(1).clamp_min(4)}

BALLS = pytest.mark.parametrize(
    ("norm", "ball", "step_size"),
    [("linf", LInfBall(0.1), 0.1), ("linf", LInfBall(0.1), 0.03), ("l2", L2Ball(0.8), 0.5)],
    ids=["linf", "linf-short", "l2"],
)


@BALLS
@pytest.mark.parametrize(
    ("carry", "replays"),
    [(False, 3), (True, 3), (True, 1)],
    ids=["reset", "carry", "carry-without-replays"],
)
def test_freeat_is_the_papers_loop(norm, ball, step_size, carry, replays):
    batches = [batch("bert"), OTHER, batch("bert")]
    settings = {"norm": norm, "epsilon": ball.epsilon, "step_size": step_size, "m": replays}

    def loop(model, batches):
        return reference.freeat(model, batches, persistent=carry, lr=LR, **settings)

    method = FreeAT(ball, step_size, replays, carry=carry)
    assert_same_training(method, loop, batches, lr=LR, replays=replays)
    other_way = FreeAT(ball, step_size, replays, carry=not carry)
    with pytest.raises(AssertionError):
        assert_same_training(other_way, loop, batches, lr=LR, replays=replays)


def test_freeat_resets_for_sentences_of_other_lengths():
    def loop(model, batches):
        settings = {"norm": "l2", "epsilon": 0.8, "step_size": 0.5, "m": 2}
        return reference.freeat(model, batches, persistent=False, lr=LR, **settings)

    method = FreeAT(L2Ball(0.8), 0.5, replays=2)
    assert_same_training(method, loop, two_epochs(), lr=LR, replays=2)


@pytest.mark.parametrize("sizes", [(3, 2), (3, 2, 3)], ids=["at-the-end", "in-the-middle"])
def test_freeat_carries_delta_through_a_smaller_batch(sizes):
    """The last batch of an epoch is smaller, and the first of the next is not."""
    batches = [{key: value[:size] for key, value in batch("bert").items()} for size in sizes]

    def loop(model, batches):
        settings = {"norm": "linf", "epsilon": 0.1, "step_size": 0.03, "m": 2}
        return reference.freeat(model, batches, persistent=True, lr=LR, **settings)

    method = FreeAT(LInfBall(0.1), 0.03, replays=2, carry=True)
    assert_same_training(method, loop, batches, lr=LR, replays=2)


# --- FreeLB with reuse


@pytest.mark.parametrize("init", [0.0, 0.6])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("epsilon", [0.5, math.inf], ids=["tight", "none"])
def test_freelb_with_reuse_goes_on_where_a_sentence_was_left(init, steps, epsilon):
    batches = two_epochs()

    def loop(model, batches):
        settings = {"adv_lr": 0.3, "adv_steps": steps, "adv_init_mag": init}
        draws = draws_for(batches)
        return reference.freelb_with_reuse(
            model, batches, draws=draws, adv_max_norm=epsilon, lr=LR, **settings
        )

    method = FreeLB(L2Ball(epsilon), 0.3, steps, init_magnitude=init, reuse=True)
    assert_same_training(method, loop, batches, lr=LR)
    forgetful = FreeLB(L2Ball(epsilon), 0.3, steps, init_magnitude=init)
    with pytest.raises(AssertionError):
        assert_same_training(forgetful, loop, batches, lr=LR)


def test_in_the_first_epoch_reuse_changes_nothing():
    batches = two_epochs()[:2]
    found = []
    for reuse in (False, True):
        method = FreeLB(L2Ball(0.5), 0.3, 2, init_magnitude=0.6, reuse=reuse)
        found.append(torch.stack(list(steps_of(method, lr=LR)(tiny("bert"), batches))))
    assert torch.equal(found[0], found[1])


# --- TAVAT

REPEATING = padded([[7, 9, 7, 7, 30], [9, 22, 7], [51, 9, 9, 30]], [1, 0, 1])


def table_and_draws(batches, *, init: float):
    """The first objective's generator draws the table, with a row to spare, then the start."""
    generator = torch.Generator().manual_seed(SEED)
    table = torch.empty(VOCAB + 1, WIDTH, dtype=torch.float64).uniform_(-1, 1, generator=generator)
    first = torch.empty(*batches[0]["input_ids"].shape, WIDTH, dtype=torch.float64)
    draws = [first.uniform_(-1, 1, generator=generator), *draws_for(batches)[1:]]
    return table[:VOCAB] * init / WIDTH**0.5, draws


@pytest.mark.parametrize("init", [0.0, 0.6])
@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("epsilon", [0.5, 10.0], ids=["tight", "none"])
def test_tavat_is_algorithm_1(init, steps, epsilon):
    batches = [REPEATING, two_epochs()[0], REPEATING]

    def loop(model, batches):
        table, draws = table_and_draws(batches, init=init)
        settings = {"adv_lr": 0.3, "adv_steps": steps, "adv_init_mag": init}
        return reference.tavat(
            model, batches, table=table, draws=draws, adv_max_norm=epsilon, lr=LR, **settings
        )

    method = TAVAT(L2Ball(epsilon), 0.3, steps, init_magnitude=init)
    assert_same_training(method, loop, batches, lr=LR)
    freelb = FreeLB(L2Ball(epsilon), 0.3, steps, init_magnitude=init)
    with pytest.raises(AssertionError):
        assert_same_training(freelb, loop, batches, lr=LR)


def test_tavats_table_is_that_of_the_loop():
    batches = [REPEATING, two_epochs()[0]]
    table, draws = table_and_draws(batches, init=0.6)
    before, memory = table.clone(), Memory()
    settings = {"adv_lr": 0.3, "adv_steps": 2, "adv_init_mag": 0.6, "adv_max_norm": 0.5}
    list(reference.tavat(tiny("bert"), batches, table=table, draws=draws, lr=0.0, **settings))
    model = tiny("bert")
    for step, one in enumerate(batches):
        objective = text_objective(model, one, seed=SEED + step, memory=memory)
        TAVAT(L2Ball(0.5), 0.3, 2, init_magnitude=0.6).step(objective)
    kept = memory.tensors["tavat/table"][:VOCAB]
    torch.testing.assert_close(kept, table, rtol=0, atol=1e-10)
    seen = {
        word for one in batches for word in one["input_ids"][one["attention_mask"] == 1].tolist()
    }
    unseen = [word for word in range(VOCAB) if word not in seen]
    assert 0 in unseen  # padding
    assert torch.equal(kept[unseen], before[unseen])


# --- FGM remembered


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("by", ["word", "label_word", "example"])
def test_fgm_remembered_is_the_loop_over_words(by, momentum):
    batches = [REPEATING, *two_epochs(), REPEATING]

    def loop(model, batches, by=by):
        settings = {"epsilon": 0.5, "momentum": momentum, "lr": LR}
        return reference.fgm_remembered(model, batches, by=by, **settings)

    method = FGMRemembered(L2Ball(0.5), momentum, by)
    assert_same_training(method, loop, batches, lr=LR)
    other = FGMRemembered(L2Ball(0.5), momentum, "word" if by == "example" else "example")
    with pytest.raises(AssertionError):
        assert_same_training(other, loop, batches, lr=LR)


class Wrapped(torch.nn.Module):
    """As DDP wraps a model: its configuration is not seen from outside."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, **inputs):
        return self.module(**inputs)


def test_fgm_remembered_knows_the_labels_of_a_wrapped_model():
    found = []
    for model in (tiny("bert"), Wrapped(tiny("bert"))):
        memory = Memory()
        for step in range(2):
            made = text_objective(model, REPEATING, seed=step, memory=memory)
            report = FGMRemembered(L2Ball(0.5), 0.9, "label_word").step(made)
        found.append((report.loss, made.delta))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert bool(found[0][1].any())
