"""The hook by which δ enters a module's output, one δ for each call of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nlp_adv.perturbation import StepError

_IDS, _WHOLE = ("input_ids", "inputs"), ("pixel_values", "input_features", "input_values")
_STACK_INPUTS = (*_IDS, "inputs_embeds", *_WHOLE)


class EmbeddingError(StepError, RuntimeError):
    """The hooked module does not run as a step needs it; a Trainer makes a UserError of it."""


class NoGraphError(EmbeddingError):
    """The model runs the module without a graph, and nowhere else."""


class OtherCallsError(EmbeddingError):
    """A pass runs the module another number of times than the look at the minibatch saw."""


class Seen(NamedTuple):
    """What a look saw at one call of a module.

    Args:
        argument: the module's first argument: of an embedding, the ids.
        output: its clean output, the tensor that δ would be added to, detached.
        received: what the modules around it were called with, by name, the innermost first.
    """

    argument: Any
    output: Any
    received: tuple[Mapping[str, Any], ...]


_resting = False


@contextmanager
def beside_the_pass() -> Iterator[None]:
    """Hooked modules run in the block as if they had no hook: no δ, no count, no look.

    For a model that goes on from its cache inside a forward pass in which δ has entered already.
    """
    global _resting
    before, _resting = _resting, True
    try:
        yield
    finally:
        _resting = before


class Tap:
    """A permanent hook on a module that adds the k-th of `deltas` to the output of its k-th call.

    Registering a hook for every step gives stale graphs under `torch.compile`; this one is
    installed once and reads δ from an attribute. Of an output of several values, the hidden states
    are `last_hidden_state`, or the first tensor of floating-point numbers.

    Args:
        module: the module.
        within: the only module in whose forward pass a call of it counts, where several call it.
        around: the modules that it lies in, the innermost first: what they receive tells which
            tokens there are.
        kind: what errors call it.
        flag: how users name another one.

    Cost: one addition a call while δ is set, nothing otherwise.
    """

    def __init__(
        self,
        module: nn.Module,
        within: nn.Module | None = None,
        *,
        around: Sequence[nn.Module] = (),
        kind: str = "embedding",
        flag: str = "`embedding` (--adv_embedding)",
    ) -> None:
        self.module = module
        self.within = within
        self.kind, self.flag = kind, flag
        self.deltas: tuple[Tensor | None, ...] | None = None
        self.watch: Callable[[Tap, Seen], Any] | None = None
        self.first_block: nn.Module | None = None  # of the same model, once it was looked for
        self._around = [(one, names) for one in around if (names := _stack_inputs(one))]
        self._checkpointed = [module, *around] if kind == "layer" else []
        self._received: dict[nn.Module, Mapping[str, Any]] = {}
        self._calls: Sequence[bool] = ()
        self._fired = 0
        self._passed_by = 0  # calls without a graph, in a pass that has one
        self._with_graph = True
        self._added = False  # the last pass had a δ
        self._inside = within is None
        self._handles: list[Any] = []

    def install(self) -> None:
        """Register the hook, once."""
        if self._handles:
            return
        self._handles = [self.module.register_forward_hook(self._hook, with_kwargs=True)]
        if self.within is not None:
            self._handles.append(self.within.register_forward_pre_hook(self._enter))
            self._handles.append(self.within.register_forward_hook(self._leave))
        for module, _ in self._around:
            hook = module.register_forward_pre_hook(self._receive, with_kwargs=True)
            self._handles.append(hook)

    def remove(self) -> None:
        """Take the hook away."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    @contextmanager
    def installed(self) -> Iterator[None]:
        """The hook for the time of a block, where it is not permanent."""
        permanent = bool(self._handles)
        self.install()
        try:
            yield
        finally:
            if not permanent:
                self.remove()

    @contextmanager
    def adding(self, *deltas: Tensor | None, calls: Sequence[bool] = ()) -> Iterator[None]:
        """Add the k-th δ to the k-th call's output in the forward pass of the block.

        In a pass with a graph, a call without one sees the clean output and does not count: a
        reference model's, or a second look at the logits for a metric.

        Args:
            deltas: one for each call; None leaves the output clean, and the call is counted.
            calls: of each call in order, whether it counts: what a look saw, for passes without any
                graph.

        Raises:
            EmbeddingError: the module did not run, so that δ went nowhere; `OtherCallsError` where
                it ran another number of times, `NoGraphError` where it ran without a graph alone.
        """
        self._with_graph = torch.is_grad_enabled()
        self._calls = calls
        self._added = any(delta is not None for delta in deltas)
        with self.installed(), self.unchecked(), self.listening():
            self.deltas = deltas
            yield
        clean = all(delta is None for delta in deltas)
        if self._fired == len(deltas) or (clean and not self._with_graph):
            return
        times, what = self._fired, f"{self.kind} ({type(self.module).__name__})"
        if times == 0 and self._passed_by:
            raise NoGraphError(
                f"The model runs its {what} without gradients (torch.no_grad), so no "
                f"perturbation of it can be trained on or climbed: leave out the no_grad, and with "
                f"it gradient caching, which runs the model again when δ is gone."
            )
        if times == 0:
            raise EmbeddingError(
                f"The hooked {what} did not run in a forward pass, so the perturbation "
                f"went nowhere; name the module that runs with {self.flag}."
            )
        raise OtherCallsError(
            f"The hooked {what} ran {times} times with a graph in one loss and {len(deltas)} times "
            f"when this minibatch, or another of its kind, was looked at, so the perturbation "
            f"would be wrong: let the loss run the model equally often in all passes of a step and "
            f"for all minibatches of as many rows (multiply what does not count by 0)."
        )

    @property
    def fired(self) -> int:
        """How many calls of this pass δ has entered."""
        return self._fired

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Calls are counted from 0 in the block; it leaves neither δ nor anything it heard."""
        self._fired = self._passed_by = 0
        self._inside = self.within is None
        try:
            yield
        finally:
            self.deltas = self.watch = None
            self._received = {}

    @contextmanager
    def unchecked(self) -> Iterator[None]:
        """The module and those around it run without gradient checkpointing in the block.

        A checkpoint would run the hook again in the backward pass, when δ is gone, and its first
        run may have no graph.
        """
        checkpointed: list[Any] = [
            one for one in self._checkpointed if getattr(one, "gradient_checkpointing", False)
        ]
        for module in checkpointed:
            module.gradient_checkpointing = False
        try:
            yield
        finally:
            for module in checkpointed:
                module.gradient_checkpointing = True

    def _hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: Any, output: Any) -> Any:
        if _resting or not self._inside:
            return None
        if self.watch is not None:
            argument = args[0] if args else next(iter(kwargs.values()), None)
            around = (self._received.get(one) for one, _ in self._around)
            received = tuple(one for one in around if one is not None)
            return self.watch(self, Seen(argument, output, received))
        if self.deltas is None:
            self._refuse_backward()
            return None
        if not self._counts():
            self._passed_by += 1
            return None
        self._fired += 1
        if self._fired > len(self.deltas):  # `adding` says so
            return None
        delta = self.deltas[self._fired - 1]
        if delta is None:
            return None
        hidden = hidden_states(output)
        return replaced_states(output, hidden + delta.to(hidden.dtype))

    def _refuse_backward(self) -> None:
        """A run inside a backward pass is a checkpoint's second one, and must not be without δ."""
        if torch.compiler.is_compiling() or not self._added:
            return
        if torch._C._current_graph_task_id() != -1:
            raise EmbeddingError(
                f"The hooked {self.kind} ({type(self.module).__name__}) runs again in the backward "
                f"pass, when δ is gone: leave out the torch.utils.checkpoint around the model, and "
                f"take its own gradient checkpointing."
            )

    def _counts(self) -> bool:
        """Whether δ enters this call: all with a graph, and in a pass without one the same."""
        if self._with_graph or not any(self._calls):  # a model may answer without any graph
            return torch.is_grad_enabled() == self._with_graph
        place = self._fired + self._passed_by
        return place >= len(self._calls) or self._calls[place]

    def _receive(self, module: nn.Module, args: tuple[Any, ...], kwargs: Any) -> None:
        if self.watch is not None and not _resting:
            names = next(names for one, names in self._around if one is module)
            self._received[module] = {**dict(zip(names, args, strict=False)), **kwargs}

    def _enter(self, *args: Any) -> None:
        self._inside = True

    def _leave(self, *args: Any) -> None:
        self._inside = False


def hidden_states(output: Any) -> Any:
    """The hidden states in what a module returned; the output itself where there are none."""
    place = _place(output)
    return output if place is None else output[place]


def replaced_states(output: Any, hidden: Tensor) -> Any:
    """The same output with other hidden states; its other values are shared."""
    place = _place(output)
    if place is None:
        return hidden
    if isinstance(output, Mapping):
        return type(output)(**{**output, place: hidden})
    values = [hidden if index == place else value for index, value in enumerate(output)]
    if hasattr(output, "_fields"):  # a named tuple
        return type(output)(*values)
    return type(output)(values)


def _place(output: Any) -> Any:
    """The key or index of the hidden states, None where the output is one tensor, or has none."""
    if isinstance(output, Tensor):
        return None
    if isinstance(output, Mapping):
        if isinstance(output.get("last_hidden_state"), Tensor):
            return "last_hidden_state"
        pairs = list(output.items())
    elif isinstance(output, tuple | list):
        pairs = list(enumerate(output))
    else:
        return None
    return next((key for key, value in pairs if _is_states(value)), None)


def _is_states(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 0


def _stack_inputs(module: nn.Module) -> list[str]:
    """The names of what its forward takes, where it is a stack of layers or a model; else []."""
    try:
        names = list(inspect.signature(module.forward).parameters)
    except (TypeError, ValueError):
        return []
    return names if set(names) & set(_STACK_INPUTS) else []
