"""What a method keeps from one step to the next."""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Memory:
    """Tensors by name, and where in the run this minibatch stands.

    One memory lasts a run; a Trainer saves it with its checkpoints, a loop of one's own hands the
    same one to every objective.

    Args:
        tensors: what is kept.
        slot: which micro-batch of an accumulated step this is.
        replay: how many times in a row this minibatch was seen before (FreeAT).
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    slot: int = 0
    replay: int = 0

    def keep(self, names: list[str], delta: Tensor, mask: Tensor) -> None:
        """Keep each example's δ under its name, its free coordinates alone, on the CPU."""
        for name, one, free in zip(names, delta.detach(), mask > 0, strict=True):
            self.tensors[f"delta/{name}"] = one[free].cpu()

    def recall(self, names: list[str], start: Tensor, mask: Tensor) -> Tensor:
        """Each example's kept δ; `start` where there is none, or of another length."""
        delta = start.clone(memory_format=torch.contiguous_format)
        for one, name, free in zip(delta, names, mask > 0, strict=True):
            kept = self.tensors.get(f"delta/{name}")
            if kept is not None and len(kept) == int(free.sum()):
                one[free] = kept.to(one)
        return delta
