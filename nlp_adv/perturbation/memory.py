"""What a method keeps from one step to the next."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor

from nlp_adv.perturbation.slices import Per, Segments


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

    def keep(self, names: list[str], delta: Tensor, mask: Tensor, per: Per = "example") -> None:
        """Keep each example's δ under its name, its free coordinates alone, on the CPU.

        Args:
            names: of the examples, or of the segments of each row.
            delta: δ.
            mask: 1 where it is free.
            per: what is an example: a row, or a segment.
        """
        delta = delta.detach().cpu()
        for name, (row, where) in zip(names, _free(mask, per), strict=True):
            self.tensors[f"delta/{name}"] = delta[row][where]

    def recall(self, names: list[str], start: Tensor, mask: Tensor, per: Per = "example") -> Tensor:
        """Each example's kept δ; `start` where there is none, or of another length."""
        delta = start.detach().cpu().clone()
        for name, (row, where) in zip(names, _free(mask, per), strict=True):
            kept = self.tensors.get(f"delta/{name}")
            if kept is not None and len(kept) == int(where.sum()):
                delta[row][where] = kept.to(delta.dtype)
        return delta.to(start.device)


def _free(mask: Tensor, per: Per) -> Iterator[tuple[int, Tensor]]:
    """The row of each example, and what of the row is free and its own."""
    index = per.index.cpu() if isinstance(per, Segments) else None
    for row, free in enumerate(mask.cpu() > 0):
        if index is None:
            yield row, free
            continue
        for number in range(per.count if isinstance(per, Segments) else 0):
            yield row, free & (index[row] == number)[:, None]


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
