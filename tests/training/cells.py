"""The matrix: what a method comes to under a configuration of the Trainer, measured.

A cell is one short training run by the Trainer and one by `naive_loops`, told the same
micro-batches and random numbers. What is measured is the largest difference of a weight at the
end, as a share of the largest way that a weight went; or it is the sentence that refuses the pair.
"""

import gc
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from ddp_runs import Counting
from forked import found_by_two
from models import tiny
from naive_loops import LR, Rank, Setting, trained_by_hand
from sharded_runs import KINDS, on_the_cpu, whole
from tiny_training import METHODS, Watched, build, distance, l2, rows, trained
from torch import nn

from nlp_adv import UserError
from nlp_adv.methods import TAVAT, Method, Noise
from nlp_adv.perturbation import LInfBall

NAMES = ("fgm", "fgsm", "pgd", "freelb", "freeat", "yopo", "tavat", "vat", "smart", "trades")
NAMES += ("rdrop", "awp", "fgm_matrix", "noise")
OTHERS: dict[str, Method] = {
    "noise": Noise(LInfBall(0.1)),
    "freelb": METHODS["freelb-random"],
    "tavat": TAVAT(l2, 0.2, 2, init_magnitude=0.4),
}


def bert() -> nn.Module:
    return tiny("bert", dropout=0.1)


def single() -> nn.Module:
    return bert().float()


def with_lora() -> nn.Module:
    """Adapters on queries and values, of which none is zero; the classifier is trained whole."""
    import peft

    lora = peft.LoraConfig(
        task_type="SEQ_CLS",
        r=2,
        target_modules=["query", "value"],
        lora_dropout=0.1,
        init_lora_weights=False,
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return peft.get_peft_model(bert(), lora).double().train()


@dataclass(frozen=True)
class Configuration:
    """A column.

    Args:
        flags: of the Trainer.
        setting: the same for the loop.
        model: makes the model, as often as asked.
        close: the largest difference that rounding explains.
        processes: two exchange gradients, or share the model out.
        resumed: the run ends after half of its steps, and another goes on.
        needs: a package that may be missing.
    """

    flags: dict[str, Any] = field(default_factory=dict)
    setting: Setting = field(default_factory=Setting)
    model: Callable[[], nn.Module] = bert
    close: float = 1e-11
    processes: int = 1
    resumed: bool = False
    needs: str = "torch"


def checkpointing(reentrant: bool) -> Configuration:
    return Configuration(
        {
            "gradient_checkpointing": True,
            "gradient_checkpointing_kwargs": {"use_reentrant": reentrant},
        }
    )


def shared(kind: str) -> Configuration:
    if not kind.startswith("ZeRO"):
        return Configuration(KINDS.get(kind, {}), processes=2)
    return Configuration(KINDS[kind], model=single, processes=2, close=1e-4, needs="deepspeed")


CONFIGURATIONS = {
    "plain": Configuration(),
    "accumulation": Configuration({"gradient_accumulation_steps": 2}, Setting(accumulation=2)),
    # transformers sums the smoothed part in float32.
    "label smoothing": Configuration(
        {"label_smoothing_factor": 0.1}, Setting(smoothing=0.1), close=1e-5
    ),
    "clipping": Configuration({"max_grad_norm": 0.5}, Setting(clip=0.5)),
    "bf16": Configuration({"bf16": True}, Setting(bf16=True), single, close=0.1),
    "checkpointing": checkpointing(False),
    "checkpointing, reentrant": checkpointing(True),
    "LoRA": Configuration(model=with_lora, needs="peft"),
    # transformers computes the size of its noise in float32.
    "NEFTune": Configuration({"neftune_noise_alpha": 5.0}, Setting(neftune=5.0), close=1e-6),
    "resumed": Configuration(resumed=True),
    "DDP": shared("DDP"),
    "FSDP2": shared("FSDP2"),
    "ZeRO-1": shared("ZeRO-1"),
    "ZeRO-2": shared("ZeRO-2"),
    "ZeRO-3": shared("ZeRO-3"),
}

WHOLE_WEIGHTS = ("awp", "fgm_matrix")
REFUSED = {(c, name) for c in ("FSDP2", "ZeRO-1", "ZeRO-2", "ZeRO-3") for name in WHOLE_WEIGHTS}
REFUSED |= {("ZeRO-3", "yopo"), ("ZeRO-3", "tavat"), ("LoRA", "fgm_matrix")}


@dataclass(frozen=True)
class Cell:
    """What was found.

    Args:
        difference: between the Trainer and the loop, as a share of the way that the weights went.
        effect: the same between the loop and ordinary training: what the method does.
        refused: the sentence, where there is no run.
    """

    difference: float | None = None
    effect: float | None = None
    refused: str = ""


def observed(name: str, configuration: Configuration, folder: Path) -> tuple[dict, Rank] | str:
    """The weights after a run by the Trainer and what it drew, or why it is refused."""
    model = configuration.model()
    steps = 4 if configuration.resumed else 2
    given = {
        "options": {"method": OTHERS.get(name, METHODS[name])},
        "data": rows(64),
        "max_steps": steps,
        "optim": "sgd",
        "learning_rate": LR,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0,
        "adv_mend_loss_scaling": True,
        **configuration.flags,
    }
    cls = Watched if configuration.processes == 1 else Counting
    earlier = Rank([], [])
    try:
        if configuration.resumed:
            earlier = first_half(cls, configuration.model(), folder, given)
            trainer, states = build(folder / "again", cls, model=model, **given), begun(model)
            trainer.train(resume_from_checkpoint=str(folder / "checkpoint-2"))
        else:
            states = begun(model)
            trainer = trained(folder, cls, model=model, **given)
    except UserError as error:
        return str(error)
    own = trainer.micro_batches
    states = states[-2 * len(own) :]  # before them the first look at the model
    return whole(trainer), Rank([*earlier.micro_batches, *own], [*earlier.states, *states])


def first_half(cls: type[Watched], model: nn.Module, folder: Path, given: dict[str, Any]) -> Rank:
    """What a run of four steps drew until its checkpoint behind the second."""
    states = begun(model)
    trainer = trained(folder, cls, model=model, save_strategy="steps", save_steps=2, **given)
    all_of_them = trainer.micro_batches
    return Rank(all_of_them[:2], states[-2 * len(all_of_them) :][:4])


def begun(model: nn.Module) -> list[torch.Tensor]:
    """Where the whole passes of a model begin; the list grows."""
    states: list[torch.Tensor] = []
    last: list[torch.Tensor] = [torch.get_rng_state()]

    def begins(*args: Any) -> None:
        last[0] = torch.get_rng_state()

    model.register_forward_pre_hook(begins)
    model.register_forward_hook(lambda *args: states.append(last[0]))
    return states


def by_two(folder: Path, column: str, names: tuple[str, ...]) -> dict[str, Any]:
    """What one process of two observes of each method."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    found = {}
    for name in names:
        with pytest.MonkeyPatch.context() as patch:
            on_the_cpu(patch)
            found[name] = observed(name, CONFIGURATIONS[column], folder / name)
        AcceleratorState._reset_state()
    return found


def measured(column: str, names: tuple[str, ...]) -> dict[str, Cell]:
    """The cells of a configuration, a pair of processes for all of them where it takes two."""
    configuration = CONFIGURATIONS[column]
    with tempfile.TemporaryDirectory() as folder:
        if configuration.processes == 2:
            first, second = found_by_two(by_two, Path(folder), column, names)
            runs = {name: (first[name], second[name]) for name in names}
        else:
            runs = {name: (observed(name, configuration, Path(folder) / name),) for name in names}
    gc.collect()
    return {name: compared(name, configuration, runs[name]) for name in names}


def compared(name: str, configuration: Configuration, runs: tuple[Any, ...]) -> Cell:
    """A run of one or two processes against the loop on the same micro-batches."""
    if isinstance(runs[0], str):
        return Cell(refused=runs[0])
    got, ranks = runs[0][0], [rank for _, rank in runs]

    def by_hand(method: str) -> dict[str, torch.Tensor]:
        with torch.random.fork_rng():
            return trained_by_hand(method, configuration.model(), ranks, configuration.setting)

    want, ordinary = by_hand(name), by_hand("none")
    way = distance(want, configuration.model().state_dict())
    return Cell(distance(got, want) / way, distance(ordinary, want) / way)
