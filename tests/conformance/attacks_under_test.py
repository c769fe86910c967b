"""Every attack that must keep the promises, and what it is tried on. A new attack is one line."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import models
import pytest
import torch
from small_images import digits
from torch import Tensor, nn

from nlp_adv.attacks import (
    APGD,
    APGDT,
    FABT,
    FGM,
    FGSM,
    PGD,
    Attack,
    AttackResult,
    AutoAttack,
    Bisection,
    CarliniWagner,
    DeepFool,
    Noise,
    OptimizerAttack,
    Square,
)
from nlp_adv.perturbation import L1Ball, L2Ball, LInfBall
from nlp_adv.sites import EmbeddingSite, LayerSite
from nlp_adv.sites.site import Site

l2, linf, l1 = L2Ball(1.0), LInfBall(1.0), L1Ball(1.0)  # the target's own radius, see `sized`

ATTACKS: dict[str, Attack] = {
    "fgsm": FGSM(1.0),
    "fgm-l2": FGM(l2, "margin"),
    "fgm-l1": FGM(l1),
    "pgd-linf": PGD(linf, 0.3, 4),
    "pgd-l2": PGD(l2, 2.0, 4, random_start=False, loss="margin", shorten=True),
    "pgd-l1": PGD(l1, 0.5, 4, until_fooled=True),
    "mi-fgsm": PGD(linf, 0.3, 4, random_start=False, momentum=1.0),
    "apgd-linf": APGD(linf, 6, "margin"),
    "apgd-l2": APGD(l2, 6, random_start=True),
    "apgd-t-linf": APGDT(linf, 6),
    "apgd-t-l2": APGDT(l2, 6, random_start=True),
    "deepfool-l2": DeepFool(steps=6),
    "deepfool-linf": DeepFool("linf", steps=6),
    "cw": CarliniWagner(steps=20, search_steps=2, initial_constant=1.0, step_size=0.2),
    "adam-l2": OptimizerAttack(torch.optim.Adam, 0.1, 5, ball=l2),
    "fab-t-linf": FABT(linf, 8, 2),
    "fab-t-l2": FABT(l2, 8, 2, random_start=True, until_fooled=True),
    "fab-t-l1": FABT(l1, 8, 2),
    "noise-l2": Noise(l2, draws=4),
    "noise-linf": Noise(linf, draws=4),
    "square-linf": Square(linf, 40),
    "square-l2": Square(l2, 40),
    "auto-linf": AutoAttack(linf, 4, 2, 4),
    "auto-l2": AutoAttack(l2, 4, 2, 4),
    "bisection": Bisection(PGD(l2, 2.0, 3, random_start=False, loss="margin", shorten=True), 3),
}
BLACK_BOX = [name for name in ATTACKS if "noise" in name or "square" in name]
CLIMBING = [name for name in ATTACKS if "noise" not in name]
TARGETED = [name for name in ATTACKS if "deepfool" not in name]
ORDER = {"LInfBall": torch.inf, "L2Ball": 2, "L1Ball": 1}

Call = Callable[..., AttackResult]


def inner(attack: Any) -> Any:
    """The attack in a ball of its own, or inside another."""
    return getattr(attack, "attack", attack)


def ball_of(attack: Any) -> Any:
    return getattr(inner(attack), "ball", None)


def enlarged(attack: Any, factor: float, unit: str = "absolute") -> Any:
    """Radius and step times a factor, in a unit; what has no radius stays as it is."""
    if isinstance(attack, Bisection):
        return replace(attack, attack=enlarged(attack.attack, factor, unit))
    if isinstance(attack, FGSM):
        return replace(attack, epsilon=factor * attack.epsilon, unit=unit)
    if getattr(attack, "ball", None) is None:
        return attack
    ball = replace(attack.ball, epsilon=factor * attack.ball.epsilon)
    changes: dict[str, Any] = {"ball": ball, "unit": unit}
    if hasattr(attack, "step_size"):
        changes["step_size"] = factor * attack.step_size
    return replace(attack, **changes)


@dataclass(frozen=True)
class Digits:
    """A small network on digits, whose points are pixels."""

    name: str = "pixels"
    pixels: bool = True

    def case(self, count: int = 6) -> tuple[nn.Module, Tensor, Tensor]:
        return digits(count)

    def sized(self, attack: Attack) -> Attack:
        return enlarged(
            attack,
            {"LInfBall": 0.1, "L2Ball": 0.75, "L1Ball": 3.0}.get(
                type(ball_of(attack)).__name__, 1.0
            ),
        )

    def run(self, attack: Attack, model: nn.Module, inputs: Tensor, y: Any = None, **options):
        return attack(model, inputs, y, **options)

    def some(self, inputs: Tensor, rows: Any) -> Tensor:
        return inputs[rows]

    def mask(self, inputs: Tensor) -> Tensor:
        """A mask, and where a number of δ must be 0 under it."""
        mask = torch.zeros(1, 1, 8, 8)
        mask[..., 2:6, 1:7] = 1
        return mask


@functools.cache
def _bert(classes: int) -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=models.VOCAB,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        num_labels=classes,
        attn_implementation="eager",
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertForSequenceClassification(config).double().eval()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.3)
    return model


@dataclass(frozen=True)
class Sentences:
    """Tiny BERT of four classes at a site, whose points are δ."""

    name: str
    site: Callable[[], Site]
    pixels: bool = False

    def case(self, count: int = 6) -> tuple[nn.Module, dict[str, Tensor], Tensor]:
        import copy

        model = copy.deepcopy(_bert(4))
        generator = torch.Generator().manual_seed(3)
        lengths = torch.randint(3, 8, (count, 1), generator=generator)
        attention = (torch.arange(8) < lengths).long()
        ids = torch.randint(4, models.VOCAB, (count, 8), generator=generator) * attention
        batch = {"input_ids": ids, "attention_mask": attention}
        with torch.no_grad():
            y = model(**batch).logits.argmax(-1)
        return model, batch, y

    def sized(self, attack: Attack) -> Attack:
        return enlarged(attack, 0.4, "relative")

    def run(self, attack: Attack, model: nn.Module, inputs: Mapping, y: Any = None, **options):
        return attack(model, inputs, y, site=self.site(), **options)

    def some(self, inputs: Mapping[str, Tensor], rows: Any) -> dict[str, Tensor]:
        return {key: value[rows] for key, value in inputs.items()}

    def mask(self, inputs: Mapping[str, Tensor]) -> Tensor:
        mask = torch.zeros_like(inputs["input_ids"])
        mask[:, 1:3] = 1
        return mask


TARGETS = [
    Digits(),
    Sentences("embeddings", EmbeddingSite),
    Sentences("layer", lambda: LayerSite("bert.encoder.layer.0")),
]


# What runs by default: every attack on pixels, some of each kind at the other sites.
ELSEWHERE = {
    "embeddings": (
        "fgm-l1",
        "pgd-l2",
        "apgd-linf",
        "apgd-t-l2",
        "deepfool-l2",
        "fab-t-l2",
        "cw",
        "noise-linf",
        "square-l2",
    ),
    "layer": (
        "pgd-linf",
        "apgd-t-linf",
        "fab-t-linf",
        "adam-l2",
        "bisection",
        "square-linf",
        "auto-linf",
    ),
}


def _marks(name: str, target: Any) -> Any:
    return () if name in ELSEWHERE.get(target.name, ATTACKS) else pytest.mark.slow


def each_attack(such_that: Callable[[str], bool] = lambda name: True, targets=TARGETS):
    """Parametrize by (name, target)."""
    pairs = [
        pytest.param(name, target, id=f"{name}-{target.name}", marks=_marks(name, target))
        for name in ATTACKS
        for target in targets
        if such_that(name)
    ]
    return pytest.mark.parametrize(("name", "target"), pairs)
