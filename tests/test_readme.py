"""What the README says is what the project does."""

import ast
import importlib
import re
from pathlib import Path

import pytest

from nlp_adv.methods import METHODS

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


@pytest.mark.parametrize("page", ["README.md", "recipes/README.md"])
def test_every_relative_link_leads_to_a_file(page):
    path = ROOT / page
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text(encoding="utf-8"))
    relative = [target for target in targets if "://" not in target]
    assert relative
    assert [target for target in relative if not (path.parent / target).exists()] == []


def test_every_script_that_the_recipes_name_is_there():
    page = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
    scripts = set(re.findall(r"`(?:python )?([\w/]+\.py)`", page))
    assert scripts
    missing = [s for s in scripts if not any((ROOT / at / s).exists() for at in (".", "recipes"))]
    assert missing == []


def test_the_table_of_methods_is_the_registry():
    names = [cell.strip("`") for cell in first_column(section("Methods"))]
    assert sorted(names) == sorted(METHODS)


def test_every_runtime_dependency_has_its_line():
    rows = first_column(section("Dependencies"))
    named = {row.split()[0] for row in rows}
    assert {"torch", "transformers"} <= runtime_dependencies()
    assert named == runtime_dependencies()


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.splitlines()[0][:40])
def test_a_python_block_is_python(block):
    ast.parse(block)


@pytest.mark.parametrize(("module", "name"), imports())
def test_what_the_examples_import_exists(module, name):
    assert hasattr(importlib.import_module(module), name)


def test_there_are_examples():
    assert len(blocks("python")) >= 2
    assert len(imports()) >= 4


def test_flags_in_the_text_are_flags_of_the_command():
    from transformers import HfArgumentParser

    from nlp_adv.cli.image_attack import ImageAttack
    from nlp_adv.cli.sweep_request import SweepArguments
    from nlp_adv.cli.task import task_of
    from nlp_adv.cli.text_attack import TextAttack
    from nlp_adv.cli.word_arguments import WordTrainingArguments
    from nlp_adv.training.arguments import AdversarialTrainingArguments

    training = (SweepArguments, AdversarialTrainingArguments)
    kinds = [
        (*task_of("text").arguments, *training),
        task_of("image").arguments,
        (WordTrainingArguments,),
        TextAttack.kinds("evaluate"),
        ImageAttack.kinds("evaluate"),
    ]
    actions = [action for one in kinds for action in HfArgumentParser(one)._actions]
    known = {name for action in actions for name in action.option_strings}
    used = set(re.findall(r"--[a-z]\w+", README))
    assert "--adv_epsilon" in used
    assert used - known == set()


def test_the_table_of_attacks_is_the_registry():
    from nlp_adv.robustness import ATTACKS

    table = section("Is it more robust?")
    names = [cell.strip("`") for cell in first_column(table)]
    assert sorted(names) == sorted(ATTACKS)


def test_the_table_of_image_attacks_is_what_there_is():
    import nlp_adv.attacks

    names = {name for cell in first_column(section("Images")) for name in re.findall(r"\w+", cell)}
    attack = nlp_adv.attacks.Attack
    exported = [(name, getattr(nlp_adv.attacks, name)) for name in nlp_adv.attacks.__all__]
    kinds = [(name, one) for name, one in exported if isinstance(one, type)]
    assert names == {name for name, one in kinds if issubclass(one, attack) and one is not attack}


def test_no_placeholder_is_left():
    assert re.findall(r"\b[A-Z]+_TABLE\b|\bTODO\b|\bTBD\b|\bFIXME\b", README) == []
