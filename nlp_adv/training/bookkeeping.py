"""What a Trainer counts in `compute_loss`, counted once a micro-batch."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_SMALL = 4096  # numbers in a tensor that holds a count; larger ones are data
_ENTRIES = 1000  # of a dictionary that holds metrics; larger ones are data
_DATA = ("train_dataset", "eval_dataset")

_Restore = Callable[[], None]


class Bookkeeping:
    """A Trainer's attributes, to be put back after a pass that shall not count.

    A subclass may append to `self.losses`, add to `self.tokens_seen` or fill dictionaries of lists
    as trl does. Several passes a step would count everything several times. Rebound attributes,
    and lists, dictionaries, sets, deques and small tensors that were changed in place are put back;
    what lies in other objects, such as a logger, is out of reach and sees every pass.

    Args:
        trainer: whose attributes they are.
    """

    def __init__(self, trainer: Any) -> None:
        self._attributes = vars(trainer)

    @contextmanager
    def kept(self, counts: bool) -> Iterator[None]:
        """Run the block; what it counted is kept if `counts` holds and it does not raise."""
        before = dict(self._attributes)
        restores = [
            restore
            for name, value in before.items()
            if name not in _DATA and (restore := _restore(value)) is not None
        ]
        done = False
        try:
            yield
            done = counts
        finally:
            if not done:
                self._attributes.clear()
                self._attributes.update(before)
                for restore in restores:
                    restore()


def _restore(value: Any, depth: int = 3) -> _Restore | None:
    """What puts the content of a container or a small tensor back; None for all else."""
    if isinstance(value, list):
        return _restore_list(value, list(value))
    if isinstance(value, set | deque):
        return _restore_by(value, list(value), value.update if isinstance(value, set) else None)
    if isinstance(value, dict) and len(value) <= _ENTRIES:
        return _restore_dict(value, depth)
    if isinstance(value, Tensor) and type(value) is Tensor and value.numel() <= _SMALL:
        return _restore_tensor(value)
    return None


def _restore_list(value: list[Any], content: list[Any]) -> _Restore:
    def restore() -> None:
        value[:] = content

    return restore


def _restore_by(value: Any, content: list[Any], add: Callable[[Any], Any] | None) -> _Restore:
    add = add or value.extend

    def restore() -> None:
        value.clear()
        add(content)

    return restore


def _restore_dict(value: dict[Any, Any], depth: int) -> _Restore:
    content = dict(value)
    inner = [_restore(v, depth - 1) for v in content.values()] if depth else []

    def restore() -> None:
        value.clear()
        value.update(content)
        for one in inner:
            if one is not None:
                one()

    return restore


def _restore_tensor(value: Tensor) -> _Restore | None:
    version, content = value._version, value.detach().clone()

    def restore() -> None:
        if value._version != version:
            with torch.no_grad():
                value.copy_(content)

    return restore
