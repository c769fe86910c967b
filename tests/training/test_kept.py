"""What a method keeps from step to step goes into checkpoints and comes back from them."""

import shutil

import pytest
import torch
from models import tiny
from tiny_training import (
    KEEPING,
    METHODS,
    Call,
    Watched,
    arguments,
    assert_one_sentence,
    build,
    distance,
    logged,
    rows,
    slowly,
    trained,
    weights,
)

from nlp_adv import AdversarialTrainer, UserError

SAVED = {"save_strategy": "steps", "save_steps": 1}
FILE = "adversarial_memory_0_of_1.pt"
EPOCH = 4  # steps, of four rows each
METHODS_AND_STEPS = [
    *((name, EPOCH + 1) for name in KEEPING),
    *slowly(*((name, at) for name in KEEPING for at in (2, EPOCH))),
]


def run_of(name, **more):
    """A run of two and a half epochs, in which kept things are met again."""
    data = rows(4 * EPOCH)
    return {"options": {"method": METHODS[name]}, "data": data, "max_steps": 10, **more}


def saved(folder, at):
    return torch.load(folder / f"checkpoint-{at}" / FILE, weights_only=True)


@pytest.fixture(scope="module")
def whole_runs(tmp_path_factory):
    """Uninterrupted runs, by method, and their folders."""
    runs = {}

    def whole(name):
        if name not in runs:
            folder = tmp_path_factory.mktemp(name)
            runs[name] = (trained(folder, Watched, **run_of(name), **SAVED), folder)
        return runs[name]

    return whole


@pytest.mark.parametrize(("name", "at"), METHODS_AND_STEPS)
def test_a_resumed_run_is_the_uninterrupted_one_to_the_last_bit(tmp_path, whole_runs, name, at):
    whole, folder = whole_runs(name)
    again = build(tmp_path, Watched, **run_of(name), **SAVED)
    again.train(resume_from_checkpoint=str(folder / f"checkpoint-{at}"))
    assert len(again.gradients) == 10 - at
    assert distance(weights(again), weights(whole)) == 0
    for key in ("loss", "adv_loss", "delta_norm"):
        assert logged(again, key) == logged(whole, key)
    last, kept = saved(tmp_path, 10), saved(folder, 10)
    assert last.keys() == kept.keys()
    assert distance(last, kept) == 0


@pytest.mark.parametrize("name", KEEPING)
def test_what_is_kept_matters(tmp_path, whole_runs, name):
    """With nothing in the file the run is another one, so that the test above is not empty."""
    whole, folder = whole_runs(name)
    at = 3  # in the middle of one of freeat's groups
    forgetful = tmp_path / "checkpoint"
    shutil.copytree(folder / f"checkpoint-{at}", forgetful)
    torch.save({}, forgetful / FILE)
    again = build(tmp_path, Watched, **run_of(name))
    again.train(resume_from_checkpoint=str(forgetful))
    assert distance(weights(again), weights(whole)) > 0


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("tavat", {"tavat/table", "tavat/seen"}),
        ("tavat-random", {"tavat/table", "tavat/seen"}),
        ("freeat", {"freeat/0", "freeat/0/replay"}),
    ],
)
def test_what_the_file_holds(whole_runs, name, keys):
    _, folder = whole_runs(name)
    kept = saved(folder, 1)
    assert kept.keys() == keys
    assert all(value.any() for key, value in kept.items() if key != "freeat/0/replay")


def test_reuse_keeps_a_delta_for_each_example_it_has_seen(whole_runs):
    _, folder = whole_runs("freelb-reuse")
    assert [len(saved(folder, at)) for at in (1, 2, EPOCH, 10)] == [8, 16, 32, 32]
    lengths = {tuple(kept.shape) for key, kept in saved(folder, 10).items() if "delta" in key}
    assert lengths == {(5 * 16,), (8 * 16,)}  # their own words, without padding


def test_smart_keeps_an_average_of_the_trained_weights(whole_runs):
    trainer, folder = whole_runs("smart-past")
    kept = saved(folder, 2)
    names = {f"average/{name}" for name, _ in trainer.model.named_parameters()}
    assert kept.keys() == names
    # θ̃₂ = ½θ₁ + ½θ₀: what the second step found, before it moved θ.
    start = dict(tiny("bert").named_parameters())
    first = trainer_weights(folder / "checkpoint-1")
    for name, value in kept.items():
        name = name.removeprefix("average/")
        want = 0.5 * first[name] + 0.5 * start[name].detach()
        assert (value - want).abs().max() <= 1e-12


def trainer_weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_accumulation_takes_one_average_a_step_and_a_delta_for_each_place(tmp_path):
    flags = {"gradient_accumulation_steps": 2, "data": rows(16), "max_steps": 3, **SAVED}
    trained(tmp_path / "a", options={"method": METHODS["freeat"]}, **flags)
    places = {key for key in saved(tmp_path / "a", 1) if not key.endswith("replay")}
    assert places == {"freeat/0", "freeat/1"}
    trained(tmp_path / "s", options={"method": METHODS["smart-past"]}, **flags)
    start, first = (
        dict(tiny("bert").named_parameters()),
        trainer_weights(tmp_path / "s/checkpoint-1"),
    )
    for name, value in saved(tmp_path / "s", 2).items():
        name = name.removeprefix("average/")
        want = 0.5 * first[name] + 0.5 * start[name].detach()
        assert (value - want).abs().max() <= 1e-12


@pytest.mark.parametrize(
    "name",
    ["pgd-clean", "trades", *slowly(*sorted(set(METHODS) - {*KEEPING, "pgd-clean", "trades"}))],
)
def test_methods_that_keep_nothing_write_no_file(tmp_path, name):
    trained(tmp_path, options={"method": METHODS[name]}, max_steps=1, **SAVED)
    folder = tmp_path / "checkpoint-1"
    assert (folder / "trainer_state.json").is_file()
    assert list(folder.glob("adversarial_memory*")) == []


def test_ordinary_training_and_ordinary_steps_write_no_file(tmp_path):
    trained(tmp_path / "none", adv="none", max_steps=1, **SAVED)
    trained(tmp_path / "warm", adv="tavat", adv_start_step=1, **SAVED)
    assert list((tmp_path / "none" / "checkpoint-1").glob("adversarial_memory*")) == []
    assert list((tmp_path / "warm" / "checkpoint-1").glob("adversarial_memory*")) == []
    assert (tmp_path / "warm" / "checkpoint-2" / FILE).is_file()


@pytest.mark.fault("D7")
def test_another_number_of_processes_is_refused(tmp_path):
    trained(tmp_path, **run_of("tavat", max_steps=2), **SAVED)
    folder = tmp_path / "checkpoint-1"
    config = folder / "adversarial_config.json"
    assert '"memory_of_processes": 1' in config.read_text()
    config.write_text(config.read_text().replace('_processes": 1', '_processes": 2'))
    for rank in (0, 1):
        (folder / f"adversarial_memory_{rank}_of_2.pt").write_bytes((folder / FILE).read_bytes())
    (folder / FILE).unlink()
    trainer = build(tmp_path, **run_of("tavat"))
    with pytest.raises(UserError, match="number of processes") as caught:
        trainer.train(resume_from_checkpoint=str(folder))
    assert_one_sentence(caught.value)
    assert "2, not 1" in str(caught.value)


@pytest.mark.parametrize(
    "name", ["freelb-reuse", "smart-past", *slowly("freeat", "tavat", "tavat-random")]
)
def test_training_a_second_time_starts_afresh(tmp_path, name):
    args = arguments(tmp_path, max_steps=5)
    trainer = AdversarialTrainer(
        model_init=lambda trial=None: tiny("bert", dropout=0.1),
        args=args,
        train_dataset=rows(16),
        method=METHODS[name],
    )
    found = []
    for _ in range(2):
        trainer.train()
        found.append((weights(trainer), dict(trainer._memory.tensors)))
    (first, kept), (second, kept_again) = found
    assert distance(second, first) == 0
    assert distance(kept_again, kept) == 0


def test_smaller_batches_after_a_restart_find_nothing(tmp_path):
    model, sizes, calls = tiny("bert"), [], []

    def full(*args):
        calls.append(1)
        if len(calls) == 4:  # a first look, two passes a step: in the second step
            raise RuntimeError("CUDA out of memory.")

    model.bert.encoder.register_forward_pre_hook(full)
    trainer = build(
        tmp_path,
        model=model,
        options={"method": METHODS["freelb-reuse"]},
        auto_find_batch_size=True,
        max_steps=1,
    )
    trainer.add_callback(
        Call("on_train_begin", lambda state: sizes.append(len(trainer._memory.tensors)))
    )
    trainer.args.max_steps = 2
    trainer.train()
    assert sizes == [0, 0]


@pytest.mark.parametrize(
    "flags",
    [
        {"adv": "freelb", "adv_steps": 1, "adv_reuse": True, "adv_init_magnitude": 0.0},
        {"adv": "fgm_remembered", "adv_by": "example"},
    ],
    ids=["freelb", "fgm_remembered"],
)
def test_an_attack_on_second_visits_needs_a_second_epoch(tmp_path, flags):
    """It would be ordinary training under the name of an attack."""
    given = {"data": rows(16), "max_steps": EPOCH, **flags}
    with pytest.raises(UserError, match="from its second epoch on, and this run has one") as caught:
        trained(tmp_path / "one", **given)
    assert_one_sentence(caught.value)
    trained(tmp_path / "two", **(given | {"max_steps": EPOCH + 1}))
