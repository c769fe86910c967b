"""A look at a minibatch: what runs at a site, how often, and what it is called with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from nlp_adv.perturbation.inner_pass import inner_pass
from nlp_adv.sites.taps import EmbeddingError, Seen, Tap, hidden_states, replaced_states

Calls = tuple[bool, ...]
"""Of each call of a module in a forward pass, in order: whether it had a graph."""

_KNOWN: WeakKeyDictionary[nn.Module, dict[Any, dict[Any, Calls]]] = WeakKeyDictionary()


class Kind:
    """Minibatches of one kind, which call the modules of a site equally often.

    The calls are counted in one whole forward pass, the first time that a minibatch of a kind
    comes; afterwards a look stops at the last of them. They depend on the function that runs the
    model, on the names and the strings of the batch, on training or evaluation, and on the number
    of rows, unless as many or more rows made one call alone.

    Args:
        model: not wrapped.
        batch: the minibatch.
        forward: what runs the model on it.
    """

    def __init__(
        self, model: nn.Module, batch: Mapping[str, Any], forward: Callable[..., object]
    ) -> None:
        while hasattr(forward, "func"):  # functools.partial
            forward = forward.func
        # A function that is made anew for each step has the same code.
        code = getattr(getattr(forward, "__func__", forward), "__code__", type(forward))
        names = tuple((key, v if isinstance(v, str) else None) for key, v in batch.items())
        self._key = code, model.training, names
        shapes = [v.shape for v in batch.values() if isinstance(v, Tensor) and v.ndim]
        rows = [
            shape[0] for shape in shapes if len(shape) > 1
        ]  # bounds of packed texts are no rows
        self._rows = tuple(rows or [shape[0] for shape in shapes])

    def known(self, tap: Tap) -> Calls | None:
        """The calls of a module; None where they were not counted yet."""
        by_rows = self._of(tap)
        once = all(calls == (True,) for calls in by_rows.values())
        # A loss that goes through its batch in pieces calls once where there are few rows.
        if once and any(_no_more(self._rows, rows) for rows in by_rows):
            return (True,)
        return by_rows.get(self._rows)

    def remember(self, tap: Tap, calls: Calls) -> None:
        """For the next minibatch of this kind."""
        self._of(tap)[self._rows] = calls

    def forget(self, tap: Tap) -> None:
        """They were other ones after all."""
        self._of(tap).clear()

    @staticmethod
    def forget_all(tap: Tap) -> None:
        """A run begins, whose loss may be another one."""
        _KNOWN.pop(tap.module, None)

    def _of(self, tap: Tap) -> dict[Any, Calls]:
        kinds = _KNOWN.setdefault(tap.module, {})
        return kinds.setdefault((*self._key, tap.within is None), {})


def _no_more(rows: Sequence[int], others: Sequence[int]) -> bool:
    return len(rows) == len(others) and all(a <= b for a, b in zip(rows, others, strict=True))


class Looked:
    """What one forward pass calls a module with.

    Attributes:
        seen: the calls with a graph; where there is none, the first one without.
        calls: of all calls that were seen, whether they had a graph.
    """

    def __init__(self, tap: Tap, known: Calls | None) -> None:
        self.tap, self.seen, self.calls = tap, list[Seen](), Calls()
        self._known = known

    @property
    def complete(self) -> bool:
        """All of its calls with a graph were seen, as far as they are known."""
        return self._known is not None and sum(self.calls) >= sum(self._known)

    @property
    def pattern(self) -> Calls:
        """Of all calls of a forward pass, whether they have a graph."""
        return self._known if self._known is not None and self.complete else self.calls

    def see(self, seen: Seen) -> Any:
        """Take a call in; where all of the forward pass is run, δ = 0 enters, for its graph."""
        with_graph = torch.is_grad_enabled()
        hidden = hidden_states(seen.output)
        clean = hidden.detach() if isinstance(hidden, Tensor) else hidden
        if with_graph and not any(self.calls):
            self.seen = []  # what was glimpsed without a graph does not count
        if with_graph or not self.calls:
            self.seen.append(seen._replace(output=clean))
        self.calls = (*self.calls, with_graph)
        if self._known is not None or not with_graph or not isinstance(clean, Tensor):
            return None
        if not clean.is_floating_point():
            return None
        return replaced_states(seen.output, clean.detach().requires_grad_())


def look(
    taps: Sequence[Tap],
    forward: Callable[[], object],
    model: nn.Module | None = None,
    kind: Kind | None = None,
) -> list[Looked]:
    """What each tap's module receives and its clean output at each call with a graph.

    `forward` runs the model as the loss does, so that transposed, flattened and padded inputs are
    seen as they are, and is stopped at the last call that is known to come.

    Args:
        taps: the hooks.
        forward: runs the model.
        model: whose parameters and statistics a whole pass leaves alone; not wrapped.
        kind: of the minibatch; without it the first call of each module is the last one.

    Raises:
        EmbeddingError: a module did not run.

    Cost: the forward pass up to the last call of the modules; of an embedding, one look-up. The
    first time that a kind of minibatch comes, one whole forward pass.
    """
    known = {tap: (True,) if kind is None else kind.known(tap) for tap in taps}
    counting = not all(one is not None and any(one) for one in known.values())
    found = {tap: Looked(tap, None if counting else one) for tap, one in known.items()}

    def see(tap: Tap, seen: Seen) -> Any:
        replaced = found[tap].see(seen)
        if all(one.complete for one in found.values()):
            raise _Seen
        return replaced

    try:
        with _looking(taps, see), inner_pass(model) if counting and model else nullcontext():
            forward()
        for tap, one in found.items():
            if kind is not None:
                kind.remember(tap, one.calls)
    except _Seen:
        pass
    except Exception:
        if not all(any(one.calls) for one in found.values()):
            raise
        # A bare `except:` caught the stop, and something went wrong for want of an output; or the
        # loss asks for more of a graph than a look has, and the passes will show how often it runs.
    for tap, one in found.items():
        if not one.seen:
            raise EmbeddingError(
                f"The hooked {tap.kind} ({type(tap.module).__name__}) did not run; name the module "
                f"that does with {tap.flag}."
            )
    return list(found.values())


@contextmanager
def _looking(taps: Sequence[Tap], see: Callable[[Tap, Seen], Any]) -> Iterator[None]:
    # Nobody comes for what is saved here: hooks around the step would keep it for ever.
    unseen = torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x)
    with ExitStack() as stack:
        for tap in taps:
            stack.enter_context(tap.installed())
            stack.enter_context(tap.unchecked())
            stack.enter_context(tap.listening())
            tap.watch = see
        stack.enter_context(torch.enable_grad())
        stack.enter_context(unseen)
        yield


class _Seen(BaseException):
    """Stops a forward pass. No Exception, since code around the model may catch those."""
