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

import paired
import pytest
import torch
from accelerate.state import AcceleratorState
from ddp_runs import Counting
from forked import found_by_two
from models import tiny
from naive_loops import LANGUAGE, LR, Rank, Setting, trained_by_hand
from sharded_runs import KINDS, on_the_cpu, whole
from tiny_training import METHODS, Watched, build, distance, l2, rows
from torch import nn

from nlp_adv import UserError
from nlp_adv.methods import CAPO, CAT, LAT, RR, TAVAT, FGMRemembered, Method, Noise
from nlp_adv.perturbation import L2Ball, LInfBall

NAMES = ("fgm", "fgsm", "pgd", "freelb", "freeat", "yopo", "tavat", "vat", "smart", "trades")
NAMES += ("rdrop", "awp", "fgm_matrix", "noise", "fgm_remembered", "sam", *LANGUAGE)
tokens = L2Ball(0.4, "token")
OTHERS: dict[str, Method] = {
    "noise": Noise(LInfBall(0.1)),
    "freelb": METHODS["freelb-random"],
    "tavat": TAVAT(l2, 0.2, 2, init_magnitude=0.4),
    "fgm_remembered": FGMRemembered(L2Ball(2.0)),
    "cat": CAT(tokens, 0.15, 3),
    "capo": CAPO(tokens, 0.15, 3),
    "lat": LAT(tokens, 0.15, 3),
    "rr": RR(2.0, 0.5, 1.5, "0,1"),
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


def gpt2() -> nn.Module:
    """Without dropout, since the loops over pairs make a pass a term."""
    return tiny("gpt2_lm")


def gpt2_with_lora() -> nn.Module:
    """Adapters on attention, of which none is zero, without dropout."""
    import peft

    lora = peft.LoraConfig(
        task_type="CAUSAL_LM", r=2, target_modules=["c_attn"], init_lora_weights=False
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return peft.get_peft_model(gpt2(), lora).double().train()


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

WRAPPED = "transformer_layer_cls_to_wrap"
ABOUT_PAIRS: dict[str, dict[str, Any]] = {name: {} for name in LANGUAGE}
ABOUT_PAIRS["lat"] = {"adv_site": "embedding,layer:0,layer:1"}
# NEFTune draws its noise for a whole batch, and the loops make a pass for each group of rows.
UNCOMPARED = {("NEFTune", name) for name in LANGUAGE}

WHOLE_WEIGHTS = ("awp", "fgm_matrix", "sam")
REFUSED = {(c, name) for c in ("FSDP2", "ZeRO-1", "ZeRO-2", "ZeRO-3") for name in WHOLE_WEIGHTS}
REFUSED |= {("label smoothing", name) for name in LANGUAGE}
REFUSED |= {
    ("ZeRO-3", "fgm_remembered"),
    ("ZeRO-3", "yopo"),
    ("ZeRO-3", "tavat"),
    ("LoRA", "fgm_matrix"),
}


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
    of_pairs = name in LANGUAGE
    model = new_model(name, configuration)
    steps = 4 if configuration.resumed else 2
    given = {
        "options": {"method": OTHERS.get(name) or METHODS[name]},
        "data": rows(64),
        "max_steps": steps,
        "optim": "sgd",
        "learning_rate": LR,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0,
        "adv_mend_loss_scaling": True,
        **configuration.flags,
    }
    if of_pairs:
        given["options"] |= {"data_collator": paired.Collate()}
        given |= {"data": [{"number": number} for number in range(64)], **ABOUT_PAIRS[name]}
        given |= {"remove_unused_columns": False}
        if "fsdp_config" in given:
            given["fsdp_config"] = {**given["fsdp_config"], WRAPPED: ["GPT2Block"]}
    before = None if hasattr(model, "disable_adapter") else as_it_was(name, configuration)
    cls = Watched if configuration.processes == 1 else Counting
    earlier = Rank([], [])
    try:
        if configuration.resumed:
            earlier = first_half(cls, new_model(name, configuration), folder, given, before)
            trainer, states = build(folder / "again", cls, model=model, **given), begun(model)
            trainer.ref_model = before
            trainer.train(resume_from_checkpoint=str(folder / "checkpoint-2"))
        else:
            states = begun(model)
            trainer = build(folder, cls, model=model, **given)
            trainer.ref_model = before
            trainer.train()
    except UserError as error:
        return str(error)
    own = trainer.micro_batches
    states = states[-2 * len(own) :]  # before them the first look at the model
    return whole(trainer), Rank([*earlier.micro_batches, *own], [*earlier.states, *states])


def new_model(name: str, configuration: Configuration) -> nn.Module:
    """The configuration's model; of methods that read completions a language model like it."""
    if name not in LANGUAGE:
        return configuration.model()
    like = configuration.model
    return {single: lambda: gpt2().float(), with_lora: gpt2_with_lora}.get(like, gpt2)()


def as_it_was(name: str, configuration: Configuration) -> nn.Module | None:
    """The model before training, for methods that compare with it; without an adapter."""
    if name not in LANGUAGE:
        return None
    dtype = next(new_model(name, configuration).parameters()).dtype
    before = gpt2().to(dtype).eval().requires_grad_(False)
    if configuration.model is not with_lora:  # an adapter is not 0: the two differ already
        for weight in before.parameters():
            weight.data *= 0.7
    return before


def first_half(
    cls: type[Watched],
    model: nn.Module,
    folder: Path,
    given: dict[str, Any],
    before: nn.Module | None,
) -> Rank:
    """What a run of four steps drew until its checkpoint behind the second."""
    states = begun(model)
    trainer = build(folder, cls, model=model, save_strategy="steps", save_steps=2, **given)
    trainer.ref_model = before
    trainer.train()
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
            model, before = new_model(name, configuration), as_it_was(name, configuration)
            return trained_by_hand(method, model, ranks, configuration.setting, before)

    want, ordinary = by_hand(name), by_hand("none")
    way = distance(want, new_model(name, configuration).state_dict())
    return Cell(distance(got, want) / way, distance(ordinary, want) / way)
