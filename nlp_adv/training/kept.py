"""What a method keeps from step to step, saved with checkpoints and loaded with them."""

import logging
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from transformers import Trainer
from transformers.trainer_utils import has_length

from nlp_adv.errors import UserError
from nlp_adv.methods import NoAttack, Schedule
from nlp_adv.perturbation import Memory
from nlp_adv.training.checkpoints import (
    MEMORY,
    MEMORY_PROCESSES,
    check_same_method,
    lack,
    memory_processes,
    newest_whole,
)
from nlp_adv.training.inputs import site_text
from nlp_adv.training.records import run_description

if TYPE_CHECKING:  # the mixin goes before any Trainer; only the type checker takes it for one
    _Trainer = Trainer
else:
    _Trainer = object

logger = logging.getLogger(__name__)


class MemoryMixin(_Trainer):
    """One `Memory` a run and process; a file beside the optimizer's where there is something in it.

    A run goes on only from a whole checkpoint of the same method with the same numbers.

    Errors: UserError for a checkpoint of another method or another number of processes, and for
    one that lacks something; ordinary training resumes from whatever the stock Trainer accepts.
    """

    _memory: Memory
    _epoch_steps = 0  # optimizer steps of an epoch, where it has a length

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's; `resume_from_checkpoint=True` takes the newest whole checkpoint."""
        if args and args[0]:
            args = (self._whole(args[0]), *args[1:])
        elif kwargs.get("resume_from_checkpoint"):
            kwargs["resume_from_checkpoint"] = self._whole(kwargs["resume_from_checkpoint"])
        return super().train(*args, **kwargs)

    def _build_schedule(self) -> Schedule:
        raise NotImplementedError  # the adversarial mixin's

    def _over_run(self, schedule: Schedule) -> Schedule:
        """The schedule in steps of this run."""
        try:
            return schedule.over(self.state.max_steps, self._epoch_steps)
        except ValueError as error:
            raise UserError(str(error)) from error

    def _whole(self, resume: Any) -> Any:
        """The checkpoint to resume from."""
        attacked = not isinstance(self._build_schedule().method, NoAttack)
        if resume is True:
            folder = Path(str(self.args.output_dir))
            newest, skipped = newest_whole(folder, self.args, everything=attacked)
            if newest is None and attacked:
                raise UserError(none_whole(folder, skipped))
            for one in skipped if newest else ():
                logger.warning("%s: going on from %s.", one, newest)
            return True if newest is None else str(newest)
        what = lack(Path(resume), self.args) if attacked else None
        if what is not None:
            raise UserError(not_whole(resume, what))
        return resume

    def set_initial_training_values(self, args: Any, dataloader: Any) -> Any:
        """The Trainer's; it begins a run, and begins it again with smaller batches."""
        self._memory = self._new_memory()
        values: Any = super().set_initial_training_values(args, dataloader)
        self._epoch_steps = values[1] if has_length(dataloader) else 0
        return values

    def _new_memory(self) -> Memory:
        on_cpu = getattr(self.args, "adv_keep_on", "device") == "cpu"
        return Memory(device="cpu" if on_cpu else None)

    def _kept(self) -> dict[str, int]:
        """For a checkpoint's configuration: whether there is something that must come back."""
        return {MEMORY_PROCESSES: self.args.world_size} if self._memory.tensors else {}

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        if self._memory.tensors:
            torch.save(self._memory.tensors, self._memory_file(output_dir))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        self._check_same_run(Path(checkpoint))
        path = self._memory_file(checkpoint)
        try:
            super()._load_optimizer_and_scheduler(checkpoint)
            if path.is_file():
                self._memory.tensors = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, ValueError, RuntimeError, KeyError, EOFError, pickle.PickleError) as error:
            reason = " ".join(str(error).split())[:300].rstrip(".")
            raise UserError(not_whole(checkpoint, f"does not fit or is damaged ({reason})")) from (
                error
            )

    def _check_same_run(self, checkpoint: Path) -> None:
        schedule = self._over_run(self._build_schedule())
        excluded = getattr(self.args, "adv_exclude_special_tokens", False)
        site = site_text(self.args, schedule.method, cast(nn.Module, self.model))
        span = getattr(self.args, "adv_span", None)
        description = run_description(schedule, excluded, site, self.train_dataset, span)
        check_same_method(checkpoint, description)
        if schedule.method.name == "none":
            return
        rank = f"_{self.args.process_index}" if self.args.world_size > 1 else ""
        if not (checkpoint / f"rng_state{rank}.pth").is_file():
            logger.warning(
                "%s was made by another number of processes than %d: dropout and other random "
                "numbers go on as if the run began here.",
                checkpoint,
                self.args.world_size,
            )
        processes = memory_processes(checkpoint)
        if processes not in (None, self.args.world_size):
            raise UserError(
                f"{checkpoint} holds what the method kept in another number of processes; resume "
                f"with as many as it was trained with, {processes}, not {self.args.world_size}."
            )

    def _memory_file(self, folder: str) -> Path:
        rank, processes = self.args.process_index, self.args.world_size
        return Path(folder) / MEMORY.format(rank=rank, processes=processes)


def not_whole(checkpoint: str | Path, what: str) -> str:
    """What to say of a checkpoint that a run cannot go on from."""
    return (
        f"{checkpoint} {what}, so the run cannot go on from it: resume from another checkpoint, or "
        f"begin a new run."
    )


def none_whole(folder: Path, skipped: list[str]) -> str:
    """What to say where no checkpoint of a folder is whole."""
    if not skipped:
        return f"There is no checkpoint in {folder} to resume from."
    return f"No checkpoint in {folder} is whole ({'; '.join(skipped)}); begin the run again."
