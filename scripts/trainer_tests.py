"""Runs transformers' own Trainer tests with the stock Trainer and with ours in its place.

    nice python scripts/trainer_tests.py CHECKOUT [tests/trainer/FILE.py ...] [--adv none fgm]

CHECKOUT holds transformers' `tests/trainer` and need not be of the version that is installed; the
tests need `parameterized`, and many are skipped without `sentencepiece`. A file of tests is one
process for the stock Trainer and one under `nlp-adv run --adv NAME` for each method; what has run
before is not run again (`--again` does). Nothing is taken from the network. What was counted stands
in recipes/results/trainer_tests.md after each file.
"""

import argparse
import os
import re
import subprocess
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "recipes" / "results" / "trainer_tests.md"
PLUGINS = Path(__file__).parent / "pytest_plugins"
LEFT_OUT = ("distributed", "fsdp", "tpu", "deepspeed", "parallel")
STOCK = "stock"
PLUGIN = "trainer_tests_noted"
CAUSES = {
    "training has diverged": "The test lets a run diverge with a learning rate of 1e9, which ours "
    "stops by design; it passes with --adv_nonfinite_steps 0.",
    "has no nn.Embedding": "Rightly refused: there is no word to perturb.",
}


class Outcome(NamedTuple):
    """How one test ended.

    Attributes:
        ended: "passed", "failed" or "skipped"; an error is a failure.
        message: first line of what a failure says.
        trained: trainings of ours that began in it.
        refused: nlp_adv said in a sentence why it does not train this.
    """

    ended: str
    message: str = ""
    trained: int = 0
    refused: bool = False


def files_of(checkout: Path) -> list[str]:
    """The test files that one process without an accelerator can run."""
    found = sorted(checkout.glob("tests/trainer/test_*.py"))
    return [
        str(one.relative_to(checkout))
        for one in found
        if not any(word in one.name for word in LEFT_OUT)
    ]


def command(which: str, file: str) -> list[str]:
    """What runs a test file, with the stock Trainer or with a method of ours."""
    ours = [] if which == STOCK else ["-m", "nlp_adv.run", "--adv", which]
    return [sys.executable, *ours, "-m", "pytest", "-n", "0", "-q", "-p", PLUGIN, file]


def result_of(folder: Path, which: str, file: str) -> Path:
    """Where pytest's own record lies."""
    return folder / which / f"{Path(file).stem}.xml"


def run(checkout: Path, folder: Path, which: str, file: str, *, again: bool) -> None:
    """Run a test file unless its record is there; what was stopped half-way has none."""
    result = result_of(folder, which, file)
    if result.exists() and not again:
        return
    print(f"=== {which}: {file}", flush=True)
    result.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(PLUGINS), os.environ.get("PYTHONPATH", ""))),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    unfinished = result.with_suffix(".part")
    asked = [*command(which, file), "--junitxml", str(unfinished)]
    with result.with_suffix(".log").open("w") as log:
        subprocess.run(
            asked, cwd=checkout, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False
        )
    if unfinished.exists():
        unfinished.replace(result)


def outcomes(result: Path) -> dict[str, Outcome]:
    """By the test's name."""
    if not result.exists():
        return {}
    cases = ElementTree.parse(result).getroot().iter("testcase")
    return {f"{one.get('classname')}::{one.get('name')}": _outcome(one) for one in cases}


def _outcome(case: ElementTree.Element) -> Outcome:
    told = [(one.get("name"), one.get("value")) for one in case.iter("property")]
    trained = sum(int(value or 0) for name, value in told if name == "trained")
    refused = any(name == "refused" for name, _ in told)
    for kind, ended in (("failure", "failed"), ("error", "failed"), ("skipped", "skipped")):
        found = case.find(kind)
        if found is not None:
            message = (found.get("message") or "").splitlines()[:1]
            refused = refused or "UserError" in "".join(message)
            return Outcome(ended, "".join(message), trained, refused)
    return Outcome("passed", "", trained, refused)


def compare(folder: Path, file: str, which: str) -> list[tuple[str, Outcome, Outcome]]:
    """Each test of a file with its two outcomes, the stock Trainer's and ours, once both ran."""
    stock = outcomes(result_of(folder, STOCK, file))
    ours = outcomes(result_of(folder, which, file))
    if not ours:
        return []
    none = Outcome("not run")
    return [(name, one, ours.get(name, none)) for name, one in stock.items()]


def row(folder: Path, file: str, methods: list[str]) -> str:
    """A line of the table: what was counted in one file."""
    ended = Counter(one.ended for one in outcomes(result_of(folder, STOCK, file)).values())
    cells: list[object] = [sum(ended.values())]
    cells += [ended[one] for one in ("skipped", "failed", "passed")]
    for method in methods:
        ours = [ours for _, stock, ours in compare(folder, file, method) if stock.ended == "passed"]
        passed = [one for one in ours if one.ended == "passed"]
        refused = sum(one.refused for one in ours if one.ended == "failed")
        counted = [len(passed), sum(one.trained > 0 for one in passed), refused]
        cells += counted if result_of(folder, method, file).exists() else ["not run", "", ""]
    return f"| {Path(file).name} | {' | '.join(map(str, cells))} |"


def differences(folder: Path, files: list[str], method: str) -> list[str]:
    """Lines on the tests that end otherwise than with the stock Trainer, by what they say."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for file in files:
        for name, stock, ours in compare(folder, file, method):
            if stock.ended != ours.ended:
                said = _plain(ours.message or stock.message)
                short = f"`{name.split('.')[-1]}`"
                found.setdefault((stock.ended, ours.ended, said), []).append(short)
    lines = []
    for (stock_ended, ended, said), names in found.items():
        cause = next((cause for part, cause in CAUSES.items() if part in said), "")
        how = f"{len(names)} {stock_ended} and {ended} with ours"
        lines.append(f"- {how}: “{said}” {cause + ' ' if cause else ''}{', '.join(names)}")
    return lines or ["None."]


def _plain(message: str) -> str:
    """Without what differs from test to test: models, numbers of bytes, temporary folders."""
    message = message.removeprefix("nlp_adv.errors.UserError: ")
    message = re.sub(r"^\w*Model has no nn", "The model has no nn", message)
    return re.sub(r"/tmp/\S+|\d{4,}", "…", message)[:240]


def failures(folder: Path, files: list[str]) -> list[str]:
    """What tests say that fail with the stock Trainer, and how many say it."""
    all_of = [outcomes(result_of(folder, STOCK, file)).values() for file in files]
    failed = (one for found in all_of for one in found if one.ended == "failed")
    said = Counter(_plain(one.message)[:160] for one in failed)
    return [f"- {number}: {sentence}" for sentence, number in said.most_common()] or ["None."]


def report(folder: Path, checkout: Path, files: list[str], methods: list[str]) -> str:
    """The whole result file."""
    columns = ["file", "tests", "skipped", "failed with the stock Trainer too", "passed"]
    for method in methods:
        columns += [f"passed under {method}", "of them trained", "refused"]
    head = HEAD.format(
        checkout=version_of(checkout), transformers=version("transformers"), torch=version("torch")
    )
    lines = [head, f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    lines += [row(folder, file, methods) for file in files]
    for method in methods:
        lines += ["", f"## Outcomes that differ under --adv {method}", ""]
        lines += differences(folder, files, method)
    lines += ["", "## What fails with the stock Trainer", ""]
    lines += failures(folder, files)
    return "\n".join(lines) + "\n"


def version_of(checkout: Path) -> str:
    """That of the checkout, as its setup.py has it."""
    setup = checkout / "setup.py"
    found = setup.exists() and re.search(r'version="([^"]+)"', setup.read_text("utf-8"))
    return found[1] if found else "unknown"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path)
    parser.add_argument("files", nargs="*", help="test files, from the checkout (default: all)")
    parser.add_argument("--adv", nargs="+", default=["none", "fgm"], help="methods")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "trainer_tests")
    parser.add_argument("--table", type=Path, default=TABLE, help="where the result is written")
    parser.add_argument("--again", action="store_true", help="run what has a result, too")
    args = parser.parse_args(argv)
    checkout, folder = args.checkout.resolve(), args.folder.resolve()
    files = files_of(checkout)
    if not files:
        parser.error(f"{checkout} has no tests/trainer/test_*.py.")
    for file in args.files or files:
        for which in (STOCK, *args.adv):
            run(checkout, folder, which, file, again=args.again)
        args.table.write_text(report(folder, checkout, files, args.adv), "utf-8")
        print(row(folder, file, args.adv), flush=True)


HEAD = """# transformers' own Trainer tests

Written by `nice python scripts/trainer_tests.py CHECKOUT`: tests/trainer of transformers
{checkout}, run by transformers {transformers} and torch {torch} on a CPU without a network. Each
file ran with the stock Trainer, and under `nlp-adv run --adv NAME`, which makes every Trainer that
a test builds ours. Left out are the files for several processes and accelerators.

"passed under" counts only tests that pass with the stock Trainer. In those "of them trained" a
training of ours began; the others look at a Trainer, or build none. "refused": they fail since
nlp_adv says in a sentence why it does not train. That is the rule for an attack: where it can be
made the test counts, and where it cannot, training as if nothing were asked would be wrong.
"""

if __name__ == "__main__":
    main()
