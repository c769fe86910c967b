"""One training run by the loops of tests/parity, which know nothing of the package or the Trainer.

The loop is told what the run drew: its micro-batches, its random states and its seeds. It keeps δ,
weights and optimizer by itself.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from models import VOCAB
from tiny_training import MicroBatch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

sys.path.append(str(Path(__file__).parents[1] / "parity"))
import paired
import reference_completions as completions
import reference_consistency as consistency
import reference_loops as loops
import reference_memory as memory

LR = 0.1
WIDTH = 16  # of the tiny models
LANGUAGE = ("cat", "capo", "lat", "rr")
REPLAYS = 2


@dataclass
class Rank:
    """What one process saw: its micro-batches, and where the passes of each began."""

    micro_batches: list[MicroBatch]
    states: list[Tensor]


@dataclass(frozen=True)
class Setting:
    """What a loop must do beside the method.

    Args:
        accumulation: micro-batches of a step, which are averaged, as processes are.
        clip: the largest norm of a step's gradient, where there is one.
        smoothing: of the labels.
        neftune: α of the noise on the embeddings, 0 for none.
        bf16: whether passes are made under autocast.
    """

    accumulation: int = 1
    clip: float | None = None
    smoothing: float = 0.0
    neftune: float = 0.0
    bf16: bool = False


def draws(micro: MicroBatch, dtype: torch.dtype, *, normal: bool = False) -> Tensor:
    """U(−1, 1), or N(0, 1), for each coordinate of a micro-batch, of its seed."""
    made = torch.empty(*micro.inputs["input_ids"].shape, WIDTH, dtype=dtype)
    source = torch.Generator().manual_seed(micro.seed)
    made = made.normal_(generator=source) if normal else made.uniform_(-1, 1, generator=source)
    return made.double()


def zero(micro: MicroBatch) -> Tensor:
    return torch.zeros(*micro.inputs["input_ids"].shape, WIDTH, dtype=torch.float64)


def plain(model: nn.Module, micro: MicroBatch, dtype: torch.dtype) -> None:
    model(**micro.inputs).loss.backward()


def noise(model: nn.Module, micro: MicroBatch, dtype: torch.dtype) -> None:
    free = micro.inputs["attention_mask"][..., None]
    alpha = 0.1 * (free.shape[1] * WIDTH) ** 0.5
    loops.neftune(model, micro.inputs, draws=draws(micro, dtype) * free, alpha=alpha)


def freelb(model: nn.Module, micro: MicroBatch, dtype: torch.dtype) -> None:
    sizes = {"adv_lr": 0.2, "adv_steps": 3, "adv_init_mag": 0.4, "adv_max_norm": 0.5}
    start = {"draws": draws(micro, dtype), "project_start": True}
    loops.freelb(model, micro.inputs, **sizes, **start)


def yopo(model: nn.Module, micro: MicroBatch, dtype: torch.dtype) -> None:
    sizes = {"start": zero(micro), "epsilon": 0.5, "sigma": 0.2, "m": 2, "n": 3}
    loops.yopo(model, micro.inputs, **sizes)


def vat(model: nn.Module, micro: MicroBatch, dtype: torch.dtype) -> None:
    sizes = {"xi": 0.1, "epsilon": 0.5, "power": 1, "beta": 1.0}
    consistency.vat(model, micro.inputs, draws=draws(micro, dtype, normal=True), **sizes)


def smart(model: nn.Module, micro: MicroBatch, dtype: torch.dtype) -> None:
    sizes = {"init": 0.2, "norm": "linf", "epsilon": 0.1, "eta": 0.05, "steps": 1, "weight": 1.0}
    consistency.smart(model, micro.inputs, draws=draws(micro, dtype), **sizes)


def trades(model: nn.Module, micro: MicroBatch, dtype: torch.dtype) -> None:
    sizes = {"init": 0.2, "norm": "l2", "epsilon": 0.5, "step_size": 0.2, "perturb_steps": 2}
    consistency.trades(model, micro.inputs, draws=draws(micro, dtype), beta=6.0, **sizes)


def attack(micro: MicroBatch, alpha: float, steps: int) -> dict[str, Any]:
    return {"start": zero(micro), "norm": "l2", "epsilon": 0.5, "alpha": alpha, "steps": steps}


def of_one_batch(name: str) -> Callable[[nn.Module, MicroBatch, torch.dtype], Any]:
    """A loop that keeps nothing between micro-batches."""
    by_name = {
        "none": plain,
        "noise": noise,
        "freelb": freelb,
        "yopo": yopo,
        "vat": vat,
        "smart": smart,
        "trades": trades,
        "fgsm": lambda m, b, _: loops.fgsm(m, b.inputs, epsilon=0.1, weight=0.5),
        "fgm": lambda m, b, _: loops.fgm(m, b.inputs, epsilon=0.5),
        "fgm_matrix": lambda m, b, _: loops.fgm_matrix(m, b.inputs, epsilon=0.5),
        "pgd": lambda m, b, _: loops.pgd(m, b.inputs, **attack(b, 0.2, 3)),
        "sam": lambda m, b, _: loops.sam(m, b.inputs, rho=0.1),
        "awp": lambda m, b, _: loops.awp(m, b.inputs, gamma=0.05, **attack(b, 0.4, 1)),
    }
    return by_name[name]


def of_pairs(name: str, model: nn.Module, micro: MicroBatch, before: nn.Module | None) -> None:
    """One loop over rejected, chosen and utility rows; without a name the two that are learnt."""
    numbers = (paired.REJECTED, paired.CHOSEN, paired.UTILITY)
    rejected, chosen, useful = (paired.of(micro.inputs, number) for number in numbers)
    sizes = {"epsilon": 0.4, "alpha": 0.15, "steps": 3}
    if name == "none":
        learnt = [(completions.cross_entropy(model, rows), rows) for rows in (chosen, useful)]
        words = [(rows["labels"][:, 1:] != -100).sum(1) for _, rows in learnt]
        total = sum((loss * count).sum() for (loss, _), count in zip(learnt, words, strict=True))
        (total / sum(int(count.sum()) for count in words)).backward()
    elif name == "capo":
        completions.capo(model, before, rejected, chosen, useful, **sizes)
    elif name == "rr":
        weights = {"layers": [0, 1], "away": 2.0, "useful": 0.5, "refusal": 1.5}
        completions.rr(model, before, rejected, chosen, useful, **weights)
    else:
        loop = completions.cat if name == "cat" else completions.lat
        loop(model, rejected, chosen, useful, **sizes)


HALVED = ("fgm", "fgm_matrix", "rdrop")  # the papers add up what the methods average


def programme(
    name: str,
    model: nn.Module,
    rank: Rank,
    accumulation: int,
    dtype: torch.dtype,
    before: nn.Module | None = None,
) -> Iterator[None]:
    """Leaves ∇θ of each micro-batch in turn; `before` is the model as it was."""
    micro_batches = rank.micro_batches
    if name in LANGUAGE:
        for micro in micro_batches:
            model.zero_grad()
            of_pairs(name, model, micro, before)
            yield
    elif name == "freeat":
        sizes = {"norm": "l2", "epsilon": 0.5, "step_size": 0.3, "m": REPLAYS, "lr": 0.0}
        running: dict[int, Iterator[Tensor]] = {}
        for index, micro in enumerate(micro_batches):
            step, slot = divmod(index, accumulation)
            if step % REPLAYS == 0:
                running[slot] = memory.freeat(model, [micro.inputs], persistent=False, **sizes)
            next(running[slot])
            yield
    elif name == "fgm_remembered":
        sizes = {"by": "label_word", "epsilon": 2.0, "momentum": 0.9, "lr": 0.0}
        batches = [micro.inputs for micro in micro_batches]
        for _ in memory.fgm_remembered(model, batches, **sizes):
            yield
    elif name == "tavat":
        source = torch.Generator().manual_seed(micro_batches[0].seed)
        table = torch.empty(VOCAB + 1, WIDTH, dtype=dtype).uniform_(-1, 1, generator=source)
        first = torch.empty_like(zero(micro_batches[0]), dtype=dtype)
        drawn = [first.uniform_(-1, 1, generator=source).double()]
        drawn += [draws(micro, dtype) for micro in micro_batches[1:]]
        table = table[:VOCAB].double() * 0.4 / WIDTH**0.5
        sizes = {"adv_lr": 0.2, "adv_steps": 2, "adv_init_mag": 0.4, "adv_max_norm": 0.5, "lr": 0.0}
        batches = [micro.inputs for micro in micro_batches]
        for _ in memory.tavat(model, batches, table=table, draws=drawn, **sizes):
            yield
    else:
        for index, micro in enumerate(micro_batches):
            model.zero_grad()
            if name == "none" and before is not None:
                of_pairs(name, model, micro, before)
            elif name == "rdrop":
                states = rank.states[2 * index : 2 * index + 2]
                consistency.rdrop(model, micro.inputs, states=states, alpha=2.0)
            else:
                of_one_batch(name)(model, micro, dtype)
            yield


class Passes:
    """How the loop makes a pass: where its random numbers begin, its noise, its loss, its dtype."""

    def __init__(self, model: nn.Module, name: str, setting: Setting) -> None:
        self.state: Tensor | None = None
        self.setting, self.redraws = setting, name != "rdrop"
        self.dtype = next(model.parameters()).dtype
        words = model.get_input_embeddings()
        words.register_forward_pre_hook(self.begin)
        if setting.neftune:
            words.register_forward_hook(self.noisy)
        if setting.smoothing:
            model.register_forward_hook(self.smoothed, with_kwargs=True)
        if setting.bf16 and name != "yopo":
            # Each pass casts its weights anew: AWP moves them, and sums of gradients are float32.
            model.register_forward_pre_hook(self.enter)
            model.register_forward_hook(self.leave)
        of_pairs = not hasattr(model, "bert")
        body = model.transformer if of_pairs else model.bert
        parts = [body, *body.h, body.ln_f] if of_pairs else [body.embeddings, *body.encoder.layer]
        for module in parts:
            module.register_forward_pre_hook(self.cast, with_kwargs=True)

    def begin(self, *args: Any) -> None:
        if (
            self.redraws and self.state is not None
        ):  # every pass of a micro-batch has the same masks
            torch.set_rng_state(self.state)

    def noisy(self, module: Any, args: Any, output: Tensor) -> Tensor:
        size = self.setting.neftune / (output.shape[1] * output.shape[2]) ** 0.5
        return output + torch.zeros_like(output).uniform_(-size, size)

    def enter(self, *args: Any) -> None:
        self.context = torch.autocast("cpu", torch.bfloat16)
        self.context.__enter__()

    def leave(self, module: Any, args: Any, output: Any) -> Any:
        self.context.__exit__(None, None, None)
        output.logits = output.logits.float()
        return output

    def smoothed(self, module: Any, args: Any, given: Any, output: Any) -> Any:
        if given.get("labels") is not None:
            smoothing = self.setting.smoothing
            output.loss = cross_entropy(output.logits, given["labels"], label_smoothing=smoothing)
        return output

    def cast(self, module: Any, args: Any, given: Any) -> Any:
        """The loops keep δ in float64."""

        def one(value: Any) -> Any:
            floating = isinstance(value, Tensor) and value.dtype == torch.float64
            return value.to(self.dtype) if floating else value

        return tuple(map(one, args)), {key: one(value) for key, value in given.items()}


def trained_by_hand(
    name: str,
    model: nn.Module,
    ranks: list[Rank],
    setting: Setting,
    before: nn.Module | None = None,
) -> dict[str, Tensor]:
    """The weights after SGD on every step's mean gradient, over micro-batches and processes."""
    if before is not None and setting.bf16:
        Passes(before, name, setting)
    passes, count = Passes(model, name, setting), len(ranks) * setting.accumulation
    optimizer = torch.optim.SGD(model.parameters(), LR)
    programmes = [
        programme(name, model, r, setting.accumulation, passes.dtype, before) for r in ranks
    ]
    moved = [parameter for parameter in model.parameters() if parameter.requires_grad]
    share = (0.5 if name in HALVED else 1.0) / count
    with pytest.MonkeyPatch.context() as patch:
        for module in (loops, consistency):  # as the losses that they write out
            patch.setattr(module, "cross_entropy", _smoothing(setting.smoothing))
        for first in range(0, len(ranks[0].micro_batches), setting.accumulation):
            total = [torch.zeros_like(parameter) for parameter in moved]
            for index in range(first, first + setting.accumulation):
                for rank, running in zip(ranks, programmes, strict=True):
                    passes.state = rank.micro_batches[index].random_state
                    # yopo runs the model in parts.
                    parts = setting.bf16 and name == "yopo"
                    with torch.autocast("cpu", torch.bfloat16) if parts else nullcontext():
                        next(running)
                    for into, parameter in zip(total, moved, strict=True):
                        if parameter.grad is not None:
                            into += share * parameter.grad
            for parameter, gradient in zip(moved, total, strict=True):
                parameter.grad = gradient
            if setting.clip is not None:
                nn.utils.clip_grad_norm_(moved, setting.clip)
            optimizer.step()
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


def _smoothing(amount: float) -> Callable[[Tensor, Tensor], Tensor]:
    def smoothed(logits: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(logits, labels, label_smoothing=amount)

    return smoothed
