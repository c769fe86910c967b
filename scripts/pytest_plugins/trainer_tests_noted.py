"""A pytest plugin for transformers' own tests, with the stock Trainer as with ours.

A test file of another version may import names that the installed transformers has not: a class of
that name stands there instead, and only what uses it fails. Under `nlp-adv run` each test's record
says how many trainings began in it and what nlp_adv refused.
"""

import ast
import importlib
import os
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from nlp_adv.run.notes import VARIABLE, Note, Orders


def pytest_configure(config: pytest.Config) -> None:
    """Before any test file is imported."""
    paths = sorted(Path(config.rootpath).glob("tests/trainer/*.py"))
    asked = {pair for path in paths for pair in _imported(path.read_text("utf-8"))}
    # transformers puts another module in the place of its own when a first name of it is loaded.
    lacking = [pair for pair in asked if not _there(*pair)]
    for module, name in lacking:
        if not _there(module, name):
            stand_in(module, name)


def _imported(source: str) -> Iterator[tuple[str, str]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("transformers"):
            yield from ((node.module or "", alias.name) for alias in node.names)


def _there(module: str, name: str) -> bool:
    try:
        return hasattr(importlib.import_module(module), name)
    except ImportError:  # then the tests cannot import it either
        return True


def stand_in(module: str, name: str) -> None:
    """Give the module a class of this name."""

    def __init__(self: object, *args: object, **kwargs: object) -> None:
        raise ImportError(f"{module} {version('transformers')} has no {name}.")

    setattr(importlib.import_module(module), name, type(name, (), {"__init__": __init__}))


def _notes() -> Counter[Note]:
    orders = os.environ.get(VARIABLE)
    return Counter() if orders is None else Counter(Orders.of(orders).notes())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """A test, and what was noted meanwhile, in it or in processes that it started."""
    before = _notes()
    try:
        return (yield)
    finally:
        new = _notes() - before
        trained = sum(times for note, times in new.items() if note.event == "began")
        item.user_properties.append(("trained", str(trained)))
        said = sorted({note.said for note in new if note.event == "failed"})
        item.user_properties.extend(("refused", sentence) for sentence in said)
