"""A model of texts and a model of images, each with data, for facts that hold of both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import faulty_models
import pytest
import torch
from small_texts import opinions, reader
from torch import Tensor, nn

from nlp_adv.attacks import APGD, FGM, PGD, DeepFool, Ladder, Measured, Noise
from nlp_adv.attacks.subject import Subject
from nlp_adv.perturbation import Ball, L2Ball, LInfBall, Unit


@dataclass(frozen=True)
class Case:
    """30 examples, of which the first, the eighth, … are wrong without attack.

    Args:
        name: of the case.
        model: a fresh model in eval mode.
        inputs: the examples.
        ball: of attacks, its radius the second of `radii`.
        radii: from hardly anything is fooled to everything is.
        unit: of radii.
        looks: passes of an example that say what became of it at the end of an attack.
    """

    name: str
    model: Callable[[], nn.Module]
    inputs: Callable[[], dict[str, Tensor]]
    ball: Ball
    radii: tuple[float, ...]
    unit: Unit
    looks: int

    @property
    def batches(self) -> list[Any]:
        """Of 20 and 10."""
        return self.split(20)

    def split(self, size: int, order: Tensor | None = None, count: int = 30) -> list[Any]:
        """Batches of a size, of examples in an order."""
        order = torch.arange(count) if order is None else order
        data = self.inputs()
        data["labels"][::7] = (data["labels"][::7] + 1) % 2
        parts = [{key: value[rows] for key, value in data.items()} for rows in order.split(size)]
        if self.name == "text":
            return parts
        return [(part["pixel_values"], part["labels"]) for part in parts]

    def pgd(self, **changes) -> PGD:
        """Six steps of a quarter of the radius, from a random start, on the margin."""
        step = 0.25 * float(self.ball.epsilon)
        made = PGD(self.ball, step, 6, loss="margin", until_fooled=True, unit=self.unit)
        return replace(made, **changes)

    def attacks(self) -> dict[str, Any]:
        """One of each kind."""
        return {
            "pgd": self.pgd(),
            "bim": self.pgd(random_start=False),
            "apgd": APGD(self.ball, 6, "margin", unit=self.unit),
            "fgm": FGM(self.ball, "margin", unit=self.unit),
            "deepfool": DeepFool("linf" if isinstance(self.ball, LInfBall) else "l2"),
            "noise": Noise(self.ball, 3, unit=self.unit),
        }

    def measured(self, ladder: Ladder, model: nn.Module | None = None, **options) -> Measured:
        """What a ladder does to all of the examples, or to the given batches."""
        batches = options.pop("batches", self.batches)
        return Subject(model or self.model()).measure(ladder, batches, **options)


def _opinions() -> dict[str, Tensor]:
    data = {key: value[:30].clone() for key, value in opinions(60, seed=1).items()}
    data["attention_mask"] = (torch.arange(12) < 12 - torch.arange(30)[:, None] % 5).long()
    data["input_ids"] *= data["attention_mask"]
    with torch.no_grad():
        data["labels"] = reader()(**data)["logits"].argmax(1)
    return data


def _pictures() -> dict[str, Tensor]:
    x, y = faulty_models.images(30)
    return {"pixel_values": x, "labels": y.clone()}


CASES = [
    Case(
        "text",
        lambda: reader().double(),
        _opinions,
        L2Ball(0.2),
        (0.06, 0.2, 0.3, 1.5),
        "relative",
        looks=1,
    ),
    Case(
        "pixels",
        lambda: faulty_models.Changed(),
        _pictures,
        LInfBall(0.045),
        (0.02, 0.045, 0.06, 0.3),
        "absolute",
        looks=2,
    ),
]
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
