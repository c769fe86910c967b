"""The process in which a script runs."""

import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

from nlp_adv.run.notes import VARIABLE, Orders, check_trained
from nlp_adv.run.words import name_of


def run(command: Sequence[str], flags: Mapping[str, Any]) -> int:
    """Run a command in whose processes every Trainer is adversarial.

    Args:
        command: see `words.command`.
        flags: fields of `RunArguments` and their values.

    Returns:
        Its exit code, as a shell has it: 128 + the signal that killed it.

    Raises:
        UserError: it ended well and nothing was adversarial.
        KeyboardInterrupt: this process was told to stop, and the command did.
    """
    with TemporaryDirectory(prefix="nlp_adv_run_") as folder:
        orders = Orders(flags, folder)
        code, stopped = _call(command, os.environ | _environment(orders))
        if code != 0 and stopped:
            raise KeyboardInterrupt
        if code == 0:
            check_trained(orders.notes(), name_of(command), flags["adv_trainer"])
    return code if code >= 0 else 128 - code


def _environment(orders: Orders) -> dict[str, str]:
    path = [str(Path(__file__).parent / "hook"), os.environ.get("PYTHONPATH")]
    return {VARIABLE: orders.text(), "PYTHONPATH": os.pathsep.join(filter(None, path))}


def _call(command: Sequence[str], environment: Mapping[str, str]) -> tuple[int, bool]:
    """Its exit code, and whether this process was told to stop meanwhile."""
    with subprocess.Popen(command, env=environment) as child, _passed_on(child) as signals:
        return child.wait(), bool(signals)


@contextmanager
def _passed_on(child: "subprocess.Popen[bytes]") -> Iterator[list[int]]:
    """Signals that this process gets go to the child, which decides how it ends."""
    got: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        # Ctrl-C on a terminal has reached the child already; a second one would cut its end short.
        if number != signal.SIGINT or got or not os.isatty(0):
            child.send_signal(number)
        got.append(number)

    if threading.current_thread() is not threading.main_thread():  # others may not set handlers
        yield got
        return
    before = {one: signal.signal(one, pass_on) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield got
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
