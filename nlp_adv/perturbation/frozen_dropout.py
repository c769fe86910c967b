"""One dropout mask for all passes of a step (FreeLB, §3.3), by replaying the random state.

Nothing in the model is touched: whatever draws random numbers in the forward pass draws the same
ones again, attention dropout inside fused kernels, layer drop and a mixup with numpy's or Python's
random numbers included. After the last pass the random streams stand where one ordinary forward
pass would have left them.
"""

import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch


class FrozenDropout:
    """Every `with frozen():` block starts from the random state in which this was made.

    Args:
        device: where the model runs. The CPU state is replayed as well: layer drop draws there.
        generators: sources of random numbers beside the global ones: a `torch.Generator`, numpy's
            `Generator` or `RandomState`, a `random.Random`.

    Cost: some twenty microseconds a pass on a CPU.
    """

    def __init__(self, device: torch.device, generators: Sequence[Any] = ()) -> None:
        self._device = device
        # Apple's module knows one device and takes no argument.
        self._where = () if device.type == "mps" else (device,)
        self._module = None if device.type == "cpu" else torch.get_device_module(device)
        self._cpu_state = torch.get_rng_state()
        self._device_state = self._module.get_rng_state(*self._where) if self._module else None
        sources = [*_globals(), *generators]
        self._host = [rewind for source in sources if (rewind := _rewind(source)) is not None]
        self._fresh = True

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Replay the state, run the block; if the block fails, put the state back."""
        if not self._fresh:  # the first pass already stands at the state
            self.restore()
        self._fresh = False
        with self.restored_on_error():
            yield

    @contextmanager
    def redrawn(self, seed: int) -> Iterator[None]:
        """The block draws other masks, from `seed`; after it the streams are at the state."""
        torch.default_generator.manual_seed(seed)
        if self._module is not None:
            other = torch.Generator(self._device).manual_seed(seed)
            self._module.set_rng_state(other.get_state(), *self._where)
        try:
            yield
        finally:
            self.restore()

    @contextmanager
    def restored_on_error(self) -> Iterator[None]:
        """Run the block; if it fails, put the state back."""
        try:
            yield
        except BaseException:
            self.restore()
            raise

    def restore(self) -> None:
        """Put the random streams back to where this was made."""
        torch.set_rng_state(self._cpu_state)
        if self._module is not None:
            self._module.set_rng_state(self._device_state, *self._where)
        for rewind in self._host:
            rewind()


def random_sources(*owners: Any) -> list[Any]:
    """The generators that objects keep as attributes, to be given to `FrozenDropout`."""
    values = [value for owner in owners for value in vars(owner).values()]
    return [value for value in values if _rewind(value) is not None]


def _globals() -> list[Any]:
    # The core needs torch alone: numpy's stream matters where somebody has loaded numpy.
    numpy = sys.modules.get("numpy")
    return [random, *([] if numpy is None else [numpy.random])]


def _put_back(generator: torch.Generator, state: torch.Tensor) -> None:
    generator.set_state(state)


def _rewind(source: Any) -> Callable[[], None] | None:
    """What puts a source of random numbers back to where it is now; None for all else."""
    if isinstance(source, random.SystemRandom):  # has no state
        return None
    if source is random or isinstance(source, random.Random):
        return partial(source.setstate, source.getstate())
    if isinstance(source, torch.Generator):
        return partial(_put_back, source, source.get_state())
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return None
    if source is numpy.random or isinstance(source, numpy.random.RandomState):
        return partial(source.set_state, source.get_state())
    if isinstance(source, numpy.random.Generator):
        return partial(setattr, source.bit_generator, "state", source.bit_generator.state)
    return None
