"""FreeAT in the Trainer: every batch several times in a row, in as many steps as without it."""

import itertools
from collections import Counter

import pytest
import torch
from models import VOCAB, gradients, tiny
from tiny_training import (
    KEEPING,
    METHODS,
    Recorder,
    Watched,
    assert_one_sentence,
    build,
    distance,
    hooks,
    l2,
    logged,
    rows,
    slowly,
    trained,
    weights,
)
from torch.utils.data import IterableDataset, RandomSampler, SequentialSampler
from transformers import Trainer

from nlp_adv import UserError, text_objective
from nlp_adv.methods import FreeAT, Scaled
from nlp_adv.perturbation import L2Ball, Memory, advance, full_pass
from nlp_adv.training.replays import ReplaySampler

EXACT = 1e-12
SGD = {"optim": "sgd", "learning_rate": 0.1, "lr_scheduler_type": "constant", "max_grad_norm": 0}


def freeat(replays=2, **settings):
    return FreeAT(l2, step_size=0.3, replays=replays, **settings)


def words_of(micro):
    return tuple(map(tuple, micro.inputs["input_ids"].tolist()))


def steps_of(trainer, accumulation=1):
    """The micro-batches of each optimizer step, as words."""
    seen = [words_of(micro) for micro in trainer.micro_batches]
    assert len(seen) == accumulation * trainer.state.global_step
    return [tuple(seen[i : i + accumulation]) for i in range(0, len(seen), accumulation)]


def examples_of(steps):
    return [row for step in steps for batch in step for row in batch]


def ragged(count=24):
    """Sentences of 3 to 9 words that no one has padded."""
    generator = torch.Generator().manual_seed(4)
    sizes = torch.randint(3, 10, (count,), generator=generator).tolist()
    words = [torch.randint(4, VOCAB, (size,), generator=generator).tolist() for size in sizes]
    return [{"input_ids": ids, "labels": index % 2} for index, ids in enumerate(words)]


def padded(batch):
    longest = max(len(row["input_ids"]) for row in batch)
    ids = [row["input_ids"] + [0] * (longest - len(row["input_ids"])) for row in batch]
    ids, labels = torch.tensor(ids), torch.tensor([row["labels"] for row in batch])
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": labels}


def grouped(tmp_path, cls=Watched, **given):
    """A run on sentences grouped by their length."""
    flags = {"train_sampling_strategy": "group_by_length", "remove_unused_columns": False}
    options = {"method": freeat(), "data_collator": padded}
    return build(tmp_path, cls, data=ragged(), options=options, **flags, **given)


# The sampler.


def epochs(sampler, count):
    """So many epochs of a sampler that is told which of them begins."""
    found = []
    for epoch in range(count):
        sampler.epoch = lambda epoch=epoch: epoch
        found.append(list(sampler))
    return found


@pytest.mark.parametrize(
    ("size", "chunk", "replays", "want"),
    [
        (4, 2, 2, [[0, 1, 0, 1], [2, 3, 2, 3]]),
        (5, 2, 3, [[0, 1, 0, 1], [0, 1, 2, 3], [2, 3, 2, 3]]),
        (3, 1, 2, [[0, 0, 1], [1, 2, 2]]),
        (3, 3, 1, [[0, 1, 2]]),
        (2, 3, 2, [[], []]),
    ],
)
def test_chunks_come_several_times_in_a_row(size, chunk, replays, want):
    sampler = ReplaySampler(SequentialSampler(range(size)), chunk, replays)
    assert epochs(sampler, 2 * replays) == want * 2
    assert {len(epoch) for epoch in want} == {len(sampler)}


def test_another_samplers_order_is_kept():
    order = [3, 0, 4, 1, 2]
    assert epochs(ReplaySampler(order, 2, 2), 2) == [[3, 0, 3, 0], [4, 1, 4, 1]]


def test_a_random_sampler_is_drawn_from_once_each_time_through_the_data():
    draws = RandomSampler(range(6), generator=torch.Generator().manual_seed(0))
    one, two, three, four = epochs(ReplaySampler(draws, 2, 2), 4)
    for through in (one + two, three + four):
        assert Counter(through) == dict.fromkeys(range(6), 2)
        assert all(through[i : i + 2] == through[i + 2 : i + 4] for i in (0, 4, 8))
    assert one + two != three + four


def test_an_epoch_that_begins_again_in_the_middle_finds_the_same_order():
    def sampler():
        return ReplaySampler(RandomSampler(range(6)), 2, 3, seed=4)

    whole = epochs(sampler(), 6)
    for epoch in range(6):
        resumed = sampler()
        resumed.epoch = lambda epoch=epoch: epoch
        assert list(resumed) == whole[epoch]


# Which batches come.


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("replays", [2, 3])
def test_every_step_of_a_group_sees_the_same_micro_batches(tmp_path, replays, accumulation):
    trainer = trained(
        tmp_path,
        Watched,
        data=rows(36),
        options={"method": freeat(replays)},
        max_steps=2 * replays + 1,
        gradient_accumulation_steps=accumulation,
    )
    steps = steps_of(trainer, accumulation)
    groups = [steps[i : i + replays] for i in range(0, len(steps), replays)]
    assert [len(group) for group in groups] == [replays, replays, 1]
    assert all(len(set(group)) == 1 for group in groups)
    seen = examples_of([group[0] for group in groups])
    assert len(set(seen)) == len(seen) == 3 * 4 * accumulation


@pytest.mark.parametrize("accumulation", [1, 2])
def test_every_example_comes_at_most_once_an_epoch_and_few_are_dropped(tmp_path, accumulation):
    size, chunk = 22, 4 * accumulation
    trainer = trained(
        tmp_path,
        Watched,
        data=rows(size),
        options={"method": freeat(2)},
        max_steps=-1,
        num_train_epochs=2,  # of ordinary training: one pass, each batch twice
        gradient_accumulation_steps=accumulation,
    )
    counts = Counter(examples_of(steps_of(trainer, accumulation)))
    assert set(counts.values()) == {2}
    assert 0 <= size - len(counts) < chunk


def test_epochs_come_in_other_orders_and_runs_in_the_same(tmp_path):
    def order(**flags):
        options = {"method": freeat(2)}
        trainer = trained(tmp_path, Watched, options=options, max_steps=24, **flags)
        steps = steps_of(trainer)
        return steps[:12], steps[12:]  # each once through the data

    first, second = order()
    assert first != second
    assert set(examples_of(first)) == set(examples_of(second))
    assert (first, second) == order()
    other = order(seed=1)
    assert other[0] != first
    assert order(data_seed=1)[0] == other[0]


def test_batches_grouped_by_length(tmp_path):
    trainer = grouped(tmp_path, max_steps=12)
    trainer.train()
    steps = steps_of(trainer)
    assert steps[::2] == steps[1::2]
    assert len(set(examples_of(steps))) == 24
    widths = {len(batch[0]) for (batch,) in steps}
    assert len(widths) > 1
    assert any(size > 0 for size in logged(trainer, "delta_norm"))


# How many steps there are.


@pytest.mark.parametrize(
    ("epochs", "replays"),
    [(3, 3), (2, 3), (0.5, 2), *slowly((1, 2), (3, 2), (4, 2), (1, 8))],
)
def test_as_many_steps_as_ordinary_training(tmp_path, epochs, replays):
    flags = {"max_steps": -1, "num_train_epochs": epochs, "warmup_steps": 2}
    stock = trained(tmp_path, Trainer, **flags)
    ours = trained(tmp_path, options={"method": freeat(replays)}, **flags)
    assert ours.state.global_step == ours.state.max_steps == stock.state.global_step
    assert logged(ours, "learning_rate") == logged(stock, "learning_rate")
    assert ours.args.num_train_epochs == epochs
    assert ours.state.epoch == pytest.approx(stock.state.epoch)


@pytest.mark.fault("T21")
@pytest.mark.parametrize(
    ("count", "replays", "accumulation"), [(3, 3, 1), (2, 3, 1), *slowly((3, 2, 2), (4, 8, 1))]
)
def test_evaluation_and_checkpoints_of_every_epoch(tmp_path, count, replays, accumulation):
    """As many, and at the same steps, as in ordinary training; the best one is loaded."""
    flags = {"max_steps": -1, "num_train_epochs": count, "eval_strategy": "epoch"}
    flags |= {"save_strategy": "epoch", "load_best_model_at_end": True}
    flags |= {"gradient_accumulation_steps": accumulation, "logging_strategy": "epoch"}
    found = []
    given = {"eval_dataset": rows(8)}
    for name, cls, options in (
        ("stock", Trainer, given),
        ("ours", Watched, given | {"method": freeat(replays)}),
    ):
        trainer = trained(tmp_path / name, cls, options=options, **flags)
        evaluated = [(e["epoch"], e["step"]) for e in trainer.state.log_history if "eval_loss" in e]
        saved = sorted(path.name for path in (tmp_path / name).glob("checkpoint-*"))
        found.append((evaluated, saved))
        assert trainer.state.best_model_checkpoint is not None
    assert found[0] == found[1]
    assert len(found[1][0]) == len(found[1][1]) == count


def test_the_dropped_tail_makes_no_step(tmp_path):
    flags = {"data": rows(22), "max_steps": -1, "num_train_epochs": 3}
    flags |= {"gradient_accumulation_steps": 2}
    assert trained(tmp_path, Trainer, **flags).state.global_step == 3 * 3
    ours = trained(tmp_path, options={"method": freeat(3)}, **flags)
    assert ours.state.global_step == 3 * 2


def test_a_given_number_of_steps_counts_replays(tmp_path):
    trainer = trained(tmp_path, Watched, options={"method": freeat(2)}, max_steps=5)
    assert trainer.state.global_step == len(trainer.micro_batches) == 5
    assert len(set(steps_of(trainer))) == 3
    assert trainer.args.max_steps == 5
    assert trainer.args.num_train_epochs == 3.0


def test_the_flags(tmp_path):
    trainer = trained(tmp_path, Watched, adv="freeat", adv_replays=4, max_steps=8)
    steps = steps_of(trainer)
    assert [len(set(steps[i : i + 4])) for i in (0, 4)] == [1, 1]
    sizes = logged(trainer, "delta_relative")
    assert [size == 0 for size in sizes] == [True, False, False, False] * 2
    assert max(sizes) <= 0.03 * (1 + 1e-5)


# δ.


def by_hand(micro_batches, method, accumulation, steps, *, unit=None):
    """The weights and each δ of FreeAT written out: SGD, and a δ for each place in a step."""
    model, memory, kept, deltas = tiny("bert", dropout=0.1), Memory(), {}, []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pairs = itertools.product(range(steps), range(accumulation))
    for (step, slot), micro in zip(pairs, micro_batches, strict=True):
        torch.set_rng_state(micro.random_state)
        objective = text_objective(model, micro.inputs, seed=micro.seed, memory=memory)
        delta = torch.zeros_like(objective.mask)
        if step % method.replays > 0:
            delta = kept[slot]
        deltas.append(delta * objective.mask)
        _, grad = full_pass(objective, delta)
        kept[slot] = advance(delta, grad, ball=method.ball, step_size=method.step_size)
        if slot == accumulation - 1:
            optimizer.step()
            optimizer.zero_grad()
    return model.state_dict(), deltas


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("replays", [2, 3])
def test_delta_goes_on_from_replay_to_replay_and_starts_anew_with_the_next_batch(
    tmp_path, replays, accumulation
):
    method, steps = freeat(replays), 2 * replays
    recorder = Recorder(method)
    trainer = trained(
        tmp_path,
        Watched,
        options={"method": recorder},
        max_steps=steps,
        gradient_accumulation_steps=accumulation,
        **SGD,
    )
    want, deltas = by_hand(trainer.micro_batches, method, accumulation, steps)
    assert distance(weights(trainer), want) <= EXACT
    for step, delta in zip(recorder.steps, deltas, strict=True):
        assert (step["delta"] - delta).abs().max() <= EXACT
    zero = [not step["delta"].any() for step in recorder.steps]
    first = [True] * accumulation + [False] * accumulation * (replays - 1)
    assert zero == first * 2
    if accumulation == 2:  # each place in a step has a δ of its own
        assert distance({"": recorder.steps[2]["delta"]}, {"": recorder.steps[3]["delta"]}) > 1e-3


@pytest.mark.parametrize("unit", ["relative", "per_coordinate"])
def test_delta_in_other_units_stays_in_the_ball(tmp_path, unit):
    method = Scaled(FreeAT(L2Ball(0.2), step_size=0.1, replays=4), unit=unit)
    trainer = trained(tmp_path, options={"method": method}, max_steps=4)
    longest = 1.0
    if unit == "per_coordinate":  # ε is that long for each of a sentence's coordinates
        longest = (8 * 16) ** 0.5
    sizes = logged(trainer, "delta_relative" if unit == "relative" else "delta_norm")
    assert sizes[0] == 0
    assert 0.1 * 0.75 * longest <= sizes[1] <= 0.1 * longest * (1 + 1e-3)
    assert all(sizes[1] < size <= 0.2 * longest * (1 + 1e-6) for size in sizes[2:])


def test_carried_from_batch_to_batch_where_the_shapes_are_the_same(tmp_path):
    recorder = Recorder(freeat(2, carry=True))
    trainer = trained(
        tmp_path,
        Watched,
        data=rows(padded=False),
        options={"method": recorder},
        max_steps=4,
        **SGD,
    )
    deltas = [step["delta"] for step in recorder.steps]
    assert not deltas[0].any()
    assert all(delta.any() for delta in deltas[1:])
    model = tiny("bert", dropout=0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    delta = torch.zeros_like(deltas[0])
    for micro, got in zip(trainer.micro_batches, deltas, strict=True):
        assert (got - delta).abs().max() <= EXACT
        torch.set_rng_state(micro.random_state)
        objective = text_objective(model, micro.inputs, seed=0)
        _, grad = full_pass(objective, delta)
        delta = advance(delta, grad, ball=l2, step_size=0.3)
        optimizer.step()
        optimizer.zero_grad()
    assert distance(weights(trainer), model.state_dict()) <= EXACT


def test_carried_to_sentences_of_another_length_is_refused(tmp_path):
    options = {"method": freeat(2, carry=True), "data_collator": padded}
    trainer = build(
        tmp_path, data=ragged(), options=options, max_steps=12, remove_unused_columns=False
    )
    with pytest.raises(ValueError, match=r"carry=False \(--adv_carry false\)") as caught:
        trainer.train()
    assert_one_sentence(caught.value)
    assert hooks(trainer.model) == 0
    assert trainer.args.num_train_epochs == 3.0


def test_sentences_of_other_lengths_without_carrying(tmp_path):
    options = {"method": freeat(2), "data_collator": padded}
    trainer = trained(
        tmp_path, data=ragged(), options=options, max_steps=12, remove_unused_columns=False
    )
    zero = [size == 0 for size in logged(trainer, "delta_norm")]
    assert zero == [True, False] * 6


def test_without_replays_it_is_ordinary_training(tmp_path):
    stock = trained(tmp_path, Trainer, max_steps=8)
    ours = trained(tmp_path, options={"method": freeat(1)}, max_steps=8)
    assert distance(weights(ours), weights(stock)) <= 1e-10
    assert logged(ours, "delta_norm") == [0] * 8


# Warm-up.


def test_the_attack_begins_in_the_middle_of_a_group(tmp_path):
    trainer = trained(
        tmp_path,
        Watched,
        options={"method": freeat(3)},
        max_steps=9,
        adv_start_step=2,
        **SGD,
    )
    steps = steps_of(trainer)
    assert [len(set(steps[i : i + 3])) for i in (0, 3, 6)] == [1, 1, 1]  # replayed from the start
    logs = [entry for entry in trainer.state.log_history if "delta_norm" in entry]
    assert [entry["step"] for entry in logs] == [3, 4, 5, 6, 7, 8, 9]
    zero = [entry["delta_norm"] == 0 for entry in logs]
    assert zero == [True, True, False, False, True, False, False]


def test_a_ramp_lets_delta_grow(tmp_path):
    method = Scaled(FreeAT(L2Ball(0.2), step_size=0.2, replays=2), unit="relative")
    trainer = trained(
        tmp_path, options={"method": method}, max_steps=8, adv_ramp_steps=3, learning_rate=0
    )
    # The second replay's share of ε: its own, not the first one's.
    want = [0, 0.1, 0, 0.2, 0, 0.2, 0, 0.2]
    assert logged(trainer, "delta_relative") == pytest.approx(want, rel=1e-5)


# Resuming.


@pytest.mark.parametrize(
    ("kind", "at"),
    [
        ("plain", 6),  # the end of the data
        ("plain", 8),  # in a group, at an epoch's end
        ("accumulated", 7),
        ("grouped", 8),
        *slowly(("plain", 2), ("plain", 9), ("carried", 6), ("carried", 8), ("relative", 8)),
    ],
)
def test_resuming_gives_the_same_bits(tmp_path, kind, at):
    """An epoch is 2 steps, a group 3, once through the data 6."""
    method = freeat(3, carry=kind == "carried")
    if kind == "relative":
        method = Scaled(FreeAT(L2Ball(0.2), step_size=0.1, replays=3), unit="relative")
    given = {"options": {"method": method}, "data": rows(8, padded=kind != "carried")}
    given |= {"max_steps": 13, "save_strategy": "steps", "save_steps": at}
    if kind == "accumulated":
        given |= {"data": rows(16), "gradient_accumulation_steps": 2}
    if kind == "grouped":
        given |= {"data": ragged(8), "train_sampling_strategy": "group_by_length"}
        given["options"]["data_collator"] = padded
        given["remove_unused_columns"] = False
    whole = trained(tmp_path, Watched, **given)
    again = build(tmp_path / "again", Watched, **given)
    again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{at}"))
    later = whole.micro_batches[-len(again.micro_batches) :]
    assert [words_of(m) for m in again.micro_batches] == [words_of(m) for m in later]
    assert distance(weights(again), weights(whole)) == 0
    assert logged(again, "delta_norm") == logged(whole, "delta_norm")


# What is refused.


class Stream(IterableDataset):
    def __iter__(self):
        return iter(rows())


@pytest.mark.parametrize(
    ("named", "given"),
    [
        ("length", {"data": Stream()}),
        ("split_batches", {"accelerator_config": {"split_batches": True}}),
        ("dispatch_batches", {"accelerator_config": {"dispatch_batches": True}}),
        ("ignore_data_skip", {"ignore_data_skip": True}),
        ("there are only 24", {"per_device_train_batch_size": 25}),
        ("32 rows", {"gradient_accumulation_steps": 8}),
        ("batch_rebalance", {"train_sampling_strategy": "batch_rebalance"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_set_ups_in_which_replays_would_not_line_up_are_refused(tmp_path, named, given):
    trainer = build(tmp_path, options={"method": freeat()}, **given)
    with pytest.raises(UserError) as caught:
        trainer.train()
    assert_one_sentence(caught.value)
    assert "--adv_replays" in str(caught.value)
    assert named in str(caught.value)
    assert hooks(trainer.model) == 0


def test_those_set_ups_are_fine_for_other_methods_and_a_single_replay(tmp_path):
    for method in (METHODS["pgd"], freeat(1)):
        for given in ({"data": Stream()}, {"ignore_data_skip": True}):
            assert trained(tmp_path, options={"method": method}, **given).state.global_step == 2


def test_no_other_method_replays(tmp_path):
    for name in KEEPING:
        if name != "freeat":
            trainer = build(tmp_path, options={"method": METHODS[name]})
            assert trainer.replays() == 1
            assert not isinstance(trainer._get_train_sampler(), ReplaySampler)


def test_smaller_batches_after_a_restart(tmp_path):
    """`auto_find_batch_size`: the chunks and the places of δ are those of the smaller batch."""
    model, calls = tiny("bert", dropout=0.1), []

    def full(*args):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("CUDA out of memory.")

    model.bert.encoder.register_forward_pre_hook(full)
    trainer = trained(
        tmp_path,
        Watched,
        model=model,
        options={"method": freeat(3, carry=True)},
        data=rows(padded=False),
        auto_find_batch_size=True,
        max_steps=6,
        per_device_train_batch_size=8,
    )
    size = trainer.state.train_batch_size
    assert size < 8
    seen = [words_of(micro) for micro in trainer.micro_batches[-6:]]
    assert {len(batch) for batch in seen} == {size}
    assert len(set(seen[:3])) == len(set(seen[3:])) == 1
    assert logged(trainer, "delta_norm")[0] == 0


def test_its_gradient_is_that_of_one_pass_at_delta(tmp_path):
    recorder = Recorder(freeat(2))
    trainer = trained(tmp_path, Watched, options={"method": recorder}, max_steps=2, **SGD)
    model = tiny("bert", dropout=0.1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter -= 0.1 * trainer.gradients[0][name]
    micro = trainer.micro_batches[1]
    torch.set_rng_state(micro.random_state)
    objective = text_objective(model, micro.inputs, seed=0)
    full_pass(objective, recorder.steps[1]["delta"])
    assert distance(trainer.gradients[1], gradients(model)) <= EXACT
