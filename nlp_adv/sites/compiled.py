"""What keeps a model under `torch.compile` at two graphs more than ordinary training has.

Dynamo traces the model anew for each kind of pass it meets, gives up after eight graphs
(`torch._dynamo.config.recompile_limit`) and runs what is left uncompiled. So the passes of a step
must look alike to it, and δ may be no reason to trace each length of the texts anew.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

_FORCED_STATIC = "force_nn_module_property_static_shapes"
_HOOKS_UNSEEN = "skip_nnmodule_hook_guards"


def is_compiled(model: nn.Module) -> bool:
    """Whether `torch.compile` has wrapped the model, inside or outside DDP."""
    inner: Any = model
    while not hasattr(inner, "_orig_mod"):
        if not isinstance(inner, nn.parallel.DistributedDataParallel):
            return False
        inner = inner.module
    return True


def hooks_are_seen() -> None:
    """From now on, a graph that was made without hooks does not run where there are some.

    By default Dynamo does not look whether a module that had no hooks has got one since. A graph of
    plain passes, of this model or of another one of its class, would run in place of the attacked
    one and leave δ out. The setting is the process's, and the graphs of before are made anew, once.

    Cost: a look at each module's hooks when a compiled model is called.
    """
    config: Any = torch._dynamo.config
    if getattr(config, _HOOKS_UNSEEN, False):
        setattr(config, _HOOKS_UNSEEN, False)
        torch.compiler.reset()


def lengths_may_vary() -> AbstractContextManager[Any]:
    """In the block, the shape of what a module's hook holds may become dynamic when it changes.

    Dynamo takes it for static where it comes upon the hook by way of one of torch's own modules,
    `nn.Embedding` above all, and does not look at `mark_dynamic` and `maybe_mark_dynamic` then.
    Otherwise δ is treated as the batch is: static until a second length comes, so that texts padded
    to one length keep their faster kernels. Threads of their own see the setting too, for as long.
    """
    config: Any = torch._dynamo.config
    return (
        config.patch({_FORCED_STATIC: False}) if hasattr(config, _FORCED_STATIC) else nullcontext()
    )


def alike(delta: Tensor | None, like: Tensor) -> Tensor | None:
    """δ as every pass with a graph has it: a tensor whose gradient is wanted.

    A pass without δ, one with a constant δ and one with a leaf would be three graphs.

    Args:
        delta: None for the clean point.
        like: a tensor of δ's shape and dtype.

    Cost: the backward pass goes on to δ, where the embedding's own gradient passes by.
    """
    if not torch.is_grad_enabled() or (delta is not None and delta.requires_grad):
        return delta
    if delta is None:
        delta = torch.zeros(like.shape, dtype=like.dtype, device=like.device)
    return delta.detach().requires_grad_()
