"""The cells of a recipe, methods × seeds, and what is there of each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nlp_adv.experiments.recipe import Control, Recipe
from nlp_adv.robustness.saved import HEADER
from nlp_adv.training.on_the_way import folder_at
from nlp_adv.training.records import REPORT_NAME

TRAINING = "training.json"  # of a cell whose model was trained elsewhere: how that was done
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
        run: of the training that made its model: another cell's for a control.
    """

    recipe: Recipe
    method: str
    seed: int
    folder: Path
    run: Path

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
    def model(self) -> Path:
        """The folder of its weights: the run's last, or those on the way there."""
        at = None if self.control is None else self.control.at
        return self.run if at is None else folder_at(self.run, at)

    @property
    def plain(self) -> bool:
        """Whether its model was trained without perturbation, and answers as it was trained to."""
        sharpened = self.control is not None and self.control.logits_times != 1
        return self.training["method"] == "none" and not sharpened

    @property
    def trained(self) -> bool:
        """Whether the run is there, whole: the report is written last."""
        return (self.run / REPORT_NAME).exists()

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
        """How the cell's model was trained, as its run wrote it down, here or elsewhere."""
        if not self.trained and (self.folder / TRAINING).exists():
            kept: dict[str, Any] = json.loads((self.folder / TRAINING).read_text(encoding="utf-8"))
            return kept
        content = json.loads((self.run / REPORT_NAME).read_text(encoding="utf-8"))
        own = {} if self.control is None else {k: v for k, v in vars(self.control).items() if v}
        run = content["runs"][-1]
        return {key: value for key, value in run.items() if key not in _MEASURED} | own

    @property
    def baseline(self) -> Cell | None:
        """The first method's cell of this seed, where its adversarial texts are there to try."""
        first = next(iter(self.recipe.methods))
        (baseline,) = cells_of(self.recipe, self.folder.parent, [first], [self.seed])
        return baseline if self.method != first and baseline.evaluated else None

    @property
    def train_flags(self) -> list[str]:
        """The command line after `nlp-adv train`."""
        return self.recipe.train_flags(self.method, self.seed, self.run)

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
            run = folder / f"{source}-seed{seed}" / "model"
            yield Cell(recipe, name, seed, folder / f"{name}-seed{seed}", run)
