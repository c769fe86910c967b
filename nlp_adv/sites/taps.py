"""The hook by which δ enters a module's output, and the look at what runs there."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
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


class Seen(NamedTuple):
    """What a look saw at a module.

    Args:
        argument: the module's first argument: of an embedding, the ids.
        output: its clean output, the tensor that δ would be added to, detached.
        received: what the modules around it were called with, by name, the innermost first.
    """

    argument: Any
    output: Any
    received: tuple[Mapping[str, Any], ...]


class Tap:
    """A permanent hook on a module that adds `delta` to its output while it is set.

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

    Cost: one addition a pass while δ is set, nothing otherwise.
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
        self.delta: Tensor | None = None
        self.first_block: nn.Module | None = None  # of the same model, once it was looked for
        self._around = [(one, names) for one in around if (names := _stack_inputs(one))]
        self._checkpointed = [module, *around] if kind == "layer" else []
        self._received: dict[nn.Module, Mapping[str, Any]] = {}
        self._fired = 0
        self._with_graph = True
        self._look: _Look | None = None
        self._passed_by = 0  # calls without a graph, in a pass that has one
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
    def adding(self, delta: Tensor) -> Iterator[None]:
        """Add δ to the module's output in every forward pass of the block; refuse silence.

        In a pass with a graph, a call without one sees the clean output and does not count: a
        reference model's, or a second look at the logits for a metric.

        Raises:
            EmbeddingError: the module ran no time, or more than once, so that δ was not applied
                as the method thinks it was; `NoGraphError` where it ran without a graph alone.
        """
        self.delta, self._fired, self._passed_by = delta, 0, 0
        self._inside = self.within is None
        self._with_graph = torch.is_grad_enabled()
        try:
            with self.installed(), self.unchecked():
                yield
        finally:
            self.delta = None
        if self._fired == 1:
            return
        times, what = self._fired, f"{self.kind} ({type(self.module).__name__})"
        if times == 0 and self._passed_by:
            raise NoGraphError(
                f"The model runs its {what} without gradients (torch.no_grad), so no "
                f"perturbation of it can be trained on or climbed."
            )
        if times == 0:
            raise EmbeddingError(
                f"The hooked {what} did not run in a forward pass, so the perturbation "
                f"went nowhere; name the module that runs with {self.flag}."
            )
        raise EmbeddingError(
            f"The hooked {what} ran {times} times with a graph in one loss instead of "
            f"once, so the perturbation would be wrong: let the loss call the model once (calls "
            f"under torch.no_grad() do not count), or name the module that runs once with "
            f"{self.flag}."
        )

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

    def look(self, forward: Callable[[], object]) -> tuple[Any, Any]:
        """The module's first argument and its clean output: see the function `look`."""
        seen = look([self], forward)[0]
        return seen.argument, seen.output

    def _hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: Any, output: Any) -> Any:
        if not self._inside:
            return None
        if self._look is not None:
            argument = args[0] if args else next(iter(kwargs.values()), None)
            around = (self._received.get(one) for one, _ in self._around)
            received = tuple(one for one in around if one is not None)
            self._look.see(self, Seen(argument, _detached(hidden_states(output)), received))
        if self.delta is None:
            return None
        if torch.is_grad_enabled() != self._with_graph:
            self._passed_by += 1
            return None
        self._fired += 1
        hidden = hidden_states(output)
        return replaced_states(output, hidden + self.delta.to(hidden.dtype))

    def _receive(self, module: nn.Module, args: tuple[Any, ...], kwargs: Any) -> None:
        if self._look is not None:
            names = next(names for one, names in self._around if one is module)
            self._received[module] = {**dict(zip(names, args, strict=False)), **kwargs}

    def _enter(self, *args: Any) -> None:
        self._inside = True

    def _leave(self, *args: Any) -> None:
        self._inside = False


class _Look:
    """One forward pass up to where every tap has seen a call with a graph."""

    def __init__(self, taps: Sequence[Tap]) -> None:
        self.seen: dict[Tap, Seen] = {}
        self.glimpsed: dict[Tap, Seen] = {}  # the same, of calls without a graph
        self._taps = taps

    def see(self, tap: Tap, seen: Seen) -> None:
        if tap in self.seen:
            return
        if not torch.is_grad_enabled():
            self.glimpsed[tap] = seen
            return
        self.seen[tap] = seen
        if len(self.seen) == len(self._taps):
            raise _Seen


def look(taps: Sequence[Tap], forward: Callable[[], object]) -> list[Seen]:
    """What each tap's module receives and its clean output, as the model has them.

    `forward` runs the model up to the first call of each module with a graph, and is stopped
    there, so that transposed, flattened and padded inputs are seen as they are.

    Raises:
        EmbeddingError: a module did not run.

    Cost: the forward pass up to the last of the modules; of an embedding, one look-up.
    """
    one = _Look(taps)
    try:
        # Nobody comes for what is saved here: hooks around the step would keep it for ever.
        unseen = torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x)
        with ExitStack() as stack:
            for tap in taps:
                tap._look, tap._inside = one, tap.within is None
                stack.enter_context(tap.installed())
                stack.enter_context(tap.unchecked())
            stack.enter_context(torch.enable_grad())
            stack.enter_context(unseen)
            forward()
    except _Seen:
        pass
    except Exception:
        if len(one.seen) < len(taps):
            raise
        # A bare `except:` caught the stop, and something went wrong for want of an output.
    finally:
        for tap in taps:
            tap._look = None
            tap._received = {}
    seen = one.glimpsed | one.seen
    for tap in taps:
        if tap not in seen:
            raise EmbeddingError(
                f"The hooked {tap.kind} ({type(tap.module).__name__}) did not run; name the module "
                f"that does with {tap.flag}."
            )
    return [seen[tap] for tap in taps]


class _Seen(BaseException):
    """Stops a forward pass. No Exception, since code around the model may catch those."""


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


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _stack_inputs(module: nn.Module) -> list[str]:
    """The names of what its forward takes, where it is a stack of layers or a model; else []."""
    try:
        names = list(inspect.signature(module.forward).parameters)
    except (TypeError, ValueError):
        return []
    return names if set(names) & set(_STACK_INPUTS) else []
