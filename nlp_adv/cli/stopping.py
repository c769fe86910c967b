"""Ctrl-C and SIGTERM as one KeyboardInterrupt that is not forgotten."""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopping:
    """While it is entered, both signals raise KeyboardInterrupt in this process.

    Libraries may catch that and raise something else, such as "a worker has exited": `asked` says
    that the command was told to stop all the same. Processes that were forked meanwhile, such as
    the workers of a DataLoader, end at once and say nothing.
    """

    def __init__(self) -> None:
        self.asked = False
        self._process = os.getpid()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Stopping":
        if threading.current_thread() is threading.main_thread():  # others may not set handlers
            self._before = {one: signal.signal(one, self._stop) for one in _SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for one, handler in self._before.items():
            signal.signal(one, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.asked = True
        raise KeyboardInterrupt
