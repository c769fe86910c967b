"""Runs the core, trainer and command-line tests with the oldest and the newest versions allowed.

    nice python scripts/versions.py oldest newest [--folder FOLDER] [--again] [tests/FILE ...]

Each is a fresh virtual environment in FOLDER: the lower bounds of pyproject.toml, and the newest
that pip finds, with the extras of other Trainers. torch is the same in both (`--torch`). A file of
tests is one process, and one that has run before is not run again (`--again` does). What was
counted stands in recipes/results/versions.md after each.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import tomllib

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "recipes" / "results" / "versions.md"
GROUPS = {
    "core": ("methods", "perturbation", "sites", "robustness/test_embedding_attack.py"),
    "trainer": (
        "training/test_trainer.py",
        "training/test_checkpoints.py",
        "training/test_ddp.py",
        "training/test_trl.py",
        "training/test_sentence_transformers.py",
    ),
    "command line": ("cli/test_train_command.py",),
}
SHOWN = ("torch", "transformers", "accelerate", "datasets", "evaluate", "tokenizers")
SHOWN += ("huggingface_hub", "numpy", "scipy", "scikit-learn", "matplotlib", "pyarrow")
SHOWN += ("trl", "peft", "sentence-transformers")
TOOLS = ["pytest", "pytest-xdist", "hypothesis"]
Counts = dict[str, int]


def requirements(which: str, torch: str) -> list[str]:
    """What pip is asked for: torch, what the package needs and what the tests need."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    needed = [one for one in project["dependencies"] if not one.startswith("torch>")]
    extras = project["optional-dependencies"]
    if which == "oldest":
        bounds = [one.split(",")[0].replace(">=", "==") for one in needed]
        return [torch, *bounds, *extras["images"], *extras["sweep"], *TOOLS]
    others = [one for name, extra in extras.items() if name != "test" for one in extra]
    return [torch, *needed, *others, *TOOLS]


def install(folder: Path, asked: list[str]) -> Path:
    """The Python of an environment with `asked`, made where there is none yet."""
    python, done = folder / "bin" / "python", folder / "requirements.json"
    if not done.exists() or json.loads(done.read_text("utf-8")) != asked:
        print(f"=== {folder.name}: pip install {' '.join(asked)}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", *asked], check=True)
        done.write_text(json.dumps(asked), "utf-8")
    return python


def command(tests: str) -> list[str]:
    """What a file or folder of tests is run with, after the Python."""
    return ["-m", "pytest", "-n", "0", "-q", f"tests/{tests}"]


def run(python: Path, tests: str, *, again: bool) -> None:
    """Run the tests unless their result lies in the environment's folder."""
    result = result_of(python.parents[1], tests)
    if result.exists() and not again:
        return
    print(f"=== {python.parents[1].name}: tests/{tests}", flush=True)
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(python.parents[1] / "cache"),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    unfinished = result.with_suffix(".part")
    asked = [str(python), *command(tests), "--junitxml", str(unfinished)]
    subprocess.run(asked, cwd=ROOT, env=environment, check=False)
    if unfinished.exists():  # what was stopped half-way has none
        unfinished.replace(result)


def result_of(folder: Path, tests: str) -> Path:
    """Where pytest's own record of these tests lies."""
    (folder / "results").mkdir(exist_ok=True)
    return folder / "results" / f"{tests.removesuffix('.py').replace('/', '-')}.xml"


def counts(result: Path) -> Counts:
    """How many tests passed, failed and were skipped; an error is a failure."""
    suites = ElementTree.parse(result).getroot().iter("testsuite")
    total = {"passed": 0, "failed": 0, "skipped": 0}
    for suite in suites:
        tests, *others = (int(suite.get(name, 0)) for name in ("tests", "failures", "errors"))
        skipped = int(suite.get("skipped", 0))
        total["failed"] += sum(others)
        total["skipped"] += skipped
        total["passed"] += tests - sum(others) - skipped
    return total


def versions(python: Path) -> dict[str, str]:
    """The version of each distribution installed there."""
    asked = [str(python), "-m", "pip", "list", "--format", "json"]
    listed = json.loads(subprocess.run(asked, check=True, capture_output=True).stdout)
    return {one["name"].lower().replace("_", "-"): one["version"] for one in listed}


def table(pythons: dict[str, Path]) -> str:
    """Versions first, then what was counted, both by environment."""
    installed = {which: versions(python) for which, python in pythons.items()}
    lines = [f"| | {' | '.join(pythons)} |", "|---" * (1 + len(pythons)) + "|"]
    for name in SHOWN:
        found = (one.get(name.replace("_", "-"), "–") for one in installed.values())
        lines.append(f"| {name} | {' | '.join(found)} |")
    for group, paths in GROUPS.items():
        for path in paths:
            cells = (_cell(result_of(python.parents[1], path)) for python in pythons.values())
            lines.append(f"| {group}: `tests/{path}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(result: Path) -> str:
    if not result.exists():
        return "not run"
    return ", ".join(f"{number} {name}" for name, number in counts(result).items() if number)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", help="oldest, newest, files of tests (default: all)")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "versions")
    parser.add_argument("--torch", default="torch==2.13.0", help="the same for all")
    parser.add_argument("--again", action="store_true", help="run what has a result, too")
    args = parser.parse_args()
    names = [one for one in args.what if one in ("oldest", "newest")] or ["oldest", "newest"]
    asked_for = [one.removeprefix("tests/") for one in args.what if one.startswith("tests/")]
    args.folder.mkdir(parents=True, exist_ok=True)
    pythons = {
        which: install(args.folder.resolve() / which, requirements(which, args.torch))
        for which in names
    }
    for which in names:
        for path in asked_for or [path for paths in GROUPS.values() for path in paths]:
            run(pythons[which], path, again=args.again)
            TABLE.write_text(HEAD.format(torch=args.torch) + table(pythons) + "\n", "utf-8")
            print(table(pythons), flush=True)


HEAD = """# The oldest and the newest versions

Written by `nice python scripts/versions.py`: the oldest are the lower bounds of pyproject.toml,
the newest what pip finds. Each file is one `python -m pytest -n 0 -q FILE` without the slow tests.
torch is a CPU build and the same in both (`{torch}`): its own range is not tested here.
transformers 5.17 cannot resume on several processes of a CPU; `test_ddp.py` leaves that out there.

"""

if __name__ == "__main__":
    main()
