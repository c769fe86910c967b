"""The cells of a recipe, methods × seeds, and what is there of each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nlp_adv.experiments.recipe import Control, Recipe
from nlp_adv.robustness.saved import HEADER
from nlp_adv.training.records import REPORT_NAME

# What a training's report holds beside how the model was trained.
_MEASURED = (
    "metrics",
    "history",
    "accuracy_under_attack",
    "accuracy_without_attack",
    "attacked_examples",
)


@dataclass(frozen=True)
class Cell:
    """One method trained with one seed, and its evaluation.

    Args:
        recipe: to which it belongs.
        method, seed: of the training.
        folder: of the cell.
        model: of its weights: another cell's for a control.
    """

    recipe: Recipe
    method: str
    seed: int
    folder: Path
    model: Path

    @property
    def title(self) -> str:
        """In messages."""
        return f"{self.method}, seed {self.seed}"

    @property
    def control(self) -> Control | None:
        """What it is where its model is another one's; None where it is trained."""
        own = self.recipe.methods[self.method]
        return own if isinstance(own, Control) else None

    @property
    def trained(self) -> bool:
        """Whether the weights are there, whole: the report is written last."""
        return (self.model / REPORT_NAME).exists()

    @property
    def evaluated(self) -> bool:
        """Whether the evaluation is there, whole."""
        try:
            content = json.loads((self.folder / HEADER).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # not there, or damaged, which the evaluation says
            return False
        return isinstance(content, dict) and "found" in content

    @property
    def training(self) -> dict[str, Any]:
        """How the cell's model was trained, as its run wrote it down."""
        content = json.loads((self.model / REPORT_NAME).read_text(encoding="utf-8"))
        return {key: value for key, value in content["runs"][-1].items() if key not in _MEASURED}

    @property
    def baseline(self) -> Cell | None:
        """The first method's cell of this seed, where its adversarial texts are there to try."""
        first = next(iter(self.recipe.methods))
        (baseline,) = cells_of(self.recipe, self.folder.parent, [first], [self.seed])
        return baseline if self.method != first and baseline.evaluated else None

    @property
    def train_flags(self) -> list[str]:
        """The command line after `nlp-adv train`."""
        return self.recipe.train_flags(self.method, self.seed, self.model)

    @property
    def attack_flags(self) -> list[str]:
        """The command line after `nlp-adv evaluate`."""
        return self.recipe.attack_flags(self.model, self.folder)


def cells_of(
    recipe: Recipe,
    folder: Path,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> Iterator[Cell]:
    """Seed by seed, so that a run that is stopped has compared all methods on the first."""
    for seed in seeds or recipe.seeds:
        for name in methods or recipe.methods:
            own = recipe.methods[name]
            source = own.of if isinstance(own, Control) else name
            model = folder / f"{source}-seed{seed}" / "model"
            yield Cell(recipe, name, seed, folder / f"{name}-seed{seed}", model)
