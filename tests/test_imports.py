"""Who may import whom (DESIGN.md, §2), and what `import nlp_adv` must not load."""

import ast
import sys
from importlib import import_module
from pathlib import Path

import forked
import pytest

import nlp_adv

ROOT = Path(nlp_adv.__file__).parent
PARTS = {
    "attacks",
    "cli",
    "data",
    "experiments",
    "images",
    "methods",
    "perturbation",
    "report",
    "robustness",
    "run",
    "sites",
    "training",
}

# Each part may import these parts; `errors`, which imports nothing, is open to all but the core.
MAY_IMPORT = {
    "perturbation": set(),
    "sites": {"perturbation"},
    "methods": {"perturbation"},
    "data": set(),
    "attacks": {"perturbation", "sites", "data"},
    "robustness": {"perturbation", "sites", "data", "attacks"},
    "report": {"perturbation", "sites", "data", "attacks", "robustness"},
    "training": {"perturbation", "sites", "methods", "data", "attacks"},
    "run": {"methods", "training"},
    "experiments": PARTS - {"cli"},
    "images": {"attacks", "sites"},  # the old address, for one version
    "cli": PARTS,
}
# These parts may import these packages and the standard library, nothing else.
THIRD_PARTY = {
    "errors": set(),
    "perturbation": {"torch"},
    "methods": {"torch"},
    "sites": {"torch", "transformers"},
}


def imported(source: str, package: str) -> set[str]:
    """Full names of the modules that a file of `package` imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*above * (node.level > 0), *filter(None, [node.module])])
            # `from nlp_adv import data` imports a part by its bare name.
            inside = {f"{base}.{alias.name}" for alias in node.names}
            names |= inside if base == "nlp_adv" else {base}
    return names


def parts(names: set[str]) -> set[str]:
    """The parts of nlp_adv among imported modules."""
    return {name.split(".")[1] for name in names if name.startswith("nlp_adv.")} & PARTS


def package_of(path: Path) -> str:
    return ".".join(("nlp_adv", *path.relative_to(ROOT).parent.parts))


def files() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def test_imports_are_read_in_every_form():
    source = """
import os, torch.nn as nn
from nlp_adv.sites.embeddings import EmbeddingTap
from nlp_adv import cli
def f():
    from ..robustness import x
    from . import y
if TYPE_CHECKING:
    import nlp_adv.training.trainer
"""
    names = imported(source, "nlp_adv.methods")
    assert {"os", "torch.nn", "nlp_adv.sites.embeddings", "nlp_adv.cli"} <= names
    assert {"nlp_adv.robustness", "nlp_adv.methods", "nlp_adv.training.trainer"} <= names
    assert parts(names) == {"sites", "cli", "robustness", "methods", "training"}


def test_every_part_is_in_the_table():
    found = {path.relative_to(ROOT).parts[0] for path in files() if path.parent != ROOT}
    assert found <= PARTS
    assert {"perturbation", "methods", "sites"} <= found


def fault_of(path: Path) -> str:
    """What the file imports and its part may not; nothing where all is well."""
    names = imported(path.read_text(encoding="utf-8"), package_of(path))
    part = path.relative_to(ROOT).parts[0] if path.parent != ROOT else path.stem
    if path.stem == "__main__":  # a way to type a command, whichever part it lies in
        part = "cli"
    refused = parts(names) - MAY_IMPORT.get(part, PARTS - {"cli"}) - {part}
    if part in THIRD_PARTY:
        roots = {name.split(".")[0] for name in names}
        refused |= roots - THIRD_PARTY[part] - {"nlp_adv"} - sys.stdlib_module_names
    if part == "perturbation":
        refused |= {name for name in names if name.startswith("nlp_adv.errors")}
    return f"{path.relative_to(ROOT)}: {sorted(refused)}" if refused else ""


def test_each_file_imports_what_its_part_may():
    assert len(files()) > 200
    assert list(filter(None, map(fault_of, files()))) == []


HEAVY = ("transformers", "datasets", "evaluate", "sklearn", "accelerate", "matplotlib")


def imports_nothing_heavy(module: str) -> None:
    forked.forget("nlp_adv", *HEAVY)
    sys.modules |= dict.fromkeys(HEAVY)  # importing one is an error
    import_module(module)


@pytest.mark.parametrize("module", ["nlp_adv", "nlp_adv.perturbation", "nlp_adv.methods"])
def test_importing_the_core_loads_neither_transformers_nor_datasets(module):
    assert forked.code_of(imports_nothing_heavy, module) == 0


def test_what_is_heavy_is_found():
    assert forked.code_of(imports_nothing_heavy, "nlp_adv.training.trainer") == 1
