"""Two real processes under the launchers that users have: equal to one, killed, and refused."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from commands import TEXTS, WORDS, flags, typed, write

from nlp_adv.robustness.records import RECORDS, read_records

pytestmark = pytest.mark.slow

LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--nproc_per_node", "2"],
    # On a CPU accelerate starts one process alone unless it is told that there are several GPUs.
    "accelerate": [
        *("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
        *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
    ],
}
# A model that ends the second process at its sixth call, where a file stands.
KILLED = """
import os, signal
from pathlib import Path

MARK, CALLS = Path(__file__).parent / "kill", []

def scores(texts):
    CALLS.append(len(texts))
    if os.environ.get("RANK") == "1" and len(CALLS) == 6 and MARK.exists():
        MARK.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    good = [text.count("superb") + text.count("bright") + text.count("warm") for text in texts]
    return [[0.0, one - 0.5] for one in good]
"""


def started(launcher: str, command: str, folder: Path, **settings) -> subprocess.CompletedProcess:
    """The command in two processes; what they print."""
    words = [sys.executable, "-m", *LAUNCHERS[launcher], "-m", "nlp_adv.cli.main", command]
    given = {**settings, "output_dir": folder}
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*words, *flags(given)], env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def given(reader, tmp_path_factory) -> dict:
    """A classifier, texts, and attacks on words, by gradients and on embeddings."""
    folder = tmp_path_factory.mktemp("shared")
    words = [word for several in WORDS.values() for word in several]
    table = folder / "candidates.json"
    table.write_text(json.dumps({one: [other for other in words if other != one] for one in words}))
    return {
        "model_name_or_path": str(reader),
        "test_file": write(folder / "texts.jsonl", TEXTS),
        "attacks": ["deepwordbug", "hotflip", "a2t"],
        "neighbours": str(table),
        "embedding_attacks": "deepfool",
        "checks": False,
    }


def records(folder: Path):
    """In their order, without the last digits of what depends on the other rows of a batch."""
    return [
        replace(
            one,
            confidence=round(one.confidence, 5),
            adversarial_confidence=round(one.adversarial_confidence, 5),
        )
        for one in read_records(folder / RECORDS)
    ]


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_leave_what_one_leaves(given, tmp_path, launcher):
    assert typed("evaluate", **given, output_dir=tmp_path / "one").code == 0
    two = started(launcher, "evaluate", tmp_path / "two", **given)
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("The report is") == 1
    assert two.stderr.count("Attacking /") == 1  # the main process alone says something
    assert records(tmp_path / "two") == records(tmp_path / "one")
    assert len(records(tmp_path / "two")) == len(TEXTS) * (3 + 4 + 1)
    assert not list((tmp_path / "two").glob("process-*"))


@pytest.mark.fault("E12")
def test_after_a_kill_the_run_goes_on(given, tmp_path):
    (tmp_path / "victim.py").write_text(KILLED)
    numbered = [{**row, "label": int(row["label"] == "good")} for row in TEXTS]
    settings = {
        "model_name_or_path": f"{tmp_path / 'victim.py'}:scores",
        "test_file": write(tmp_path / "texts.jsonl", numbered),
        "attacks": ["deepwordbug", "textfooler"],
        "neighbours": given["neighbours"],
    }
    assert typed("attack", **settings, output_dir=tmp_path / "one").code == 0
    (tmp_path / "kill").touch()
    killed = started("torchrun", "attack", tmp_path / "two", **settings)
    assert killed.returncode != 0
    assert not (tmp_path / "kill").exists()
    assert killed.stderr.count("nlp-adv attack:") <= 1, killed.stderr
    again = started("torchrun", "attack", tmp_path / "two", **settings)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "two" / RECORDS).read_bytes() == (tmp_path / "one" / RECORDS).read_bytes()


def test_an_error_is_said_once(given, tmp_path):
    ended = started("torchrun", "evaluate", tmp_path / "two", **given | {"attacks": "nothing"})
    assert ended.returncode != 0
    said = [line for line in ended.stderr.splitlines() if line.startswith("nlp-adv evaluate: ")]
    assert len(said) == 1
    assert "nothing" in said[0]
    assert not (tmp_path / "two").exists()
