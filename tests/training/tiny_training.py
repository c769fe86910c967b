"""Trainer runs of a fraction of a second: tiny float64 models, rows that need no data set."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from models import VOCAB, gradients, tiny
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from nlp_adv import AdversarialTrainer, AdversarialTrainingArguments
from nlp_adv.methods import (
    AWP,
    FGM,
    FGSM,
    PGD,
    SAM,
    SMART,
    TAVAT,
    TRADES,
    VAT,
    YOPO,
    FGMMatrix,
    FGMRemembered,
    FreeAT,
    FreeLB,
    Noise,
    RDrop,
    Scaled,
    SomeRows,
)
from nlp_adv.perturbation import L2Ball, LInfBall

# The flag of activation checkpointing has been renamed within the versions we work with.
CHECKPOINTING = next(
    name
    for name in ("activation_checkpointing", "gradient_checkpointing")
    if name in TrainingArguments.__dataclass_fields__
)

l2 = L2Ball(0.5)
METHODS = {
    "noise": Noise(l2),
    "noise-clean": Noise(l2, clean_weight=0.5),
    "fgsm": FGSM(LInfBall(0.1), step_size=0.1),
    "fgm": FGM(l2),
    "fgm-tokens": FGM(L2Ball(0.3, "token")),
    "fgm-rows": SomeRows(FGM(l2), 0.5),
    "fgm_matrix": FGMMatrix(0.5),
    "pgd": PGD(l2, step_size=0.2, steps=3, random_start=False),
    "pgd-clean": PGD(l2, step_size=0.2, steps=3, random_start=False, clean_weight=0.5),
    "pgd-random": PGD(l2, step_size=0.2, steps=2),
    "pgd-random-clean": PGD(l2, step_size=0.2, steps=2, clean_weight=0.5),
    "pgd-rows": SomeRows(PGD(l2, 0.2, steps=2, clean_weight=0.25), 0.75),
    "freelb": FreeLB(l2, step_size=0.2, steps=3),
    "freelb-random": FreeLB(l2, step_size=0.2, steps=3, init_magnitude=0.4),
    "freelb-clean": FreeLB(l2, step_size=0.2, steps=3, clean_weight=0.25),
    "freelb-reuse": FreeLB(l2, step_size=0.2, steps=2, reuse=True),
    "freeat": FreeAT(l2, step_size=0.3, replays=2),
    "yopo": YOPO(l2, step_size=0.2, rounds=2, steps=3),
    "yopo-clean": YOPO(l2, 0.2, rounds=2, steps=2, random_start=True, clean_weight=0.25),
    "tavat": TAVAT(l2, step_size=0.2, steps=2),
    "tavat-random": TAVAT(l2, step_size=0.2, steps=2, init_magnitude=0.4, clean_weight=0.25),
    "remembered": FGMRemembered(l2),
    "remembered-example": FGMRemembered(l2, by="example", clean_weight=0.25),
    "vat": VAT(l2, xi=0.1),
    "alum": VAT(l2, xi=0.1, steps=2, beta=2.0, symmetric=True),
    "smart": SMART(LInfBall(0.1), 0.05, steps=1, beta=1.0, init_magnitude=0.2),
    "smart-past": SMART(l2, 0.2, 1, 1.0, 0.2, proximal_weight=3.0, decay=0.5),
    "trades": TRADES(l2, step_size=0.2, steps=2, beta=6.0, init_magnitude=0.2),
    "rdrop": RDrop(beta=2.0),
    "awp": AWP(l2, step_size=0.4, steps=1, gamma=0.05),
    "sam": SAM(rho=0.1),
    "relative": Scaled(FreeLB(L2Ball(0.3), 0.1, 2, init_magnitude=0.1), unit="relative"),
    "relative-yopo": Scaled(YOPO(L2Ball(0.3), 0.1, rounds=2, steps=2), unit="relative"),
    "relative-tavat": Scaled(TAVAT(L2Ball(0.3), 0.1, 2, init_magnitude=0.1), unit="relative"),
}
DIVERGENCES = ("vat", "alum", "smart", "smart-past", "trades", "rdrop")
JOINT = ("smart", "smart-past", "trades", "rdrop")  # one backward pass over two forward passes
KEEPING = ("freelb-reuse", "freeat", "tavat", "tavat-random", "smart-past", "relative-tavat")
KEEPING += ("remembered", "remembered-example")


def start_of_its_own(objective: Any, *args: Any) -> Tensor:
    """A start that depends on the example alone, not on where in a batch it stands."""
    return 0.05 * objective.x.detach().sin() * objective.mask


class StillVAT(VAT):
    """A direction that depends on the example alone."""

    def _worst(self, objective: Any, divergence: Any) -> Tensor:
        return start_of_its_own(objective)


# These, within `still_starts`, find the same δ however the examples are batched.
STILL = {
    "vat": StillVAT(l2, xi=0.1, beta=3.0),
    "alum": StillVAT(l2, xi=0.1, beta=3.0, symmetric=True),
    "smart": SMART(l2, 0.2, 1, 3.0, 0.1, proximal_weight=2.0, decay=0.5),
    "trades": TRADES(l2, 0.2, 1, 3.0, 0.1),
}


def still_starts(monkeypatch: Any) -> None:
    """No random numbers in the starts of smart and trades."""
    used = [m for name, m in sys.modules.items() if name.startswith("nlp_adv.methods.")]
    for module in used:
        if hasattr(module, "random_start"):  # wherever these two draw theirs
            monkeypatch.setattr(module, "random_start", start_of_its_own)


def forwards(method: Any) -> int:
    """Passes through the whole model that a step declares."""
    return method.passes + method.inner_passes + getattr(method, "forward_passes", 0)


def rows(
    count: int = 24, *, padded: bool = True, language: bool = False
) -> list[dict[str, Tensor]]:
    """Sentences of 8 columns, every third of them padded; labels 0 and 1, or the words."""
    generator = torch.Generator().manual_seed(2)
    data = []
    for index in range(count):
        length = 8 - 3 * (padded and index % 3 == 0)
        attention = (torch.arange(8) < length).long()
        ids = torch.randint(4, VOCAB, (8,), generator=generator)
        label = torch.tensor(index % 2)
        if language:
            label = ids.masked_fill(attention == 0, -100)
        ids = ids * attention
        data.append({"input_ids": ids, "attention_mask": attention, "labels": label})
    return data


def arguments(folder: Path, **flags: Any) -> AdversarialTrainingArguments:
    """Two steps of four rows on the CPU, quietly, unless told otherwise."""
    defaults = {
        "per_device_train_batch_size": 4,
        "max_steps": 2,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "report_to": "none",
        "use_cpu": True,
        "learning_rate": 1e-3,
    }
    return AdversarialTrainingArguments(output_dir=str(folder), **(defaults | flags))


def build(
    folder: Path,
    cls: type[Trainer] = AdversarialTrainer,
    *,
    model: nn.Module | None = None,
    data: list[dict[str, Tensor]] | None = None,
    options: dict[str, Any] | None = None,
    **flags: Any,
) -> Trainer:
    """A Trainer of class `cls` with `options`, its arguments made from `flags`."""
    return cls(
        model=tiny("bert", dropout=0.1) if model is None else model,
        args=arguments(folder, **flags),
        train_dataset=rows() if data is None else data,
        **(options or {}),
    )


def trained(folder: Path, cls: type[Trainer] = AdversarialTrainer, **given: Any) -> Trainer:
    """The same, after `train()`."""
    trainer = build(folder, cls, **given)
    trainer.train()
    return trainer


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def distance(got: dict[str, Tensor], want: dict[str, Tensor]) -> float:
    """The largest difference between two sets of tensors; inf where one is not a number."""
    assert got.keys() == want.keys()
    largest = max(float((got[name].double() - want[name].double()).abs().max()) for name in want)
    return largest if largest == largest else float("inf")


def logged(trainer: Trainer, key: str) -> list[float]:
    """What `key` was at each log of the training loss; nothing where it was not logged."""
    return [entry[key] for entry in trainer.state.log_history if "loss" in entry and key in entry]


def hooks(model: nn.Module) -> int:
    """Forward hooks anywhere in the model."""
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()
    )


@dataclass
class MicroBatch:
    """What a bare loop needs to make the same step: see `Watched`."""

    inputs: dict[str, Tensor]
    random_state: Tensor
    items: Tensor | int | None
    seed: int | None = None


class Watched(AdversarialTrainer):
    """Remembers its micro-batches and the gradient of each optimizer step."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.micro_batches: list[MicroBatch] = []
        self.gradients: list[dict[str, Tensor]] = []
        self.add_callback(_GradientRecorder(self.gradients))

    def remember(self, inputs, num_items_in_batch):
        copied = {key: value.clone() for key, value in inputs.items()}
        state = torch.get_rng_state()
        self.micro_batches.append(MicroBatch(copied, state, num_items_in_batch))

    def training_step(self, model, inputs, num_items_in_batch=None):
        self.remember(inputs, num_items_in_batch)
        return super().training_step(model, inputs, num_items_in_batch)

    def _start_seed(self) -> int:
        seed = super()._start_seed()
        self.micro_batches[-1].seed = seed
        return seed


class _GradientRecorder(TrainerCallback):
    def __init__(self, kept: list[dict[str, Tensor]]) -> None:
        self._kept = kept

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        self._kept.append(gradients(model))


class Call(TrainerCallback):
    """Calls a function at one event of training."""

    def __init__(self, event: str, function: Any) -> None:
        setattr(self, event, lambda args, state, control, **kwargs: function(state))


class Recorder:
    """A method that keeps the report and the last δ of each step."""

    def __init__(self, method: Any) -> None:
        self._method = method
        self.steps: list[dict[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._method, name)

    def step(self, objective: Any) -> Any:
        report = self._method.step(objective)
        kept = {"report": report, "delta": objective.delta, "x": objective.x}
        self.steps.append(kept | {"mask": objective.mask})
        return report


class Counts:
    """Calls of the word embedding and of the classification head."""

    def __init__(self, model: nn.Module) -> None:
        self.embeddings = self.heads = 0
        model.bert.embeddings.word_embeddings.register_forward_pre_hook(self._embedding)
        model.classifier.register_forward_pre_hook(self._head)

    def _embedding(self, *args: Any) -> None:
        self.embeddings += 1

    def _head(self, *args: Any) -> None:
        self.heads += 1


def slowly(*cases: Any) -> list[Any]:
    """Cases of a parametrized test that only run with the slow ones."""
    slow = pytest.mark.slow
    return [pytest.param(*(c if isinstance(c, tuple) else (c,)), marks=slow) for c in cases]


def assert_one_sentence(error: BaseException) -> None:
    """One line, ended by a full stop, with no other sentence before it."""
    text = str(error)
    assert "\n" not in text
    assert text.endswith(".")
    assert ". " not in text, text
