"""One attack in one process and in two: are the records equal, and what does it cost?

    python scripts/two_processes.py --model_name_or_path MODEL --test_file MR.jsonl.gz \
        --neighbours counterfitted_neighbors.json.gz --folder FOLDER --results two_processes.md

Records are compared in their order, field by field; of confidences it is said by how much they
differ, since rounding depends on what else is in a batch. CPU time is that of all processes, with
loading. With --kill the second run loses its second process after so many seconds, and is taken up
again.
"""

import argparse
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from nlp_adv.robustness.record import Record
from nlp_adv.robustness.records import RECORDS, read_records

ONE = [sys.executable]
TWO = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]


def run(launcher: list[str], args: argparse.Namespace, folder: Path, kill: float) -> list[float]:
    """CPU and wall seconds of a run; killed after `kill` seconds of attack, where that is not 0."""
    command = [*launcher, "-m", "nlp_adv.cli.main", args.command]
    command += ["--model_name_or_path", args.model_name_or_path, "--test_file", args.test_file]
    command += ["--neighbours", args.neighbours, "--attacks", *args.attacks]
    command += [*args.more, "--max_examples", str(args.texts), "--output_dir", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    if kill:
        part = folder / "process-1" / RECORDS
        while process.poll() is None and not (part.exists() and part.stat().st_size):
            time.sleep(0.1)
        time.sleep(kill)
        os.kill(second_of(process.pid), signal.SIGKILL)
    if process.wait() and not kill:
        raise SystemExit(f"{' '.join(command)} failed.")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return [cpu, time.perf_counter() - began]


def second_of(launcher: int) -> int:
    """The process of RANK 1 among the children of a launcher."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    for child in children:
        if b"RANK=1" in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return int(child)
    raise SystemExit("There is no second process.")


def without_confidences(record: Record) -> Record:
    return replace(record, confidence=0.0, adversarial_confidence=0.0)


def compared(one: list[Record], two: list[Record]) -> tuple[int, int, float]:
    """Records that are equal to the last bit, that are but for confidences, and how far those."""
    pairs = list(zip(one, two, strict=True))
    exact = sum(first == second for first, second in pairs)
    equal = sum(without_confidences(a) == without_confidences(b) for a, b in pairs)
    names = ("confidence", "adversarial_confidence")
    apart = max(abs(getattr(a, name) - getattr(b, name)) for a, b in pairs for name in names)
    return exact, equal, apart


def main() -> None:
    args = arguments()
    folder = Path(args.folder)
    kinds = [("one process", ONE, 0.0), ("two processes", TWO, 0.0)]
    kinds += [("two, one of them killed", TWO, args.kill)] if args.kill else []
    rows, base = [], list[Record]()
    for name, launcher, kill in kinds:
        out = folder / name.replace(" ", "-").replace(",", "")
        if kill:
            run(launcher, args, out, kill)
            finished = sum(len(read_records(path)) for path in out.rglob(RECORDS))
            name = f"two, one killed after {finished} records, taken up again by two"
        cpu, wall = run(launcher, args, out, 0.0)
        records = read_records(out / RECORDS)
        base = base or records
        exact, equal, apart = compared(base, records)
        seen = f"{len({one.id for one in records})} × {len({one.title for one in records})}"
        rows.append(
            f"| {name} | {seen} | {equal} of {len(base)} | {exact} | {apart:.1g} | {cpu:.0f} | "
            f"{wall:.0f} |"
        )
        print(rows[-1], file=sys.stderr)
    head = ["run", "texts × attacks", "records equal", "to the last bit", "confidences apart by"]
    head += ["CPU s", "wall s"]
    table = "\n".join([f"| {' | '.join(head)} |", "|" + "---|" * len(head), *rows])
    shown = f"{args.command} … --attacks {' '.join(args.attacks)} {' '.join(args.more)}".strip()
    report = f"""# One attack in two processes

`nlp-adv {shown} --max_examples {args.texts}` on
{args.title}, alone and under
`torchrun --nproc_per_node 2`. Records are compared, in the order of the file, with those of one
process: equal in all but the confidences, whose rounding depends on what else is in a batch. One
thread a process; times with loading, on a machine of {os.cpu_count()} cores; its load average at
the end was {os.getloadavg()[0]:.1f}.

{table}

`python scripts/two_processes.py --model_name_or_path MODEL --test_file FILE --neighbours FILE \
--folder FOLDER --command {args.command} --attacks {" ".join(args.attacks)} --texts {args.texts} \
--kill {args.kill:g}{" --more=" + " ".join(args.more) if args.more else ""}`
"""
    print(report)
    if args.results:
        Path(args.results).write_text(report, encoding="utf-8")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_name_or_path", required=True)
    parser.add_argument("--test_file", required=True)
    parser.add_argument("--neighbours", required=True)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--command", default="attack", choices=["attack", "evaluate"])
    parser.add_argument("--attacks", nargs="+", default=["textfooler", "deepwordbug", "a2t"])
    parser.add_argument("--more", nargs="*", default=[], help="further flags of the command")
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--kill", type=float, default=0.0, help="seconds after the first records")
    parser.add_argument("--title", default="MODEL", help="model and texts, for the report")
    parser.add_argument("--results", help="a Markdown file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
