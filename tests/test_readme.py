"""What the README says is what the project does."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)


def section(title: str) -> str:
    return re.split(r"^#+ ", README.split(f"## {title}\n", 1)[1], flags=re.MULTILINE)[0]


def first_column(table: str) -> list[str]:
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("|")]
    return rows[2:]  # below the header and its rule


def runtime_dependencies() -> set[str]:
    """Read by hand: tomllib is newer than the oldest Python that the project takes."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    lines = text.split("\ndependencies = [", 1)[1].split("\n]", 1)[0]
    return set(re.findall(r'"([A-Za-z0-9_.-]+)', lines))


def imports() -> list[tuple[str, str]]:
    lines = re.findall(r"^from (nlp_adv[\w.]*) import ([\w, ]+)", "\n".join(blocks("python")), re.M)
    return [(module, name.strip()) for module, names in lines for name in names.split(",")]


def test_the_two_commands_are_what_the_gate_runs():
    commands = [block.strip() for block in blocks("bash") if block.startswith("pip install")]
    assert len(commands) == 2
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    for command in commands:
        assert "\n" not in command
        # the gate may say where to write, but not change what is run
        assert any(re.match(re.escape(command) + r"( --|$)", line) for line in lines), command
    assert commands[0].endswith("nlp-adv train --adv freelb")
    assert commands[1].endswith("pytest")


def test_every_script_that_the_recipes_name_is_there():
    page = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
    scripts = set(re.findall(r"`(?:python )?([\w/]+\.py)`", page))
    assert scripts
    missing = [s for s in scripts if not any((ROOT / at / s).exists() for at in (".", "recipes"))]
    assert missing == []


def test_every_runtime_dependency_has_its_line():
    cells = first_column(section("Dependencies"))
    named = [name for cell in cells for name in cell.split(", ")]
    assert {"torch", "transformers"} <= runtime_dependencies()
    assert sorted(named) == sorted(runtime_dependencies())


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.splitlines()[0][:40])
def test_a_python_block_is_python(block):
    ast.parse(block)


@pytest.mark.parametrize(("module", "name"), imports())
def test_what_the_examples_import_exists(module, name):
    assert hasattr(importlib.import_module(module), name)


def test_there_are_examples():
    assert len(blocks("python")) >= 2
    assert len(imports()) >= 4
