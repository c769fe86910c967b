"""Another process, which need not import anything anew."""

import contextlib
import runpy
import sys
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch


def begun(function: Callable[..., Any], *args: Any) -> BaseProcess:
    """A process that runs the function: forked, but where there is a GPU, which forbids it."""
    context = get_context("spawn" if torch.cuda.is_available() else "fork")
    process = context.Process(target=function, args=args)
    process.start()
    return process


def code_of(function: Callable[..., Any], *args: Any) -> int | None:
    """How such a process ended."""
    process = begun(function, *args)
    process.join(timeout=300)
    return process.exitcode


def forget(*packages: str) -> None:
    """The next import of these finds nothing loaded; for processes that end soon."""
    for name in [*sys.modules]:
        if name.partition(".")[0] in packages:
            del sys.modules[name]


def script(path: Path, argv: list[str], out: Path) -> None:
    """Run a script that begins by importing nlp_adv, and keep what it prints."""
    forget("nlp_adv", "models", "tiny_training")
    sys.argv = [str(path), *argv]
    with out.open("w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        runpy.run_path(str(path), run_name="__main__")
