"""Two processes that exchange gradients train as one process does on both their batches."""

import os
import subprocess
import sys
from pathlib import Path

import ddp_runs
import pytest
import torch
from models import tiny
from tiny_training import distance

# "fgm_matrix" takes one norm of each process's batch, and a random start is drawn by process.
NOT_ONE_PROCESS = ("fgm_matrix", "freelb-random")


def two_processes(folder):
    """What each of them found, by case."""
    script = Path(ddp_runs.__file__)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", "2", str(script), str(folder)]
    done = subprocess.run(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        cwd=script.parents[2],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)]


def assert_same(case, two, one):
    assert (one["processes"], two["processes"]) == (1, 2)
    assert distance(two["weights"], one["weights"]) <= 1e-10, case
    assert distance(one["weights"], tiny("bert").state_dict()) > 1e-3
    for key in ("loss", "adv_loss", "clean_loss", "delta_norm", "delta_relative"):
        got, want = ([entry.get(key) for entry in run["logs"]] for run in (two, one))
        assert [value is None for value in got] == [value is None for value in want], (case, key)
        if None not in want:
            assert got == pytest.approx(want, rel=1e-5), (case, key)


# One test: the two processes cost more than all that is asked of them.
def test_two_processes_train_as_one(tmp_path):
    first, second = two_processes(tmp_path)
    assert set(first) == set(second) == set(ddp_runs.CASES)
    for case in ddp_runs.CASES:
        name, accumulation = case
        if name not in NOT_ONE_PROCESS:
            assert_same(case, first[case], ddp_runs.run(*case, processes=1))
        assert distance(second[case]["weights"], first[case]["weights"]) == 0, case

        # Gradients travel as often as in ordinary training.
        ordinary = first["none", accumulation]["exchanges"]
        assert len(ordinary) == ddp_runs.STEPS
        assert all(count > 0 for count in ordinary)
        assert first[case]["exchanges"] == ordinary, case

    for accumulation in (1, 2):
        seeds = [rank["freelb-random", accumulation]["seeds"] for rank in (first, second)]
        assert len({*seeds[0], *seeds[1]}) == 2 * accumulation * ddp_runs.STEPS
