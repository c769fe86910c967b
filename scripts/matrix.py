"""Measures every method under every configuration of the Trainer and writes the table.

    python scripts/matrix.py                                     # what was not measured yet
    python scripts/matrix.py --columns plain DDP --again
    python scripts/matrix.py --methods cat lat     # beside what other packages measured

The cells are those of tests/training/cells.py, which the tests hold against their bounds. Each is
kept as soon as it was measured, so a run that was stopped goes on.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}
ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "training")]

import torch  # noqa: E402
from cells import CONFIGURATIONS, NAMES, UNCOMPARED, measured  # noqa: E402

from nlp_adv.folders import write_whole  # noqa: E402

RESULTS = ROOT / "recipes" / "results"
PACKAGES = ("torch", "transformers", "accelerate", "peft", "deepspeed")
HEAD = """# Methods under configurations of the Trainer

    python scripts/matrix.py

A cell is one training run by the Trainer and one by a naive loop: the loops of the papers as
[tests/parity](../../tests/parity) writes them in plain torch, around them the optimizer, the
accumulation, the clipping and the mean over processes
([naive_loops.py](../../tests/training/naive_loops.py)). The loop is told the run's minibatches,
random states and seeds, nothing else. Both train a BERT of two layers with dropout, for two steps
of SGD ({resumed}); `cat`, `capo`, `lat` and `rr` train a GPT-2 of two layers without dropout on
pairs of completions, since their loops make a pass for each group of rows. The number is the
largest difference of a weight at the end, as a share of the largest way that a weight went.
float64 rounds at 2e-16, float32 at 1e-7.

Two processes of one machine, on the CPU, with gloo, share the work in the columns DDP to ZeRO-3.
"""
NOTES = {
    "accumulation": "two micro-batches a step, `--adv_mend_loss_scaling`",
    "label smoothing": "0.1; transformers sums it in float32",
    "clipping": "`--max_grad_norm 0.5`",
    "bf16": "autocast of a float32 model, in both; a number rounds at 4e-3",
    "checkpointing": "gradient checkpointing; the loop has none",
    "LoRA": "peft, on queries and values, with dropout; the classifier trained whole",
    "NEFTune": "`--neftune_noise_alpha 5` beside the method; its size is computed in float32; it "
    "draws for a whole batch, so that loops with a pass for each group of rows are not compared",
    "resumed": "from the checkpoint after half of the steps; the loop goes through",
    "ZeRO-1": "and the other stages of DeepSpeed: a float32 model, in both",
}


def versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        if importlib.util.find_spec(package):
            found[package] = importlib.metadata.version(package)
    return found


def kept(path: Path, methods: list[str]) -> dict[str, Any]:
    """What an earlier run with the same packages measured; with others that of other methods."""
    if path.exists():
        found = json.loads(path.read_text("utf-8"))
        own = found.setdefault("versions_of", {})
        others = {name for cells in found["cells"].values() for name in cells} - {*methods}
        for name in methods:
            if own.get(name, found["versions"]) != versions():
                for cells in found["cells"].values():
                    cells.pop(name, None)
        if others and found["versions"] != versions():
            found["versions_of"] = own | {name: versions() for name in methods}
            return found
        if found["versions"] == versions():
            found["versions_of"] = {k: v for k, v in own.items() if k not in methods}
            return found
    return {
        "versions": versions(),
        "versions_of": {},
        "cells": {column: {} for column in CONFIGURATIONS},
    }


def measure(columns: list[str], methods: list[str], found: dict[str, Any], path: Path) -> None:
    """Fills the cells of the columns that are empty, writing after each."""
    begun = time.monotonic()
    for column in columns:
        cells = found["cells"].setdefault(column, {})
        wanted = [name for name in methods if (column, name) not in UNCOMPARED]
        missing = [name for name in wanted if name not in cells]
        if not importlib.util.find_spec(CONFIGURATIONS[column].needs):
            continue
        together = CONFIGURATIONS[column].processes == 2
        for names in [missing] * together if together else [[name] for name in missing]:
            if not names:
                continue
            made = measured(column, tuple(names))
            for name, cell in made.items():
                cells[name] = asdict(cell)
                said = cell.refused or f"{cell.difference:.1e}"
                print(f"{time.monotonic() - begun:5.0f} s  {column}, {name}: {said}", flush=True)
            write_whole(path, json.dumps(found, indent=1, ensure_ascii=False) + "\n")


def document(found: dict[str, Any]) -> str:
    """The table, then what was refused and what the columns are."""
    columns = [column for column in CONFIGURATIONS if found["cells"].get(column)]
    sentences: list[str] = []
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (1 + len(columns)) + "|"]
    for name in NAMES:
        row = [f"`{name}`"]
        row += [
            "–"
            if (column, name) in UNCOMPARED
            else _text(found["cells"][column].get(name), sentences)
            for column in columns
        ]
        lines.append("| " + " | ".join(row) + " |")
    refusals = [f"{mark}. {text}" for mark, text in enumerate(sentences, 1)]
    notes = [f"- {column}: {NOTES[column]}." for column in columns if column in NOTES]
    all_cells = [cell for column in columns for cell in found["cells"][column].values()]
    least = min(cell["effect"] for cell in all_cells if not cell["refused"])
    parts = [HEAD.format(resumed="four where a run is resumed"), "\n".join(lines)]
    parts += ["Refused, each with one sentence:", "\n".join(refusals)] if refusals else []
    parts += ["\n".join(notes)] if notes else []
    parts += [
        f"Without the attack the loop ends elsewhere, by {least:.2f} of that way at the least. "
        f"Measured with {_said(found['versions'])}."
    ]
    for other in {_said(one): one for one in found.get("versions_of", {}).values()}.values():
        names = [name for name in NAMES if found["versions_of"].get(name) == other]
        parts[-1] += f" {', '.join(f'`{name}`' for name in names)}: with {_said(other)}."
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _said(versions: dict[str, str]) -> str:
    return ", ".join(f"{package} {version}" for package, version in versions.items())


def _text(cell: dict[str, Any] | None, sentences: list[str]) -> str:
    if cell is None:
        return "not measured"
    if not cell["refused"]:
        return f"equal to {cell['difference']:.0e}" if cell["difference"] else "equal to the bit"
    if cell["refused"] not in sentences:
        sentences.append(cell["refused"])
    return f"refused ({sentences.index(cell['refused']) + 1})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--columns", nargs="+", choices=CONFIGURATIONS, default=[*CONFIGURATIONS])
    parser.add_argument("--methods", nargs="+", choices=NAMES, default=[*NAMES])
    parser.add_argument("--again", action="store_true", help="also what was measured already")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of matrix.md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    path = args.results / "matrix.json"
    found = kept(path, args.methods)
    for column in args.columns if args.again else ():
        for name in args.methods:
            found["cells"].setdefault(column, {}).pop(name, None)
    measure(args.columns, args.methods, found, path)
    write_whole(args.results / "matrix.md", document(found))


if __name__ == "__main__":
    main()
