"""What happens to transformers' Trainer when a process of a run imports it.

Little is imported here: the script has just begun.
"""

import functools
import sys
from types import TracebackType
from typing import Any

from nlp_adv.errors import UserError
from nlp_adv.run.notes import Orders


def patch(trainer: Any, orders: Orders) -> None:
    """Let every instance of the class and its subclasses become adversarial as it is built.

    The name stays bound to the same class, so it does not matter how a script imports it, what it
    derives from it, or when. `inspect.signature` still sees the stock `__init__`.
    """
    stock = trainer.__init__

    @functools.wraps(stock)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        from nlp_adv.run.trainers import build

        build(self, lambda: stock(self, *args, **kwargs), orders)

    trainer.__init__ = __init__


def say_in_one_sentence() -> None:
    """End a process on a UserError without a traceback; on all else as before."""
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, UserError):
            print(f"nlp-adv run: error: {error}", file=sys.stderr)
        else:
            before(kind, error, trace)

    sys.excepthook = hook
