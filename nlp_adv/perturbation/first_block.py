"""A network run no further than its first block.

Most of an ascent's cost is the network above the first block, of which a δ at the input sees only
the gradient p = ∂L/∂h at the block's output h. With p held still, ∇δ ⟨p, h(x + δ)⟩ costs the
block's share of a pass.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nlp_adv.perturbation.evaluating import evaluating


class FirstBlock:
    """The first block of a model: watched in a full pass, or run alone.

    The real model is run and stopped when the block is done, so that masks, positions and rotary
    inputs are its own.

    Args:
        module: the block; where layers share it, its first call counts.
        run: δ → whatever; runs the model, unwrapped and uncompiled.
        later: what stands in for it, the first of them that runs, in a pass in which LayerDrop
            skips it; dropout is frozen, so that all passes of a step skip the same blocks.
    """

    def __init__(
        self,
        module: nn.Module,
        run: Callable[[Tensor], object],
        later: Sequence[nn.Module] = (),
    ) -> None:
        self.module = module
        self._run = run
        self._all = (module, *later)

    @contextmanager
    def watched(self) -> Iterator[list[Tensor]]:
        """In the block, the gradient at h of each backward pass is put on the list."""
        gradients: list[Tensor] = []
        first: nn.Module | None = None
        seen = False

        def watch(module: nn.Module, args: Any, output: Any) -> None:
            nonlocal first, seen
            first = first or module  # a later one in a checkpoint runs again, the last one first
            hidden = _hidden(output)
            if module is first and not seen and hidden.requires_grad:
                seen = True
                hidden.register_hook(lambda g: gradients.append(g.detach()))  # type: ignore[no-untyped-call]

        with self._hooked(watch, (self.module,)):
            yield gradients

    def prefix(self, delta: Tensor) -> Tensor:
        """h(x + δ), with its graph to δ.

        Raises:
            RuntimeError: the block did not run.

        Cost: the block's share of a forward pass.
        """

        def stop(module: nn.Module, args: Any, output: Any) -> None:
            if torch.is_grad_enabled():  # a look without a graph, such as a teacher's, passes by
                raise _Reached(_hidden(output))

        try:
            with self._hooked(stop, self._all):
                self._run(delta)
        except _Reached as reached:
            return reached.hidden
        raise RuntimeError(f"The first block ({type(self.module).__name__}) did not run.")

    @contextmanager
    def _hooked(
        self, hook: Callable[[nn.Module, Any, Any], None], unchecked: Sequence[nn.Module]
    ) -> Iterator[None]:
        # Inside a checkpoint the block would run without a graph, and again in the backward pass.
        checkpointed: list[Any] = [
            module for module in unchecked if getattr(module, "gradient_checkpointing", False)
        ]
        for module in checkpointed:
            module.gradient_checkpointing = False
        handles = [module.register_forward_hook(hook) for module in self._all]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            for module in checkpointed:
                module.gradient_checkpointing = True


def blocks_after(model: nn.Module, block: nn.Module) -> list[nn.Module]:
    """What runs after the block in its stack: the later blocks, and the module that holds them.

    Empty where the block is in no ModuleList.
    """
    for name, stack in model.named_modules():
        modules = list(stack) if isinstance(stack, nn.ModuleList) else []
        if any(module is block for module in modules):
            place = next(i for i, module in enumerate(modules) if module is block)
            return [*modules[place + 1 :], model.get_submodule(name.rpartition(".")[0])]
    return []


def find_first_block(
    model: nn.Module, run: Callable[[], object], behind: Sequence[nn.Module] = ()
) -> nn.Module | None:
    """The first element of a ModuleList that takes hidden states, in the order of the forward pass.

    `run` runs the model and is stopped there, in evaluation mode, since LayerDrop may skip the
    block in training. None where no such element runs.

    Args:
        model: not wrapped.
        run: runs it.
        behind: the modules whose outputs δ is added to; elements that run before the last of them
            do not count.
    """
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m)]
    layers = {layer for one in lists for layer in one}
    missing = set(behind)

    def found(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        first = args[0] if args else kwargs.get("hidden_states")
        if not missing and isinstance(first, Tensor) and first.is_floating_point():
            raise _Found(module)

    handles = [m.register_forward_pre_hook(found, with_kwargs=True) for m in layers]
    handles += [m.register_forward_hook(lambda m, *_: missing.discard(m)) for m in missing]
    try:
        with torch.no_grad(), evaluating(model):
            run()
    except _Found as result:
        return result.module
    finally:
        for handle in handles:
            handle.remove()
    return None


def _hidden(output: Any) -> Tensor:
    hidden = output[0] if isinstance(output, tuple) else output
    if isinstance(hidden, Mapping):  # a whole stack's output
        hidden = hidden.get("last_hidden_state")
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
