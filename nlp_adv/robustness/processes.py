"""Several processes at one evaluation, as `accelerate launch` and `torchrun` start them.

They share the examples and a folder. The first one is the main process: it holds the folder, shows
how far all of them are, and puts together what they found. What they tell each other goes through
the key-value store that their launcher gave them, and they wait for each other by looking there
again and again: no collective call, so that a signal or a failure elsewhere ends a wait at once.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from nlp_adv.errors import UserError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

PAUSE = 0.05  # seconds between two looks
_OF, _INDEX = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE"), ("RANK", "OMPI_COMM_WORLD_RANK")
T = TypeVar("T")


class AnotherFailed(Exception):
    """Another process failed, and says why."""


class Processes:
    """This process among those of one run; without arguments it is alone.

    All of them make the same evaluations in the same order.

    Args:
        index: its number, from 0, which is the main process.
        of: how many there are.
        store: what they tell each other.
    """

    def __init__(self, index: int = 0, of: int = 1, store: Store | None = None) -> None:
        self.index, self.of, self._store = index, of, store
        self._run, self._first = 0, None if of > 1 else True

    @property
    def main(self) -> bool:
        """Whether it is the first."""
        return self.index == 0

    @property
    def others(self) -> range:
        """The numbers of all but the main process."""
        return range(1, self.of)

    def share(self, portions: Iterable[T], turn: int = 0) -> Iterator[T]:
        """Every n-th portion; those of all processes are each portion once.

        Args:
            portions: the same in every process.
            turn: how many were dealt out before.
        """
        return islice(portions, (self.index - turn) % self.of, None, self.of)

    def tell(self, what: str, value: Any = None) -> None:
        """Let the others know something of this evaluation, as JSON."""
        if self._store is not None:
            self._store.set(f"{self._run}/{what}/{self.index}", json.dumps(value))

    def hear(self, what: str, index: int, meanwhile: Callable[[], object] = bool) -> Any:
        """Wait for what a process tells.

        Raises:
            AnotherFailed: one of them did.
        """
        while not self._there(f"{self._run}/{what}/{index}"):
            self.check()
            meanwhile()
            time.sleep(PAUSE)
        return self.told(what, index)

    def told(self, what: str, index: int) -> Any:
        """What a process told last; None where it told nothing."""
        key = f"{self._run}/{what}/{index}"
        assert self._store is not None
        return json.loads(self._store.get(key)) if self._there(key) else None

    def check(self) -> None:
        """Go on where no process has failed.

        Raises:
            AnotherFailed: one of them did.
        """
        if self._there("failed"):
            raise AnotherFailed

    def fails(self) -> bool:
        """Let the others know that this process failed; whether it is the first, which says why."""
        if self._first is None:
            assert self._store is not None
            try:
                self._first = self._store.add("failed", 1) == 1
            except RuntimeError:  # the store has gone with the main process
                self._first = False
        return bool(self._first)

    @contextmanager
    def together(self) -> Iterator[None]:
        """One evaluation: what ends it in one process ends it in all of them."""
        self._run += 1
        try:
            yield
        except BaseException:
            self.fails()
            raise

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Only the main process prints."""
        with ExitStack() as redirected:
            if not self.main:
                # Loggers that are made meanwhile keep it, so that it stays open.
                nowhere = open(os.devnull, "w")  # noqa: SIM115
                redirected.enter_context(redirect_stdout(nowhere))
                redirected.enter_context(redirect_stderr(nowhere))
            yield

    def _there(self, key: str) -> bool:
        if self._store is None:
            return False
        try:
            return bool(self._store.check([key]))
        except RuntimeError as error:  # it has gone with the main process
            raise AnotherFailed from error


ALONE = Processes()


@cache
def launched() -> Processes:
    """The processes that a launcher started; without one this process is alone.

    Raises:
        UserError: the launcher's store cannot be reached.
    """
    of, index = (_number(names) for names in (_OF, _INDEX))
    if index is None or of is None or of < 2:
        if _one_of_several():
            print(
                "Note: accelerate launch starts one process on a CPU, whatever --num_processes "
                "says; for N take `torchrun --nproc_per_node N -m nlp_adv.cli.main …`.",
                file=sys.stderr,
            )
        return ALONE
    from torch._C._distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    try:
        store, index, of = next(iter(rendezvous("env://", rank=index, world_size=of)))
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"The {of} processes cannot reach each other ({' '.join(str(error).split())}); start "
            f"them by accelerate launch or torchrun."
        ) from error
    return Processes(index, of, PrefixStore("nlp_adv", store))


def _number(names: Iterable[str]) -> int | None:
    found = (os.environ.get(name, "") for name in names)
    return next((int(one) for one in found if one.isdecimal()), None)


def _one_of_several() -> bool:
    """Whether accelerate was asked for several processes on a CPU and started this one alone."""
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"
    return on_cpu and "MASTER_PORT" in os.environ and _number(_INDEX) is None
