"""Another process, or two that exchange tensors; they need not import anything anew."""

import contextlib
import os
import runpy
import socket
import sys
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch


def begun(function: Callable[..., Any], *args: Any, anew: bool = False) -> BaseProcess:
    """A process that runs the function: forked, but where there is a GPU, which forbids it.

    Args:
        function: what it runs.
        args: of the function.
        anew: begin a fresh one, which imports everything again.
    """
    context = get_context("spawn" if anew or torch.cuda.is_available() else "fork")
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


def found_by_two(function: Callable[..., Any], folder: Path, *args: Any) -> list[Any]:
    """What a function of (folder, …) returns in each of two processes of one gloo group."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Forked ones may crash among the threads that exchange tensors.
    given = port, function, folder, args
    both = [begun(_one_of_two, rank, *given, anew=True) for rank in (0, 1)]
    for process in both:
        process.join(timeout=300)
    assert [process.exitcode for process in both] == [0, 0]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)]


def _one_of_two(rank: int, port: int, function: Any, folder: Path, args: Any) -> None:
    from accelerate.state import AcceleratorState, GradientState

    # As `torchrun` sets them.
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    AcceleratorState._reset_state(reset_partial_state=True)  # of the process before it was forked
    GradientState._reset_state()
    torch.save(function(folder, *args), folder / f"rank{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
