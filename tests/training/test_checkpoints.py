"""Resuming: from the newest whole checkpoint, and from none that belongs to another run."""

import json
import logging
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from forked import begun
from tiny_training import METHODS, assert_one_sentence, build, distance, rows, trained, weights

from nlp_adv import UserError
from nlp_adv.methods import FreeLB
from nlp_adv.perturbation import L2Ball
from nlp_adv.training.checkpoints import lack, newest_whole

SAVED = {"save_strategy": "steps", "save_steps": 1}
DATA = rows(16)
CONFIG = "adversarial_config.json"
ONE = SimpleNamespace(world_size=1, process_index=0, save_on_each_node=False, deepspeed=None)
TWO = SimpleNamespace(**{**vars(ONE), "world_size": 2})


def run_of(name="tavat", **more):
    return {"options": {"method": METHODS[name]}, "data": DATA, "max_steps": 3, **SAVED, **more}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run of three steps that kept something, and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    return trained(folder, **run_of()), folder


@pytest.fixture
def out(whole, tmp_path):
    """The folder of such a run that was killed after its second checkpoint."""
    for step in (1, 2):
        shutil.copytree(whole[1] / f"checkpoint-{step}", tmp_path / f"checkpoint-{step}")
    return tmp_path


def cut(file: Path, share: float) -> None:
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])


NAMES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth")
NAMES += ("trainer_state.json", "adversarial_memory_0_of_1.pt", "config.json", "training_args.bin")


@pytest.mark.fault("D2")
class TestTheNewestWholeCheckpoint:
    def test_every_moment_at_which_it_can_be_killed(self, out):
        """The files in the order in which they were written; the last of them whole or cut."""
        newest = out / "checkpoint-2"
        files = sorted(newest.iterdir(), key=lambda file: file.stat().st_mtime_ns)
        kept = {file.name: file.read_bytes() for file in files}
        assert files[-1].name == "trainer_state.json"
        assert set(NAMES) <= set(kept)
        for count in range(len(files) + 1):
            for share in (0, 0.5, 0.99, 1):
                shutil.rmtree(newest)
                newest.mkdir()
                for file in files[:count]:
                    file.write_bytes(kept[file.name])
                if count:
                    cut(files[count - 1], share)
                if count == len(files) and share == 1:
                    break
                found, skipped = newest_whole(out, ONE)
                assert found == out / "checkpoint-1"
                assert len(skipped) == 1
                assert skipped[0].startswith("checkpoint-2 has ")
        assert newest_whole(out, ONE) == (newest, [])

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"{", b"\xff" * 99, None])
    def test_damaged_files(self, out, name, content):
        file = out / "checkpoint-2" / name
        if content is None and name in ("config.json", "training_args.bin"):
            return  # the Trainer resumes without
        file.unlink()
        if content is not None:
            file.write_bytes(content)
        found, (why,) = newest_whole(out, ONE)
        assert found == out / "checkpoint-1"
        assert name in why or (content is None and why == "checkpoint-2 has no weights")

    def test_a_missing_shard_of_the_weights(self, out):
        folder = out / "checkpoint-2"
        index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        assert lack(folder, ONE) == "has no model-2.safetensors"

    def test_other_folders_are_none(self, out):
        for name in ("checkpoint-x", "checkpoint", "checkpoint-3-old", "plain"):
            (out / name).mkdir()
        (out / "checkpoint-9").write_text("a file")
        assert newest_whole(out, ONE) == (out / "checkpoint-2", [])

    def test_ten_is_newer_than_nine(self, out):
        for step in (9, 10):
            shutil.copytree(out / "checkpoint-1", out / f"checkpoint-{step}")
        assert newest_whole(out, ONE)[0] == out / "checkpoint-10"

    def test_every_process_needs_its_files(self, out):
        folder = out / "checkpoint-2"
        memory = (folder / "adversarial_memory_0_of_1.pt").rename(
            folder / "adversarial_memory_0_of_2.pt"
        )
        state = (folder / "rng_state.pth").rename(folder / "rng_state_0.pth")
        config = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps(config | {"memory_of_processes": 2}))
        assert lack(folder, TWO) == "has no rng_state_1.pth"
        shutil.copy(state, folder / "rng_state_1.pth")
        assert lack(folder, TWO) == "has no adversarial_memory_1_of_2.pt"
        shutil.copy(memory, folder / "adversarial_memory_1_of_2.pt")
        assert lack(folder, TWO) is None
        memory.unlink()
        assert lack(folder, TWO) == "has no adversarial_memory_0_of_2.pt"

    def test_true_goes_on_from_it_and_says_so(self, whole, out, caplog):
        cut(out / "checkpoint-2" / "optimizer.pt", 0.5)
        trainer = build(out, **run_of())
        with caplog.at_level(logging.WARNING):
            trainer.train(resume_from_checkpoint=True)
        assert "checkpoint-2 has a damaged optimizer.pt" in caplog.text
        assert "going on from" in caplog.text
        assert distance(weights(trainer), weights(whole[0])) == 0

    def test_none_is_whole(self, out):
        shutil.rmtree(out / "checkpoint-1")
        (out / "checkpoint-2" / "trainer_state.json").unlink()
        with pytest.raises(UserError, match=r"checkpoint-2 has no trainer_state.json") as caught:
            build(out, **run_of()).train(resume_from_checkpoint=True)
        assert_one_sentence(caught.value)

    def test_ordinary_training_skips_what_was_cut_too(self, tmp_path):
        plain = {"adv": "none", "data": DATA, "max_steps": 2, **SAVED}
        trained(tmp_path, **plain)
        (tmp_path / "checkpoint-2" / "trainer_state.json").unlink()
        trainer = build(tmp_path, **plain)
        trainer.train(resume_from_checkpoint=True)
        assert trainer.state.global_step == 2
        assert len(trainer.state.log_history) > 1


def train_and_be_killed(folder, at):
    """A run that is killed when it has written half of this file of its second checkpoint."""
    save = torch.save

    def half(content, file, *args, **kwargs):
        save(content, file, *args, **kwargs)
        if "checkpoint-2" in str(file) and Path(file).name == at:
            cut(Path(file), 0.5)
            os.kill(os.getpid(), signal.SIGKILL)

    torch.save = half
    trained(folder, **run_of())


@pytest.mark.fault("D2")
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
@pytest.mark.parametrize("at", ["optimizer.pt", "rng_state.pth"])
def test_a_process_that_is_killed_while_it_writes(whole, tmp_path, at):
    process = begun(train_and_be_killed, tmp_path, at)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert (tmp_path / "checkpoint-2" / at).exists()
    assert not (tmp_path / "checkpoint-2" / "trainer_state.json").exists()
    trainer = build(tmp_path, **run_of())
    trainer.train(resume_from_checkpoint=True)
    assert distance(weights(trainer), weights(whole[0])) == 0


def refused(trainer, checkpoint, *words):
    with pytest.raises(UserError) as caught:
        trainer.train(resume_from_checkpoint=str(checkpoint))
    assert_one_sentence(caught.value)
    for word in (str(checkpoint), *words):
        assert word in str(caught.value), str(caught.value)


@pytest.mark.fault("D7")
class TestWhatDoesNotFit:
    @pytest.mark.parametrize("name", NAMES[:-2])
    def test_a_missing_file(self, out, name):
        (out / "checkpoint-2" / name).unlink()
        what = "no weights" if name == "model.safetensors" else f"no {name}"
        refused(build(out, **run_of()), out / "checkpoint-2", what)

    def test_a_file_that_is_damaged_inside(self, out):
        torch.save({"state": {}, "param_groups": []}, out / "checkpoint-2" / "optimizer.pt")
        refused(build(out, **run_of()), out / "checkpoint-2", "does not fit or is damaged")

    @pytest.mark.parametrize("other", ["freelb", "fgm", "freeat"])
    def test_another_method(self, out, other):
        refused(build(out, **run_of(other)), out / "checkpoint-2", "tavat", f"--adv {other}")

    def test_the_plain_and_the_attacked(self, out, tmp_path):
        refused(
            build(out, adv="none", data=DATA, max_steps=3, **SAVED),
            out / "checkpoint-2",
            "--adv tavat",
            "no attack",
        )
        plain = tmp_path / "plain"
        trained(plain, adv="none", data=DATA, max_steps=1, **SAVED)
        refused(build(plain, **run_of()), plain / "checkpoint-1", "no attack", "--adv tavat")
        (plain / "checkpoint-1" / CONFIG).unlink()  # as the stock Trainer writes it
        refused(build(plain, **run_of()), plain / "checkpoint-1", "no attack", "--adv tavat")

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"ball": L2Ball(0.6)}, ["epsilon 0.5 (this run: 0.6)"]),
            ({"ball": L2Ball(0.5, "token")}, ["per example (this run: token)"]),
            ({"step_size": 0.3}, ["step_size 0.2 (this run: 0.3)"]),
            ({"steps": 2, "reuse": True}, ["steps 3 (this run: 2)", "reuse False"]),
        ],
    )
    def test_other_numbers(self, tmp_path, change, words):
        trained(tmp_path, **run_of("freelb", max_steps=1))
        given = {"ball": L2Ball(0.5), "step_size": 0.2, "steps": 3} | change
        trainer = build(tmp_path, **run_of("freelb") | {"options": {"method": FreeLB(**given)}})
        refused(trainer, tmp_path / "checkpoint-1", *words, "--model_name_or_path")

    def test_another_beginning_of_the_attack(self, tmp_path):
        flags = {"adv": "fgm", "data": DATA, **SAVED}
        trained(tmp_path, max_steps=2, adv_start_step=0.5, **flags)
        longer = build(tmp_path, max_steps=4, adv_start_step=0.5, **flags)
        refused(longer, tmp_path / "checkpoint-2", "start_step 1 (this run: 2)")
        same = build(tmp_path, max_steps=4, adv_start_step=1, **flags)
        same.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
        assert same.state.global_step == 4

    def test_another_version_may_know_other_numbers(self, out):
        path = out / "checkpoint-2" / CONFIG
        config = json.loads(path.read_text())
        del config["clean_weight"]
        path.write_text(json.dumps(config))
        refused(build(out, **run_of()), out / "checkpoint-2", "clean_weight")
        path.write_text(json.dumps(config | {"nlp_adv_version": "0.1", "retired": 1}))
        trainer = build(out, **run_of())
        trainer.train(resume_from_checkpoint=str(out / "checkpoint-2"))
        assert trainer.state.global_step == 3

    def test_weights_alone_are_no_checkpoint_to_go_on_from(self, tmp_path):
        trained(tmp_path, save_only_model=True, **run_of("fgm", max_steps=1))
        refused(build(tmp_path, **run_of("fgm")), tmp_path / "checkpoint-1", "no optimizer.pt")
