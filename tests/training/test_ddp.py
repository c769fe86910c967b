"""Two processes that exchange gradients train as one process does on both their batches."""

import ddp_runs
import pytest
from forked import found_by_two
from models import tiny
from packaging.version import Version
from tiny_training import distance
from transformers import __version__

# "fgm_matrix" and "awp" take norms of each process's batch, a random start is drawn by process, and
# each process keeps its own table of tokens.
NOT_ONE_PROCESS = ("fgm_matrix", "awp", "freelb-random", "vat", "tavat-random")
KEYS = ("loss", "adv_loss", "clean_loss", "adv_divergence", "delta_norm", "delta_relative")


# By default a method of each kind: one pass, joint passes, several backward passes, starts of its
# own, replays, another gradient, a user's Trainer.
SOME = ("none", "pgd-clean", "freelb-random", "freeat", "awp", "still-trades", "users-freelb")


def assert_same(case, two, one):
    assert (one["processes"], two["processes"]) == (1, 2)
    assert distance(two["weights"], one["weights"]) <= 1e-10, case
    assert distance(one["weights"], tiny("bert").state_dict()) > 1e-3
    for key in KEYS:
        got, want = ([entry.get(key) for entry in run["logs"]] for run in (two, one))
        assert [value is None for value in got] == [value is None for value in want], (case, key)
        if None not in want:
            assert got == pytest.approx(want, rel=1e-5), (case, key)


@pytest.mark.fault("T1")
@pytest.mark.fault("T2")
@pytest.mark.fault("T5")
@pytest.mark.fault("T11")
@pytest.mark.fault("T12")
@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (SOME, ("freeat by length", "smart-past")),
        pytest.param(ddp_runs.NAMES, ddp_runs.RESUMED, marks=pytest.mark.slow),
    ],
    ids=["some", "all"],
)
def test_two_processes_train_as_one(tmp_path, names, kept):
    cases = [case for case in ddp_runs.CASES if case[0] in names]
    if Version(__version__) < Version("5.18"):
        kept = ()  # the Trainer cannot resume on several processes of a CPU there
    first, second = found_by_two(ddp_runs.found, tmp_path, cases, kept)
    others = {("weighted", *case) for case in ddp_runs.WEIGHTED}
    others |= {("resumed", name) for name in kept} | {"lazy", "waited"}
    assert set(first) == set(second) == set(cases) | others
    for case in cases:
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

        # Replays come to the same process, and no example to both.
        words = [rank["freeat", accumulation]["words"] for rank in (first, second)]
        for own in words:
            assert own[:accumulation] == own[accumulation:]
        seen = [tuple(row) for own in words for batch in own[:accumulation] for row in batch]
        assert len(set(seen)) == len(seen) == ddp_runs.ROWS_PER_STEP * accumulation

    # Fewer passes than declared would leave the processes with gradients of their own.
    assert "declares 2 passes" in first["lazy"]
    assert first["lazy"] == second["lazy"]
    assert ddp_runs.lazy() == ""  # which one process does not mind

    # The first process decides for both when an attack begins.
    assert first["waited"] == second["waited"] == ddp_runs.waited() == [4, 6]

    for case in ddp_runs.WEIGHTED:
        two, one = first[("weighted", *case)], ddp_runs.weighted(*case, processes=1)
        # The language model's loss is summed in float32.
        close = 1e-5 if case[0] == "language model" else 1e-10
        assert distance(two["weights"], one["weights"]) <= close, case
        assert two["exchanges"] == first["none", case[1]]["exchanges"] or close > 1e-10

    for name in kept:
        for rank in (first, second):
            run = rank["resumed", name]
            assert run["words again"] == run["words"][-len(run["words again"]) :], name
            assert distance(run["again"], run["whole"]) == 0, name
            assert run["kept again"].keys() == run["kept"].keys()
            assert distance(run["kept again"], run["kept"]) == 0, name
            files = [f"adversarial_memory_{rank}_of_2.pt" for rank in (0, 1)]
            assert run["files"] == files
        again = (rank["resumed", name]["again"] for rank in (first, second))
        assert distance(*again) == 0, name
        words = [rank["resumed", name]["words"] for rank in (first, second)]
        if name.startswith("freeat"):
            assert all(own[i] == own[i + 1] for own in words for i in (0, 2, 4))
            once = [tuple(row) for own in words for i in (0, 2) for row in own[i]]
            assert len(set(once)) == len(once) == 16  # an epoch
