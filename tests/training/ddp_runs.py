"""Training runs that two processes and one process must agree on; forked by `test_ddp.py`."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import tiny
from tiny_training import (
    METHODS,
    STILL,
    Call,
    Watched,
    build,
    rows,
    still_starts,
    trained,
    weights,
)
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Sampler, SequentialSampler

from nlp_adv import UserError
from nlp_adv.methods import StepReport
from nlp_adv.training.replays import ReplaySampler

RUNS = METHODS | {f"still-{name}": method for name, method in STILL.items()}
NAMES = ("none", "fgm", "pgd", "pgd-clean", "freelb", "freelb-clean", "fgm_matrix", "freelb-random")
NAMES += ("freelb-reuse", "freeat", "yopo", "tavat-random", "vat", "rdrop", "awp")
NAMES += tuple(name for name in RUNS if name.startswith("still-"))
USERS = ("users-fgm", "users-pgd-clean", "users-freelb", "users-still-trades")
NAMES += USERS
CASES = [(name, accumulation) for name in NAMES for accumulation in (1, 2)]
# Where the Trainer multiplies the gradient by the processes, and where the model divides.
WEIGHTED = [
    (kind, accumulation) for kind in ("unmended", "language model") for accumulation in (1, 2)
]
RESUMED = ("freeat", "freeat by length", "tavat-random", "freelb-reuse", "smart-past")
STEPS = 2
ROWS_PER_STEP = 8  # of one accumulation step, over all processes


class Counting(Watched):
    """Rows in their order, and a count of gradient exchanges."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.exchanges: list[int] = []
        self._count = 0
        self.add_callback(Call("on_train_begin", self._listen))
        self.add_callback(Call("on_step_end", self._note))

    def _get_train_sampler(self, *args: Any) -> Sampler:
        sampler, in_order = super()._get_train_sampler(*args), SequentialSampler(self.train_dataset)
        if not isinstance(sampler, ReplaySampler):
            return in_order
        sampler.sampler = in_order
        return sampler

    def _listen(self, state: Any) -> None:
        if isinstance(self.model_wrapped, DistributedDataParallel):
            self.model_wrapped.register_comm_hook(None, self._exchange)

    def _exchange(
        self, group: Any, bucket: torch.distributed.GradBucket
    ) -> torch.futures.Future[torch.Tensor]:
        self._count += 1
        return allreduce_hook(group, bucket)

    def _note(self, state: Any) -> None:
        self.exchanges.append(self._count)
        self._count = 0


class Users(Counting):
    """A Trainer of somebody's own: its step calls no parent, its loss draws and writes."""

    def training_step(self, model, inputs, num_items_in_batch=None):
        self.remember(inputs, num_items_in_batch)
        model.train()
        loss = self.compute_loss(model, self._prepare_inputs(inputs))
        self.accelerator.backward(loss / self.current_gradient_accumulation_steps)
        return loss.detach() / self.current_gradient_accumulation_steps

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        inputs["input_ids"][:, 1] = 4 + inputs["input_ids"][:, 1] % 7
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
        loss = loss * (0.5 + np.random.rand())
        return (loss, outputs) if return_outputs else loss


@dataclass(frozen=True)
class Lazy:
    """Declares two passes, and makes one at every second step."""

    name: str = "lazy"
    passes: int = 2
    inner_passes: int = 0
    made: list[int] = field(default_factory=list)

    def step(self, objective):
        self.made.append(1)
        losses = [objective.forward().loss / 2 for _ in range(1 + len(self.made) % 2)]
        for loss in losses:
            objective.backward(loss)
        return StepReport(2 * losses[0].detach())


def lazy() -> str:
    """What a run of it ends in."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            options = {"method": Lazy()}
            trained(Path(folder), model=tiny("bert"), options=options, max_steps=4)
        except UserError as error:
            return str(error)
    return ""


def run(name: str, accumulation: int, *, processes: int, **flags: Any) -> dict[str, Any]:
    """Weights, logs, gradient exchanges per step, seeds and words of one run."""
    language = flags.pop("language", False)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        if "still-" in name:
            still_starts(patch)
        method = name.removeprefix("users-")
        trainer = trained(
            Path(folder),
            Users if name in USERS else Counting,
            # No dropout: each process has its own masks.
            model=tiny("gpt2_lm" if language else "bert"),
            data=rows(ROWS_PER_STEP * accumulation * STEPS, language=language),
            options={} if name == "none" else {"method": RUNS[method]},
            max_steps=STEPS,
            per_device_train_batch_size=ROWS_PER_STEP // processes,
            gradient_accumulation_steps=accumulation,
            optim="sgd",
            max_grad_norm=0,
            **{"learning_rate": 0.1, "adv_mend_loss_scaling": True, **flags},
        )
    return {
        "weights": weights(trainer),
        "logs": [entry for entry in trainer.state.log_history if "loss" in entry],
        "exchanges": trainer.exchanges,
        "seeds": [micro.seed for micro in trainer.micro_batches],
        "words": [micro.inputs["input_ids"].tolist() for micro in trainer.micro_batches],
        "processes": trainer.args.world_size,
    }


def weighted(kind: str, accumulation: int, *, processes: int) -> dict[str, Any]:
    """A run with a divergence; without mending a second process is a second learning rate."""
    if kind == "language model":
        flags = {"language": True}
    else:
        flags = {"adv_mend_loss_scaling": False, "learning_rate": 0.2 / processes}
    return run("still-trades", accumulation, processes=processes, **flags)


def resumed(name: str, folder: Path) -> dict[str, Any]:
    """A run of two processes, and the same one resumed in its second epoch."""
    method, _, by_length = name.partition(" ")
    flags = {"data": rows(16), "max_steps": 7, "options": {"method": METHODS[method]}}
    if by_length:
        flags["train_sampling_strategy"] = "group_by_length"
    whole = trained(folder, Watched, **flags, save_strategy="steps", save_steps=5)
    torch.distributed.barrier()
    again = build(folder / "again", Watched, **flags)
    again.train(resume_from_checkpoint=str(folder / "checkpoint-5"))
    return {
        "whole": weights(whole),
        "again": weights(again),
        "words": [micro.inputs["input_ids"].tolist() for micro in whole.micro_batches],
        "words again": [micro.inputs["input_ids"].tolist() for micro in again.micro_batches],
        "kept": dict(whole._memory.tensors),
        "kept again": dict(again._memory.tensors),
        "files": sorted(file.name for file in (folder / "checkpoint-5").glob("adversarial_*.pt")),
    }


def waited() -> list[int]:
    """Steps that are attacked where each process has measured something else."""
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    scores = iter([0.1, 0.1 + rank, 1.0, 1.0, 0.0, 0.0])  # the second process's passes earlier
    with tempfile.TemporaryDirectory() as folder:
        trainer = trained(
            Path(folder),
            model=tiny("bert"),
            options={"eval_dataset": rows(4), "compute_metrics": lambda _: {"a": next(scores)}},
            adv="freelb",
            adv_start_when="eval_a>0.5",
            adv_every=2,
            adv_linear="steps=1",
            eval_strategy="steps",
            eval_steps=1,
            max_steps=6,
        )
    return [entry["step"] for entry in trainer.state.log_history if "delta_norm" in entry]


def found(folder: Path, cases: Any, kept: Any) -> dict[Any, Any]:
    """What a process of two finds in the cases, and in runs that are resumed."""
    runs: dict[Any, Any] = {case: run(*case, processes=2) for case in cases}
    runs |= {("weighted", *case): weighted(*case, processes=2) for case in WEIGHTED}
    runs["lazy"], runs["waited"] = lazy(), waited()
    return runs | {("resumed", name): resumed(name, folder / name) for name in kept}
