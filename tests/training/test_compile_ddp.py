"""torch.compile under DistributedDataParallel: two processes train as one eager process does."""

from pathlib import Path
from typing import Any

import ddp_runs
import pytest
from forked import found_by_two
from tiny_training import distance

NAMES = ("none", "fgm", "pgd-clean", "freelb")


def compiled(folder: Path, backend: str) -> dict[str, Any]:
    """What one process of two finds."""
    flags = {"torch_compile": True, "torch_compile_backend": backend}
    return {name: ddp_runs.run(name, 2, processes=2, **flags) for name in NAMES}


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_two_compiled_processes_train_as_one_eager_one(tmp_path, backend):
    first, second = found_by_two(compiled, tmp_path, backend)
    for name in NAMES:
        eager = ddp_runs.run(name, 2, processes=1)
        assert distance(first[name]["weights"], second[name]["weights"]) == 0, name
        assert distance(first[name]["weights"], eager["weights"]) <= 1e-10, name
        assert first[name]["exchanges"] == first["none"]["exchanges"], name
