"""All that a machine with a GPU can show, in one Markdown table.

    bash scripts/gpu_check.sh                              # writes recipes/results/gpu.md
    bash scripts/gpu_check.sh --device cpu --quick         # tries the script itself

Runs the tests that need a GPU (gradients beside a processor's, float16, bfloat16, attention,
torch.compile, methods that wait for the device), the bench of training in float32 and bfloat16, and
that of attacks on images. A part that fails stands in the table as failed, with its log; the others
go on, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Part:
    """One command, and whether what it prints belongs on the page."""

    name: str
    command: list[str]
    shown: bool = False


@dataclass(frozen=True)
class Result:
    """What came of a part."""

    part: Part
    status: int
    seconds: float
    printed: str
    log: Path

    @property
    def verdict(self) -> str:
        """Failed, or the last line that it printed."""
        said = self.printed.strip().splitlines()
        last = said[-1].strip("= ") if said else ""
        if self.status:
            return f"**failed**: {last} (`{self.log}`)"
        return "done" if self.part.shown else last


def parts(device: str, *, quick: bool) -> list[Part]:
    """In order; the quick ones are as small as they can be."""
    python = sys.executable
    bench = [python, "scripts/bench_training.py", "--device", device, "--no-memory"]
    if quick:
        bench += ["--repeats", "1", "--warmup", "0", "--batch", "2", "--length", "8"]
    attacks = [python, "scripts/bench_images.py", "--device", device]
    if quick:
        attacks += ["--rounds", "1", "--images", "8", "--only", "PGD, 10 steps"]
    tests = [python, "-m", "pytest", "-n", "0", "-q", "-m", "gpu", "tests"]
    return [
        Part("tests marked gpu", tests),
        Part("what a step costs, float32", bench, shown=True),
        Part("what a step costs, bfloat16", [*bench, "--bf16"], shown=True),
        Part("what attacks on images cost", attacks, shown=True),
    ]


def ran(part: Part, folder: Path, device: str) -> Result:
    """Run a part; its output is kept."""
    print(f"{part.name}: {shlex.join(part.command)}", file=sys.stderr, flush=True)
    environment = os.environ | {"NLP_ADV_TEST_DEVICE": device, "HF_HUB_OFFLINE": "1"}
    began = time.perf_counter()
    done = subprocess.run(
        part.command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    log = folder / f"{part.name.replace(' ', '_').replace(',', '')}.log"
    log.write_text(done.stdout + done.stderr, encoding="utf-8")
    return Result(part, done.returncode, time.perf_counter() - began, done.stdout, log)


def page(results: list[Result], device: str, command: str) -> str:
    """The table, and what the benches printed."""
    where = torch.cuda.get_device_name() if device == "cuda" else platform.processor()
    lines = [
        "# On an accelerator",
        "",
        f"`{command}`",
        "",
        f"{where or platform.machine()}; torch {torch.__version__}, transformers "
        f"{transformers.__version__}, Python {platform.python_version()}.",
        "",
        "| part | result | seconds |",
        "|---|---|---:|",
        *(f"| {one.part.name} | {one.verdict} | {one.seconds:.0f} |" for one in results),
    ]
    for one in results:
        if one.part.shown and not one.status:
            body = "\n".join(line for line in one.printed.splitlines() if line[:2] != "# ")
            lines += ["", f"## {one.part.name.capitalize()}", "", body.strip()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run all parts and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="smallest sizes: is the script whole?")
    parser.add_argument("--results", type=Path, default=ROOT / "recipes" / "results" / "gpu.md")
    parser.add_argument("--logs", type=Path, default=ROOT / "runs" / "gpu_check")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("There is no GPU that torch can use; --device cpu tries the script alone.")
    args.logs.mkdir(parents=True, exist_ok=True)
    results = [ran(one, args.logs, args.device) for one in parts(args.device, quick=args.quick)]
    command = shlex.join(["bash", "scripts/gpu_check.sh", *sys.argv[1:]])
    text = page(results, args.device, command)
    args.results.write_text(text, encoding="utf-8")
    print(text)
    raise SystemExit(any(one.status for one in results))


if __name__ == "__main__":
    main()
