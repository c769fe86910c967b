"""The Python of the README and of docs/ runs: block after block, in the world of its page."""

import ast
import importlib
import linecache
import re
import sys
import types

import page_worlds
import pytest
from pages import PAGES, blocks

from nlp_adv.methods import METHODS, registry

WITH_CODE = [page for page in PAGES if blocks(page, "python")]
BRIEF = "max_steps=1, report_to='none', use_cpu=True, bf16=False, save_strategy='no', "
# Whole runs are shortened here; the README's is made as it stands in a slow test.
SHORTER = {
    "README.md": [
        ("max_steps=300", "max_steps=4"),
        ("max_examples=200", "max_examples=8"),
        ("start_step=150, ramp_steps=75", "start_step=1, ramp_steps=2"),
    ],
    "docs/howto/language_models.md": [('output_dir="out",', f'output_dir="out", {BRIEF}')],
}


def run(page: str, *, shorter: bool = True) -> dict:
    """Every block of a page in one namespace.

    Returns:
        What the blocks left.
    """
    module = types.ModuleType("page")  # where dataclasses look for names
    vars(module).update(page_worlds.WORLDS.get(page, page_worlds.text)())
    sys.modules["page"] = module
    try:
        for number, block in enumerate(blocks(page, "python")):
            for old, new in SHORTER.get(page, ()) if shorter else ():
                block = block.replace(old, new)
            name = f"{page}, block {number}"
            lines = block.splitlines(keepends=True)
            linecache.cache[name] = (len(block), None, lines, name)  # whose source is asked for
            exec(compile(block, name, "exec"), vars(module))
    finally:
        del sys.modules["page"]
    return vars(module)


def missing(page: str) -> list[str]:
    """Packages that the page's code imports and that are not installed here."""
    code = "\n".join(blocks(page, "python"))
    names = re.findall(r"^(?:import|from) (trl|peft|sentence_transformers)\b", code, re.MULTILINE)
    return [name for name in names if importlib.util.find_spec(name) is None]


@pytest.fixture(autouse=True)
def _leaves_nothing(tmp_path, monkeypatch):
    """Files go to a folder of their own, and methods that a page registers are forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_others", dict(registry._others))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("page", WITH_CODE)
def test_the_code_of_a_page_runs(page):
    if missing(page):
        pytest.skip(f"needs {', '.join(missing(page))}")
    run(page)


@pytest.mark.parametrize("page", WITH_CODE)
def test_it_is_python_whose_imports_exist(page):
    """Of the pages, too, whose packages are not installed."""
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("nlp_adv"):
                module = importlib.import_module(str(node.module))
                assert [one.name for one in node.names if not hasattr(module, one.name)] == []


def test_what_pages_leave():
    assert run("docs/howto/own_loop.md")["report"].loss.item() > 0
    shrink = run("docs/howto/extend.md")
    assert "shrink" in registry.all_methods()
    assert "shrink" not in METHODS
    result, ball = shrink["result"], 0.5
    assert float(result.norm(2).max()) == pytest.approx(ball / 2, rel=1e-4)
    found = run("docs/howto/compare.md")
    assert found["gain_at_equal_accuracy"](found["method"], found["plain"]).difference > 0


@pytest.mark.slow
def test_the_readmes_example_as_it_stands(capsys):
    """FreeLB is fooled less than plain training, at some cost in clean accuracy."""
    run("README.md", shorter=False)
    found = re.findall(r"(\d+) of 200 right, (\d+) after", capsys.readouterr().out)
    (plain, attacked), (freelb, robust) = ((int(a), int(b)) for a, b in found)
    assert robust > attacked
    assert min(plain, freelb) > 140


def test_every_world_belongs_to_a_page_with_code():
    assert set(page_worlds.WORLDS) <= set(WITH_CODE)
