"""What a method keeps from step to step, saved with checkpoints and loaded with them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import Trainer

from nlp_adv.errors import UserError
from nlp_adv.perturbation import Memory

if TYPE_CHECKING:  # the mixin goes before any Trainer; only the type checker takes it for one
    _Trainer = Trainer
else:
    _Trainer = object

_NAME = "adversarial_memory_{rank}_of_{processes}.pt"


class MemoryMixin(_Trainer):
    """One `Memory` a run and process; a file beside the optimizer's where there is something in it.

    Errors: UserError for a checkpoint of another number of processes.
    """

    _memory: Memory

    def set_initial_training_values(self, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's; it begins a run, and begins it again with smaller batches."""
        self._memory = Memory()
        return super().set_initial_training_values(*args, **kwargs)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        if self._memory.tensors:
            torch.save(self._memory.tensors, self._memory_file(output_dir))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        path = self._memory_file(checkpoint)
        if path.is_file():
            self._memory.tensors = torch.load(path, map_location="cpu", weights_only=True)
        elif any(Path(checkpoint).glob(_NAME.format(rank="*", processes="*"))):
            raise UserError(
                f"{checkpoint} holds what the method kept in another number of processes; resume "
                f"with as many as it was trained with, not {self.args.world_size}."
            )

    def _memory_file(self, folder: str) -> Path:
        rank, processes = self.args.process_index, self.args.world_size
        return Path(folder) / _NAME.format(rank=rank, processes=processes)
