"""The command line in this process, on sentences and models of a fraction of a second."""

import contextlib
import io
import json
import re
from pathlib import Path
from typing import NamedTuple

from nlp_adv.cli.main import main

WORDS = {"good": ("superb", "bright", "warm", "clever"), "bad": ("dull", "grey", "cold", "stale")}
NOUNS = ("plot", "cast", "score", "end", "joke")
TINY_DEMO = {"max_train_samples": 64, "max_eval_samples": 32, "num_train_epochs": 1}


def sentences(noun: str) -> list[dict]:
    """Eight rows about one noun, their labels words."""
    return [
        {"text": f"the {noun} is {word}", "label": label}
        for pair in zip(*WORDS.values(), strict=True)
        for word, label in zip(pair, WORDS, strict=True)
    ]


SPLITS = {
    "train": [row for noun in NOUNS[:3] for row in sentences(noun)],
    "validation": sentences(NOUNS[3]),
    "test": sentences(NOUNS[4]),
}


TEXTS = [row for rows in SPLITS.values() for row in rows]


class Run(NamedTuple):
    """What one call of the command left."""

    code: int
    out: str
    err: str


def flags(settings: dict) -> list[str]:
    argv = []
    for name, value in settings.items():
        values = value if isinstance(value, (list, tuple)) else [value]
        argv += [f"--{name}", *map(str, values)]
    return argv


def typed(command: str, *words: object, **settings) -> Run:
    """The command in this process, with these flags and no other."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([command, *map(str, words), *flags(settings)])
    return Run(code, out.getvalue(), err.getvalue())


def call(*argv: str, command: str = "train", **settings) -> Run:
    """The command in this process, on the CPU."""
    return typed(command, *argv, **{"use_cpu": True, **settings})


def columns(run: Run) -> list[dict[str, str]]:
    """The table's cells by column, which two spaces part."""
    lines = run.out.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("training "))
    head, _, *rows = lines[start:]
    names = re.split(r"  +", head.strip())
    cells = [re.split(r"  +", row.strip()) for row in rows[: rows.index("")]]
    return [dict(zip(names, row, strict=True)) for row in cells]


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


BRIEF = {
    "max_steps": 5,
    "per_device_train_batch_size": 4,
    "learning_rate": 3e-3,
    "save_strategy": "no",
    "disable_tqdm": True,
    "report_to": "none",
}


def refused(run: Run, *words: str, command: str = "train") -> None:
    """Exit code 2 and one sentence."""
    assert run.code == 2, run
    assert run.out == ""
    lines = run.err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"nlp-adv {command}: error: ")
    assert "Traceback" not in lines[0]
    for word in words:
        assert word in lines[0], lines[0]


def refused_without_trace(
    work: Path, settings: dict, words: list[str], command: str = "train"
) -> None:
    before = snapshot(work)
    run = call(command=command, **settings)
    assert snapshot(work) == before
    refused(run, *words, command=command)


def refused_last(run: Run, *words: str) -> None:
    """Exit code 2, and one sentence after what was said on the way."""
    assert run.code == 2, run
    last = run.err.strip().splitlines()[-1]
    assert all(word in last for word in words), last
