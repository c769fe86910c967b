"""Another process, which need not import anything anew."""

from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from typing import Any

import torch


def begun(function: Callable[..., Any], *args: Any) -> BaseProcess:
    """A process that runs the function: forked, but where there is a GPU, which forbids it."""
    context = get_context("spawn" if torch.cuda.is_available() else "fork")
    process = context.Process(target=function, args=args)
    process.start()
    return process
