"""What a method keeps from one step to the next."""

from dataclasses import dataclass, field

from torch import Tensor


class StepError(ValueError):
    """A method cannot make a step on this minibatch; one sentence says why and what to do."""


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
        delta, free = delta.detach().cpu(), mask.cpu() > 0
        for name, one, where in zip(names, delta, free, strict=True):
            self.tensors[f"delta/{name}"] = one[where]

    def recall(self, names: list[str], start: Tensor, mask: Tensor) -> Tensor:
        """Each example's kept δ; `start` where there is none, or of another length."""
        delta, free = start.detach().cpu().clone(), mask.cpu() > 0
        for one, name, where in zip(delta, names, free, strict=True):
            kept = self.tensors.get(f"delta/{name}")
            if kept is not None and len(kept) == int(where.sum()):
                one[where] = kept.to(one.dtype)
        return delta.to(start.device)


class NoMemory(Memory):
    """What an objective has that was given none: asking for something kept is an error."""

    def __init__(self) -> None:
        self.slot = self.replay = 0

    def __repr__(self) -> str:
        return "NoMemory()"

    @property
    def tensors(self) -> dict[str, Tensor]:  # type: ignore[override]
        """Nothing was kept, and nothing would be.

        Raises:
            StepError: always.
        """
        raise StepError(
            "This method keeps something from step to step: give every objective of the run the "
            "same memory=Memory()."
        )
