"""A network run no further than its first block.

Most of an ascent's cost is the network above the first block, of which a δ at the input sees only
the gradient p = ∂L/∂h at the block's output h. With p held still, ∇δ ⟨p, h(x + δ)⟩ costs the
block's share of a pass.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class FirstBlock:
    """The first block of a model: watched in a full pass, or run alone.

    The real model is run and stopped when the block is done, so that masks, positions and rotary
    inputs are its own.

    Args:
        module: the block; where layers share it, its first call counts.
        run: δ → whatever; runs the model, unwrapped and uncompiled.
    """

    def __init__(self, module: nn.Module, run: Callable[[Tensor], object]) -> None:
        self.module = module
        self._run = run

    @contextmanager
    def watched(self) -> Iterator[list[Tensor]]:
        """In the block, the gradient at h of each backward pass is put on the list."""
        gradients: list[Tensor] = []
        seen = False

        def watch(module: nn.Module, args: Any, output: Any) -> None:
            nonlocal seen
            hidden = _hidden(output)
            if not seen and hidden.requires_grad:
                seen = True
                hidden.register_hook(lambda g: gradients.append(g.detach()))  # type: ignore[no-untyped-call]

        with self._hooked(watch):
            yield gradients

    def prefix(self, delta: Tensor) -> Tensor:
        """h(x + δ), with its graph to δ.

        Raises:
            RuntimeError: the block did not run.

        Cost: the block's share of a forward pass.
        """

        def stop(module: nn.Module, args: Any, output: Any) -> None:
            raise _Reached(_hidden(output))

        try:
            with self._hooked(stop):
                self._run(delta)
        except _Reached as reached:
            return reached.hidden
        raise RuntimeError(f"The first block ({type(self.module).__name__}) did not run.")

    @contextmanager
    def _hooked(self, hook: Callable[[nn.Module, Any, Any], None]) -> Iterator[None]:
        # Inside a checkpoint the block would run without a graph, and again in the backward pass.
        module: Any = self.module
        checkpointed = getattr(module, "gradient_checkpointing", False)
        if checkpointed:
            module.gradient_checkpointing = False
        handle = module.register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()
            if checkpointed:
                module.gradient_checkpointing = True


def find_first_block(model: nn.Module, run: Callable[[], object]) -> nn.Module | None:
    """The first element of a ModuleList that takes hidden states, in the order of the forward pass.

    `run` runs the model and is stopped there. None where no such element runs.
    """
    heads = {m[0] for m in model.modules() if isinstance(m, nn.ModuleList) and len(m)}

    def found(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        first = args[0] if args else kwargs.get("hidden_states")
        if isinstance(first, Tensor) and first.is_floating_point():
            raise _Found(module)

    handles = [m.register_forward_pre_hook(found, with_kwargs=True) for m in heads]
    try:
        with torch.no_grad():
            run()
    except _Found as result:
        return result.module
    finally:
        for handle in handles:
            handle.remove()
    return None


def _hidden(output: Any) -> Tensor:
    hidden = output[0] if isinstance(output, tuple) else output
    if not isinstance(hidden, Tensor):
        raise RuntimeError("The first block returns no tensor of hidden states.")
    return hidden


class _Reached(BaseException):
    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden


class _Found(BaseException):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
