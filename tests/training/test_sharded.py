"""Two processes that share a model out train as one process does that has the whole of it."""

import os
from pathlib import Path

import pytest
import sharded_runs
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from forked import found_by_two
from models import tiny
from sharded_runs import dtype_of, run
from test_ddp import KEYS
from tiny_training import JOINT, distance

# One pass, several inner ones, several backward passes, two forward passes in one, replays, a
# part of the model.
SOME = ("none", "pgd-clean", "freelb", "still-trades", "freeat", "yopo")
ALL = (*SOME, "fgm", "rdrop", "still-vat")
WHOLE = ("awp", "fgm_matrix", "smart-past")  # read or move whole weight matrices
CLOSE = {"FSDP2": 1e-14, "ZeRO-1": 3e-6, "ZeRO-2": 3e-6, "ZeRO-3": 3e-6}  # float64, float32


CONFIGURATIONS = Path(__file__).parents[2] / "recipes" / "accelerate"


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.fault("D10")
@pytest.mark.parametrize(
    ("kind", "names"), [("FSDP2", SOME), *(slow(kind, ALL) for kind in CLOSE)], ids=str
)
def test_two_processes_train_as_one(tmp_path, kind, names):
    if kind != "FSDP2":
        pytest.importorskip("deepspeed")
    cases = [(name, accumulation) for name in names for accumulation in (1, 2)]
    refused = [(name, 1) for name in WHOLE]
    kept = ("freelb",) if kind == "FSDP2" else ()
    first, second = found_by_two(sharded_runs.found, tmp_path, kind, [*cases, *refused], kept)
    for case in cases:
        name, accumulation = case
        if name == "yopo" and kind == "ZeRO-3":
            assert "ZeRO-3 gathers" in first[case]
            continue
        one, two = run(*case, processes=1, dtype=dtype_of(kind)), first[case]
        assert distance(two["weights"], one["weights"]) <= CLOSE[kind], case
        assert distance(second[case]["weights"], two["weights"]) == 0, case
        moved = distance(one["weights"], tiny("bert").to(dtype_of(kind)).state_dict())
        assert moved > 1e-3, case
        for key in KEYS:
            got, want = ([entry.get(key) for entry in run["logs"]] for run in (two, one))
            assert [value is None for value in got] == [value is None for value in want], (
                case,
                key,
            )
            if None not in want:
                close = 1e-5 if kind == "FSDP2" else 2e-3
                assert got == pytest.approx(want, rel=close, abs=1e-7), (case, key)
        # Gradients are exchanged, and the engine steps, as often as in ordinary training.
        ordinary = first["none", accumulation]["exchanges"]
        assert sum(ordinary) > 0
        if kind == "FSDP2" and name.removeprefix("still-") in JOINT and accumulation > 1:
            # A layer that ran twice before one backward pass hands on what it has kept as well.
            assert ordinary < two["exchanges"] <= [2 * count for count in ordinary]
        else:
            assert two["exchanges"] == ordinary, case

    for case in refused:
        assert f"which {kind} keeps in parts" in first[case]
        assert first[case] == second[case]

    for name in kept:  # in FSDP2
        for rank in (first, second):
            two = rank["resumed", name]
            assert distance(two["again"], two["whole"]) == 0
            assert distance(two["whole"], tiny("bert").float().state_dict()) > 1e-4


@pytest.mark.parametrize(
    ("name", "kind"),
    [("ddp", "None"), ("fsdp2", "FSDP2"), slow("zero2", "ZeRO-2"), slow("zero3", "ZeRO-3")],
)
def test_configurations_for_accelerate(tmp_path, name, kind):
    """What `accelerate launch` hands to two processes trains them adversarially, and alike."""
    if name.startswith("zero"):
        pytest.importorskip("deepspeed")
    words = ["--config_file", str(CONFIGURATIONS / f"{name}.yaml"), "script.py"]
    args, defaults, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    assert args.num_processes == 2
    if name.startswith("zero"):
        fields = [*defaults.deepspeed_config, "mixed_precision"]
        args.deepspeed_fields_from_accelerate_config = ",".join(fields)
        _, env = prepare_deepspeed_cmd_env(args)
    else:
        env = prepare_multi_gpu_env(args)
    told = {key: value for key, value in env.items() if os.environ.get(key) != value}
    first, second = found_by_two(sharded_runs.launched, tmp_path, told)
    assert first["kind"] == second["kind"] == kind
    assert first["steps"] == 2
    assert distance(first["weights"], second["weights"]) == 0
    assert distance(first["weights"], tiny("bert").float().state_dict()) > 1e-5
