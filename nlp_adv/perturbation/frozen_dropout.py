"""One dropout mask for all passes of a step (FreeLB, §3.3), by replaying the random state.

Nothing in the model is touched: whatever draws torch's random numbers in the forward pass draws
the same ones again, attention dropout inside fused kernels and layer drop included. After the last
pass the random stream stands where one ordinary forward pass would have left it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class FrozenDropout:
    """Every `with frozen():` block starts from the random state in which this was made.

    Args:
        device: where the model runs. The CPU state is replayed as well: layer drop draws there.

    Cost: a few microseconds a pass on a CPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # Apple's module knows one device and takes no argument.
        self._where = () if device.type == "mps" else (device,)
        self._module = None if device.type == "cpu" else torch.get_device_module(device)
        self._cpu_state = torch.get_rng_state()
        self._device_state = self._module.get_rng_state(*self._where) if self._module else None
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
