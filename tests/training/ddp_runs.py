"""Training runs that two processes and one process must agree on; started by `test_ddp.py`.

    python -m torch.distributed.run --nproc_per_node 2 ddp_runs.py FOLDER

writes what each process found into FOLDER.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # `models`, as under pytest

import torch
from models import tiny
from tiny_training import METHODS, Call, Watched, rows, trained, weights
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import SequentialSampler

NAMES = ("none", "fgm", "pgd", "pgd-clean", "freelb", "freelb-clean", "fgm_matrix", "freelb-random")
CASES = [(name, accumulation) for name in NAMES for accumulation in (1, 2)]
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

    def _get_train_sampler(self, *args: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)

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


def run(name: str, accumulation: int, *, processes: int) -> dict[str, Any]:
    """Weights, logs, gradient exchanges per step and seeds of one run."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = trained(
            Path(folder),
            Counting,
            model=tiny("bert"),  # no dropout: each process has its own masks
            data=rows(ROWS_PER_STEP * accumulation * STEPS),
            options={} if name == "none" else {"method": METHODS[name]},
            max_steps=STEPS,
            per_device_train_batch_size=ROWS_PER_STEP // processes,
            gradient_accumulation_steps=accumulation,
            adv_mend_loss_scaling=True,
            optim="sgd",
            learning_rate=0.1,
            max_grad_norm=0,
        )
    return {
        "weights": weights(trainer),
        "logs": [entry for entry in trainer.state.log_history if "loss" in entry],
        "exchanges": trainer.exchanges,
        "seeds": [micro.seed for micro in trainer.micro_batches],
        "processes": trainer.args.world_size,
    }


def main(folder: str) -> None:
    torch.set_num_threads(1)
    found = {case: run(*case, processes=2) for case in CASES}
    rank = torch.distributed.get_rank()
    torch.save(found, Path(folder) / f"rank{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
