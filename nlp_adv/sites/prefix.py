"""What lies below δ is computed once for all passes for δ alone.

Nothing that a model computes before δ enters depends on δ: a later pass of a step finds there what
the first one has found, under the same dropout mask. A hook cannot skip a module; so for the time
of a pass the modules that run before δ answer by what they gave, and the functions between them,
which cost little, run again. No model needs to know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_map_only

from nlp_adv.perturbation import FrozenDropout, StepError, copied, unwrapped
from nlp_adv.sites.compiled import is_compiled
from nlp_adv.sites.taps import Tap


class _Given(NamedTuple):
    """What one call gave, and where it left the random streams."""

    output: Any
    streams: FrozenDropout


class PrefixOnce:
    """Each `with once():` block is one pass: the first is written down, the others read it.

    The modules are those beside the way from the model to the module that δ enters, and that module
    itself. One in which somebody listens to a part (by a hook) runs itself, and its parts answer.
    Calls after δ has entered run as ever, so that of several calls of a module the first has a
    prefix. If a weight has changed in between, the pass is written down anew.

    Args:
        model: wrapped or not.
        taps: the hooks by which δ enters.
        device: where it runs.
        generators: see `FrozenDropout`.

    Raises:
        StepError: the model is compiled, or nothing runs before δ.

    Cost: a pass for δ alone costs what lies above it, forward and backward, and the first one the
    forward pass below it as well; the outputs of the modules below stay for the step.
    """

    def __init__(
        self, model: nn.Module, taps: Sequence[Tap], device: torch.device, generators: Sequence[Any]
    ) -> None:
        if is_compiled(model):
            raise StepError(
                "inner_prefix (--adv_inner_prefix) exchanges what modules do, which a compiled "
                "model does not see: leave --torch_compile off, or inner_prefix."
            )
        self._model, self._taps = unwrapped(model), taps
        self._snapshot = partial(FrozenDropout, device, generators)
        self._given: dict[nn.Module, list[_Given | None]] = {}
        self._weights: list[tuple[int, int]] = []
        self._beside: list[nn.Module] = []

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """One pass, its forward half."""
        local = (p.to_local() if isinstance(p, DTensor) else p for p in self._model.parameters())
        weights = [(p.data_ptr(), p._version) for p in local]
        first = not self._given or weights != self._weights
        if first:
            self._beside = beside(self._model, [tap.module for tap in self._taps])
            self._given, self._weights = {}, weights
        doing = self._written if first else self._read
        done = False
        try:
            with ExitStack() as stack:
                for module in self._beside:
                    stack.enter_context(_acting(module, doing(module, module.forward)))
                yield
            done = True
        finally:
            if not done:
                self._given = {}  # of half a pass
        if first and not self._saves():
            raise StepError(
                "inner_prefix (--adv_inner_prefix) computes once what lies below δ, and nothing "
                "lies below the embedding: leave it off, or let δ enter a layer "
                "(--adv_site layer:NAME)."
            )

    def _written(self, module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            below = not any(tap.fired for tap in self._taps)
            output = forward(*args, **kwargs)
            if below:
                # What is handed through may be changed by its other name.
                same = any(output is one for one in (*args, *kwargs.values()))
                given = None if same else _Given(_detached(copied(output)), self._snapshot())
                self._given.setdefault(module, []).append(given)
            return output

        return call

    def _read(self, module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        waiting = iter(self._given.get(module, ()))

        def call(*args: Any, **kwargs: Any) -> Any:
            given = next(waiting, None)
            if given is None:
                return forward(*args, **kwargs)
            given.streams.restore()
            return copied(given.output)  # the model may write into it

        return call

    def _saves(self) -> bool:
        tables = {tap.module for tap in self._taps if tap.kind == "embedding"}
        return any(
            given is not None
            for module, calls in self._given.items()
            if module not in tables
            for given in calls
        )


def beside(model: nn.Module, entered: Sequence[nn.Module]) -> list[nn.Module]:
    """The modules that run beside the way to those that δ enters, and these themselves.

    Those are the children of each module on the way, of a ModuleList its elements; in place of one
    with a hook inside, its own children.

    Args:
        model: not wrapped.
        entered: modules of it.
    """
    found: dict[nn.Module, None] = {}
    waiting = [model]
    seen = set(waiting)
    while waiting:
        above = waiting.pop()
        for child in above.children():
            if child in seen:
                continue
            seen.add(child)
            inner = [one for one in child.modules() if one is not child]
            on_the_way = any(one in entered for one in inner) and child not in entered
            container = type(child).forward is nn.Module.forward  # ModuleList, ModuleDict
            if on_the_way or container or any(_heard(one) for one in inner):
                waiting.append(child)
            elif not isinstance(child, torch.jit.ScriptModule):
                found[child] = None
    return list(found)


def _heard(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


@contextmanager
def _acting(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """The module does something else in the block."""
    own = vars(module).get("forward")  # accelerate and others leave theirs there
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


def _detached(value: Any) -> Any:
    """The same without a graph, which an adapter may bring though no weight is trained."""
    if isinstance(value, Tensor):
        return value.detach()
    return tree_map_only(Tensor, Tensor.detach, value)
