"""Training runs in shards that must agree with one process; forked by `test_sharded.py`."""

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from ddp_runs import ROWS_PER_STEP, RUNS, STEPS, Counting
from models import tiny
from tiny_training import build, rows, still_starts, trained
from torch.distributed.fsdp._fully_shard import _fsdp_param_group as groups
from torch.distributed.tensor import DTensor

from nlp_adv import UserError
from nlp_adv.training.exchange import sharding

FSDP2 = {
    "fsdp": True,
    "fsdp_config": {"version": 2, "transformer_layer_cls_to_wrap": ["BertLayer"]},
}


def zero(stage: int) -> dict[str, Any]:
    """DeepSpeed's settings; no weight is too small to be shared out."""
    shares = {"stage3_param_persistence_threshold": 0} if stage == 3 else {}
    return {
        "deepspeed": {
            "train_micro_batch_size_per_gpu": "auto",
            "gradient_accumulation_steps": "auto",
            "zero_optimization": {"stage": stage, **shares},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "gradient_clipping": 0.0,
        }
    }


KINDS = {"FSDP2": FSDP2, **{f"ZeRO-{stage}": zero(stage) for stage in (1, 2, 3)}}


def on_the_cpu(patch: pytest.MonkeyPatch) -> None:
    """accelerate shards on accelerators alone; the same code runs here with gloo."""
    stock = AcceleratorState.__init__

    def begin(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        stock(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.FSDP
            self.fsdp_plugin = fsdp_plugin
            PartialState._shared_state["distributed_type"] = self.distributed_type

    patch.setattr(AcceleratorState, "__init__", begin)


class Sharded(Counting):
    """Counts the reductions of FSDP2, and the steps of DeepSpeed's engine."""

    def _listen(self, state: Any) -> None:
        super()._listen(state)
        engine = getattr(self, "deepspeed", None)
        if engine is not None:
            stock = engine.step

            def step(*args: Any, **kwargs: Any) -> Any:
                self._count += 1
                return stock(*args, **kwargs)

            engine.step = step


def whole(trainer: Any) -> dict[str, torch.Tensor]:
    """The weights, put together again."""
    if trainer.is_deepspeed_enabled:
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(trainer.model.parameters())):
            return {name: value.clone() for name, value in trainer.model.state_dict().items()}
    state = trainer.model.state_dict()
    return {
        name: value.full_tensor() if isinstance(value, DTensor) else value.clone()
        for name, value in state.items()
    }


def run(name: str, accumulation: int, *, processes: int, **flags: Any) -> dict[str, Any]:
    """Weights, logs and gradient exchanges of one run."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        on_the_cpu(patch)
        counted: list[int] = []
        reduce = groups.foreach_reduce
        if "still-" in name:
            still_starts(patch)

        def counting(*args: Any, **kwargs: Any) -> Any:
            counted.append(1)
            return reduce(*args, **kwargs)

        patch.setattr(groups, "foreach_reduce", counting)
        trainer = trained(
            Path(folder),
            Sharded,
            model=tiny("bert").to(flags.pop("dtype", torch.float64)),
            data=rows(ROWS_PER_STEP * accumulation * STEPS),
            options={} if name == "none" else {"method": RUNS[name]},
            max_steps=STEPS,
            per_device_train_batch_size=ROWS_PER_STEP // processes,
            gradient_accumulation_steps=accumulation,
            optim="sgd",
            lr_scheduler_type="constant",
            learning_rate=0.1,
            max_grad_norm=0,
            adv_mend_loss_scaling=True,
            **flags,
        )
        return {
            "weights": whole(trainer),
            "logs": [entry for entry in trainer.state.log_history if "loss" in entry],
            "exchanges": [len(counted), *trainer.exchanges],
            "kind": type(trainer.model_wrapped).__name__,
        }


def found(folder: Path, kind: str, cases: Any, resumed: Any) -> dict[Any, Any]:
    """What a process of two finds in the cases: a run, or the sentence that refuses it."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    runs: dict[Any, Any] = {}
    for case in cases:
        try:
            runs[case] = run(*case, processes=2, **KINDS[kind], dtype=dtype_of(kind))
        except UserError as error:
            runs[case] = str(error)
        AcceleratorState._reset_state()
    for name in resumed:
        runs["resumed", name] = again(name, folder / name, kind)
    return runs


def again(name: str, folder: Path, kind: str) -> dict[str, Any]:
    """A run in bf16, and the same one resumed behind its first step."""
    with pytest.MonkeyPatch.context() as patch:
        on_the_cpu(patch)
        flags = {"data": rows(32), "options": {"method": RUNS[name]}, "max_steps": 4, "bf16": True}
        flags |= {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2, **KINDS[kind]}
        saved = {"save_strategy": "steps", "save_steps": 1}
        first = trained(folder, model=tiny("bert").float(), **flags, **saved)
        torch.distributed.barrier()
        AcceleratorState._reset_state()
        second = build(folder / "again", model=tiny("bert").float(), **flags)
        second.train(resume_from_checkpoint=str(folder / "checkpoint-1"))
        AcceleratorState._reset_state()
        return {"whole": whole(first), "again": whole(second)}


def launched(folder: Path, env: dict[str, str]) -> dict[str, Any]:
    """A run that is told nothing but by the environment, as `accelerate launch` leaves it."""
    os.environ.update(env | {"DS_ACCELERATOR": "cpu"})
    with pytest.MonkeyPatch.context() as patch:
        on_the_cpu(patch)
        flags = {"options": {"method": RUNS["freelb"]}, "data": rows(16), "optim": "sgd"}
        flags["bf16"] = True  # DeepSpeed refuses a script that does not say the same
        trainer = trained(folder, model=tiny("bert").float(), **flags)
        logs = [entry for entry in trainer.state.log_history if "adv_loss" in entry]
        return {"weights": whole(trainer), "kind": str(sharding(trainer)), "steps": len(logs)}


def dtype_of(kind: str) -> torch.dtype:
    """DeepSpeed's optimizers keep float32."""
    return torch.float64 if kind == "FSDP2" else torch.float32
