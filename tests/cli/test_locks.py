"""A second command in a folder ends at once, and the first goes on."""

import pytest
from commands import BRIEF, TINY_DEMO, call, refused_last, snapshot
from commands import typed as run_command
from filelock import FileLock
from test_sweep_command import SETTINGS, SPACE

pytestmark = pytest.mark.fault("D4")


def held(work, run):
    """What a command does, and leaves, where another one is at work."""
    (work / "out").mkdir()
    (work / "out" / "theirs.txt").write_text("half of it")
    with FileLock(work / "out" / ".lock"):
        before = snapshot(work)
        found = run()
        assert snapshot(work) == before
    refused_last(found, "out", "another process writes into it", "--output_dir")


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("modality", ["text", "image"])
def test_train(work, modality, overwrite):
    given = TINY_DEMO | BRIEF | {"output_dir": "out", "overwrite_output_dir": overwrite}
    if modality == "image":
        given["modality"] = "image"
    held(work, lambda: call(**given))


def test_resuming(work):
    given = TINY_DEMO | BRIEF | {"output_dir": "out", "resume_from_checkpoint": "last"}
    held(work, lambda: call(**given))


def test_sweep(work, files, monkeypatch):
    """Sweeps wait for each other a little, as they may work on one study; see `test_study`."""
    monkeypatch.setattr("nlp_adv.experiments.study._PATIENCE", 0.1)
    known = {name: value for name, value in files.items() if name != "test_file"}
    given = known | SETTINGS | {"space": SPACE, "trials": 1, "output_dir": "out"}
    held(work, lambda: call(command="sweep", **given))


@pytest.mark.parametrize("command", ["attack", "evaluate"])
def test_attack_and_evaluate(work, files, command):
    given = {"model_name_or_path": files["model_name_or_path"], "output_dir": "out"}
    held(work, lambda: run_command(command, test_file=files["test_file"], **given))


def test_attack_on_images(work):
    given = {"model_name_or_path": "nowhere", "dataset_name": "nowhere", "output_dir": "out"}
    held(work, lambda: run_command("attack", modality="image", **given))


def test_a_lock_that_a_killed_command_left(work, files):
    (work / "out").mkdir()
    (work / "out" / ".lock").touch()
    assert call(**files, **BRIEF, output_dir="out").code == 0
    assert not (work / "out" / ".lock").exists()
