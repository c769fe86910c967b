"""Several optimizer steps at one δ (`replays` of cat, capo and lat), in Trainers and in loops."""

import sys
from dataclasses import replace
from pathlib import Path

import paired
import pytest
import torch
from models import gradients, tiny
from torch.utils.data import IterableDataset

from nlp_adv import AdversarialTrainer, AdversarialTrainingArguments, UserError, text_objective
from nlp_adv.columns import CHOSEN, REJECTED, UTILITY
from nlp_adv.methods import CAPO, CAT, LAT, Scaled, bare, floor_cost
from nlp_adv.perturbation import L2Ball, Memory, StepError
from nlp_adv.sites.embeddings import EmbeddingSite
from nlp_adv.sites.layer import LayerSite
from nlp_adv.sites.objective import objective

sys.path.append(str(Path(__file__).parents[1] / "parity"))
import reference_completions as reference

RATE = 0.05
CAT_2 = CAT(L2Ball(0.4, "token"), 0.15, 3, replays=2)


ROWS = [{"number": number} for number in range(8)]


class Seen(AdversarialTrainer):
    """Remembers the batches that came."""

    batches: list

    def _prepare_inputs(self, inputs):
        self.batches = [*getattr(self, "batches", []), {k: v.clone() for k, v in inputs.items()}]
        return super()._prepare_inputs(inputs)


def trainer(folder, method, rows=ROWS, **flags):
    given = {"per_device_train_batch_size": 2, "max_steps": 6, "save_strategy": "no"}
    given |= {"optim": "sgd", "learning_rate": RATE, "lr_scheduler_type": "constant"}
    given |= {"max_grad_norm": 0.0, "report_to": "none", "use_cpu": True, "disable_tqdm": True}
    given |= {"remove_unused_columns": False, "logging_steps": 1}
    args = AdversarialTrainingArguments(output_dir=str(folder), **{**given, **flags})
    model = tiny("gpt2_lm")
    return Seen(model, args, train_dataset=rows, data_collator=paired.Collate(), method=method)


def groups(batch):
    return tuple(paired.of(batch, number) for number in (REJECTED, CHOSEN, UTILITY))


def naive(batches, replays, accumulation=1):
    """δ is searched at the weights of a batch's first step, and held in the others."""
    model, deltas = tiny("gpt2_lm"), {}
    for place, batch in enumerate(batches):
        step, slot = divmod(place, accumulation)
        rejected, chosen, useful = groups(batch)
        if step % replays == 0:
            sizes = {"epsilon": 0.4, "alpha": 0.15, "steps": 3}
            deltas[slot] = reference.descended(model, rejected, **sizes)
        width = rejected["input_ids"].shape[1]
        delta = deltas[slot][:, :width]
        losses = reference.cross_entropy(model, chosen, delta)
        leaky = torch.where(losses < 0.5, 0.5 + 0.001 * (losses - 0.5), losses)
        loss = 0.5 * reference.log1mp(model, rejected, delta, -5.0).mean() + 0.5 * leaky.mean()
        loss = loss + 0.5 * reference.cross_entropy(model, chosen).mean()
        (loss + reference.cross_entropy(model, useful).mean()).backward()
        if slot < accumulation - 1:
            continue
        for weight in model.parameters():
            if weight.grad is not None:
                weight.data -= RATE * weight.grad / accumulation
        model.zero_grad()
    return model.state_dict()


def off(one, other):
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize(("replays", "accumulation"), [(2, 1), (3, 1), (2, 2)])
def test_a_run_is_the_naive_loop(tmp_path, replays, accumulation):
    method = replace(CAT_2, replays=replays)
    run = trainer(tmp_path, method, gradient_accumulation_steps=accumulation)
    run.train()
    seen = run.batches
    assert len(seen) == 6 * accumulation
    for place in range(0, len(seen), replays * accumulation):
        first = seen[place : place + accumulation]
        for replay in range(1, replays):
            begin = place + replay * accumulation
            again = seen[begin : begin + accumulation]
            pairs = zip(first, again, strict=True)
            assert all(torch.equal(a["input_ids"], b["input_ids"]) for a, b in pairs)
    want = naive(seen, replays, accumulation)
    got = run.model.state_dict()
    assert off(got, want) < 1e-9
    anew = naive(seen, 1, accumulation)
    assert off(want, anew) > 1e-5  # a δ searched at each step is another run


@pytest.mark.parametrize("save", [1, 2, 3])
def test_a_run_that_is_resumed_within_replays_ends_as_the_whole_one(tmp_path, save):
    method = replace(CAT_2, replays=3)
    whole = trainer(tmp_path / "whole", method, save_strategy="steps", save_steps=save)
    whole.train()
    again = trainer(tmp_path / "whole", method)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{save}"))
    assert off(whole.model.state_dict(), again.model.state_dict()) == 0
    assert again.state.global_step == 6


METHODS = {
    "cat": CAT_2,
    "cat-relative": Scaled(CAT_2, "relative"),
    "capo": CAPO(L2Ball(0.4, "token"), 0.15, 3, replays=2),
    "lat": LAT(L2Ball(0.4, "token"), 0.15, 3, replays=2),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_replay_takes_the_same_delta_and_makes_no_inner_pass(name):
    method, model, batch = METHODS[name], tiny("gpt2_lm"), paired.paired()
    before, site = tiny("gpt2_lm"), EmbeddingSite()
    site = site + LayerSite("0") if name == "lat" else site
    memory, ran = Memory(), []
    model.register_forward_hook(lambda *_: ran.append(1))

    def step(replay, chosen=method):
        memory.replay = replay
        options = {"seed": 0, "memory": memory, "reference": before}
        made = objective(model, batch, site, **options)
        ran.clear()
        chosen.step(made)
        found = made.delta.clone(), gradients(model), len(ran)
        model.zero_grad()
        return found

    first, theta, passes = step(0)
    again, same, fewer = step(1)
    assert torch.equal(first, again)
    assert bool(first.any())
    assert (passes, fewer) == (4, 1)
    assert all(torch.equal(theta[key], same[key]) for key in theta)
    single = type(bare(method))
    alone = replace(bare(method), replays=1)
    alone = Scaled(alone, "relative") if isinstance(method, Scaled) else alone
    assert isinstance(bare(alone), single)
    found, ordinary, _ = step(0, alone)
    assert torch.equal(found, first)  # one replay is the method without the field
    assert all(torch.equal(theta[key], ordinary[key]) for key in theta)


def test_first_replays_in_a_row_and_other_batches_are_refused():
    model, memory = tiny("gpt2_lm"), Memory()

    def step(batch, replay):
        memory.replay = replay
        CAT_2.step(text_objective(model, batch, seed=0, memory=memory))

    step(paired.paired(), 0)
    with pytest.raises(StepError, match="two minibatches in a row as their first replay"):
        step(paired.paired(), 0)
    with pytest.raises(StepError, match="same minibatch 2 times in a row"):
        step(paired.paired(pairs=2), 1)
    with pytest.raises(StepError, match="memory=Memory"):
        CAT_2.step(text_objective(model, paired.paired(), seed=0))


def test_an_attack_may_begin_between_replays():
    memory = Memory(replay=1)
    made = text_objective(tiny("gpt2_lm"), paired.paired(), seed=0, memory=memory)
    CAT_2.step(made)
    assert bool(made.delta.any())


@pytest.mark.parametrize("replays", [0, 1.5, -1])
def test_replays_are_a_whole_number(replays):
    for method in (CAT_2, METHODS["capo"], METHODS["lat"]):
        with pytest.raises(ValueError, match="replays"):
            replace(method, replays=replays)


def test_the_cost_of_the_search_is_shared_by_the_replays():
    for name, rows in (("cat", 1 / 3), ("capo", 1 / 2), ("lat", 2 / 3)):
        method = replace(METHODS[name], steps=6)
        beside = 1 / 3 if name == "capo" else 0.0
        want = 1 + beside + 6 * 2 / 3 * rows / 2
        assert floor_cost(method) == pytest.approx(want)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(ROWS)


@pytest.mark.parametrize(
    ("named", "given"),
    [
        ("length", {"rows": Stream()}),
        ("ignore_data_skip", {"ignore_data_skip": True}),
        ("split_batches", {"accelerator_config": {"split_batches": True}}),
        ("there are only 8", {"per_device_train_batch_size": 9}),
    ],
)
def test_what_freeat_refuses_is_refused(tmp_path, named, given):
    with pytest.raises(UserError, match=named):
        trainer(tmp_path, CAT_2, **given).train()
