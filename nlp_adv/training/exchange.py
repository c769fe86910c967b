"""When processes exchange gradients: in the last pass of a step, whoever carries the exchange."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from nlp_adv.perturbation import unwrapped
from nlp_adv.training.replaced import replaced_attributes

Sharding = Literal["FSDP", "FSDP2", "ZeRO-0", "ZeRO-1", "ZeRO-2", "ZeRO-3"]
"""How processes share weights, gradients or the optimizer's state among them."""


def sharding(trainer: Any) -> Sharding | None:
    """What a Trainer shards by; None in one process and under DDP."""
    if trainer.is_deepspeed_enabled:
        stages: dict[int, Sharding] = {1: "ZeRO-1", 2: "ZeRO-2", 3: "ZeRO-3"}
        return stages.get(int(trainer.accelerator.state.deepspeed_plugin.zero_stage), "ZeRO-0")
    if isinstance(trainer.model, FSDPModule):  # also where it was sharded when it was loaded
        return "FSDP2"
    if trainer.is_fsdp_enabled:
        version = int(getattr(trainer.accelerator.state.fsdp_plugin, "fsdp_version", 1))
        return "FSDP" if version == 1 else "FSDP2"
    return None


@contextmanager
def unsynced(accelerator: Any, model: nn.Module) -> Iterator[None]:
    """Forward and backward passes in the block leave their gradients in their process.

    DDP's `no_sync` does that by itself. FSDP2 and DeepSpeed are told and untold, and must find what
    was there before: the Trainer tells them the same around all micro-batches of a step but the
    last, and accelerate's own `no_sync` would switch the exchange on when it ends.

    Args:
        accelerator: the Trainer's.
        model: as accelerate has prepared it.
    """
    state, was = accelerator.gradient_state, accelerator.sync_gradients
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        # The engine exchanges gradients and steps where accelerate says that they are complete.
        state._set_sync_gradients(False)
        try:
            yield
        finally:
            state._set_sync_gradients(was)
    elif isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            model.set_requires_gradient_sync(was)
    else:
        with accelerator.no_sync(model):
            yield


def without_engine(accelerator: Any, model: nn.Module) -> nn.Module:
    """What runs a pass in which θ is not trained: DeepSpeed's engine counts all that run it."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        return unwrapped(model)
    return model


@contextmanager
def stepping_once(accelerator: Any, made: Callable[[], bool]) -> Iterator[None]:
    """DeepSpeed's engine steps once for each optimizer step in the block; others always do.

    The engine moves the weights at the end of a backward pass, here the method's last one. What the
    caller of `compute_loss` then calls backward on has no gradient left to exchange, and must not
    make the engine step again, which would feed the optimizer a gradient of 0.

    Args:
        accelerator: the Trainer's; the model is prepared.
        made: whether a loss is out whose gradient is there already.
    """
    engine = getattr(accelerator, "deepspeed_engine_wrapped", None)
    if engine is None:
        yield
        return
    stock = engine.backward

    def backward(loss: Tensor, *args: Any, **kwargs: Any) -> None:
        if made():
            loss.backward()  # type: ignore[no-untyped-call]
        else:
            stock(loss, *args, **kwargs)

    with replaced_attributes(engine, backward=backward):
        yield
