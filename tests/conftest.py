"""Offline, silent and single-threaded before anything else is imported."""

import gc
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# What whoever runs the tests has fetched is not theirs.
os.environ["NLP_ADV_RESOURCES"] = str(Path(__file__).parent / "no_resources")

import pytest
from default_variants import DEFAULT_VARIANTS, spread

ELSEWHERE = ("slow", "gpu", "real_data")


def pytest_configure(config: pytest.Config) -> None:
    """Where tests run; a process that only hands them out to others needs none of this."""
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        return
    import torch
    from hypothesis import settings

    gc.set_threshold(10_000, 20, 20)
    torch.set_num_threads(1)
    settings.register_profile("fast", deadline=None, derandomize=True, max_examples=15)
    settings.load_profile("fast")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow all but a few variants of the tests in `default_variants`."""
    groups: dict[tuple[Path, str], list[pytest.Item]] = {}
    for item in items:
        name = getattr(item, "originalname", item.name)
        if name in DEFAULT_VARIANTS and not any(map(item.get_closest_marker, ELSEWHERE)):
            groups.setdefault((item.path, name), []).append(item)
    for (_, name), group in groups.items():
        kept = spread([values(item) for item in group], DEFAULT_VARIANTS[name])
        for place, item in enumerate(group):
            if place not in kept:
                item.add_marker(pytest.mark.slow)


def values(item: pytest.Item) -> set[tuple[str, object]]:
    """What the variant is about: each parameter's name and value."""
    given = item.callspec.params if hasattr(item, "callspec") else {}
    plain = (str, int, float, type(None))
    return {(key, one if isinstance(one, plain) else id(one)) for key, one in given.items()}


@pytest.fixture(scope="module", autouse=True)
def _what_was_imported_is_no_garbage() -> None:
    """Each Trainer collects garbage when it ends, and would look through all the modules."""
    gc.freeze()
