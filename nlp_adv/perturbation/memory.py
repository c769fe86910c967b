"""What a method keeps from one step to the next."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
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
        device: where `keep` leaves a δ until its example comes again; None is where the δ is, so
            that nothing travels. "cpu" spares an accelerator's memory, and waits for it twice a
            step.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    slot: int = 0
    replay: int = 0
    device: torch.device | str | None = None

    def keep(self, names: list[str], delta: Tensor, mask: Tensor, per: Per = "example") -> None:
        """Keep each example's δ under its name: its free coordinates, in order.

        Nothing here waits for an accelerator, so that how many there are is kept as a tensor too,
        and on one the rest of the row's width stays, as 0.

        Args:
            names: of the examples, or of the segments of each row.
            delta: δ.
            mask: 1 where it is free.
            per: what is an example: a row, or a segment.
        """
        delta = delta.detach()
        on = delta.device if self.device is None else self.device
        for name, (row, free) in zip(names, _free(mask, per), strict=True):
            place = torch.where(free, free.cumsum(0) - 1, len(free))
            values = delta.new_zeros(len(free) + 1).scatter_(0, place, delta[row].flatten())
            kept, count = values[:-1].to(on), free.sum().to(on)
            if kept.device.type == "cpu":  # where reading a number waits for nothing
                kept = kept[: int(count)].clone()
            self.tensors[f"delta/{name}"], self.tensors[f"free/{name}"] = kept, count

    def recall(self, names: list[str], start: Tensor, mask: Tensor, per: Per = "example") -> Tensor:
        """Each example's kept δ; `start` where there is none, or of another length."""
        delta = start.detach().clone(memory_format=torch.contiguous_format)
        for name, (row, free) in zip(names, _free(mask, per), strict=True):
            if f"delta/{name}" not in self.tensors:
                continue
            kept = self.tensors[f"delta/{name}"].to(delta)
            # Before version 0.10 the width was that of the free ones, and nothing counted them.
            fits = free.sum() == self.tensors.get(f"free/{name}", torch.tensor(len(kept))).to(kept)
            place = (free.cumsum(0) - 1).clamp(0, len(kept) - 1)
            before = delta[row].flatten()
            delta[row] = torch.where(free & fits, kept[place], before).view_as(delta[row])
        return delta


def _free(mask: Tensor, per: Per) -> Iterator[tuple[int, Tensor]]:
    """The row of each example, and which of the row's coordinates are free and its own, (n,)."""
    for row, free in enumerate(mask > 0):
        if isinstance(per, Segments):
            for number in range(per.count):
                yield row, (free & (per.index[row] == number)[:, None]).flatten()
        else:
            yield row, free.flatten()


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
