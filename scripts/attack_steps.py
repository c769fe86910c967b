"""How long the steps of the attack on embeddings must be: accuracies by their length and decay.

    nlp-adv train --output_dir runs/plain; nlp-adv train --adv freelb --output_dir runs/freelb
    python scripts/attack_steps.py --models plain=runs/plain freelb=runs/freelb \
        --results recipes/results/attack_steps.md

Models are the demo's, which are attacked on its test sentences; with `--test_file` others, on the
first texts of a file. All schedules make K steps from the clean point: they cost the same.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedModel,
)

from nlp_adv.attacks import PGD, ladder
from nlp_adv.data.files import read_file
from nlp_adv.data.text_demo import demo_dataset
from nlp_adv.perturbation import BALLS
from nlp_adv.robustness import embedding_robustness

BATCH = 100
DECAYS: dict[str, Callable[[float], float]] = {
    "constant": lambda share: 1.0,
    "linear": lambda share: 1 - share,
    "cosine": lambda share: float(1 + np.cos(np.pi * share)) / 2,
}


@dataclass(frozen=True)
class Scheduled(PGD):
    """The attack with another decay, so that the table can hold what was not chosen."""

    decay: str = "linear"

    def _step(self, k: int) -> float:
        """The length of step k, from 0."""
        return self.step_size * DECAYS[self.decay](k / self.steps)


def schedules(steps: int) -> dict[str, dict[str, Any]]:
    """What is compared, by the name in the table."""
    return {
        "2.5·ε/K, constant (until version 0.4.0)": {"step_size": 2.5 / steps, "decay": "constant"},
        "10·ε/K, constant": {"step_size": 10 / steps, "decay": "constant"},
        "ε, constant": {"step_size": 1.0, "decay": "constant"},
        "ε/2, linear to 0": {"step_size": 0.5},
        "ε, linear to 0": {"step_size": 1.0},
        "**2·ε, linear to 0 (the default)**": {"step_size": 2.0},
        "4·ε, linear to 0": {"step_size": 4.0},
        "2·ε, cosine to 0": {"step_size": 2.0, "decay": "cosine"},
    }


def batches(folder: str, rows: Dataset) -> list[dict[str, Any]]:
    """Sentences as the model takes them, like lengths together."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoded = [
        {**tokenizer(text, truncation=True, max_length=128), "labels": label}
        for text, label in zip(rows["text"], rows["label"], strict=True)
    ]
    encoded.sort(key=lambda row: len(row["input_ids"]))
    collate = DataCollatorWithPadding(tokenizer)
    parts = (encoded[start : start + BATCH] for start in range(0, len(encoded), BATCH))
    return [dict(collate(part)) for part in parts]


def table(models: dict[str, PreTrainedModel], data: dict[str, Any], args: Any, norm: str) -> str:
    """One row a schedule, one column a model and radius."""
    columns = [(name, epsilon) for name in models for epsilon in args.epsilons]
    heads = ["steps", *(f"{name}, ε = {epsilon:g}" for name, epsilon in columns)]
    lines = [f"| {' | '.join(heads)} |", f"|---|{'---:|' * len(columns)}"]
    for title, settings in schedules(args.steps).items():
        cells = []
        for name, epsilon in columns:
            attack = Scheduled(
                BALLS[norm](1.0, "example"),
                steps=args.steps,
                random_start=False,
                loss="margin",
                unit="relative",
                **settings,
            )
            found = embedding_robustness(models[name], data[name], ladder(attack, (epsilon,)))
            cells.append(f"{100 * found.accuracy(epsilon):.2f}")
        lines.append(f"| {title} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", required=True, help="NAME=FOLDER of each")
    parser.add_argument("--test_file", type=Path, help="texts (“text”) and labels (“label”)")
    parser.add_argument("--epsilons", nargs="+", type=float, default=[0.06, 0.1])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--norms", nargs="+", default=["l2"])
    parser.add_argument("--examples", type=int, default=400)
    parser.add_argument("--results", type=Path, help="a Markdown file that the tables go to")
    args = parser.parse_args(argv)
    rows = read_file(args.test_file) if args.test_file else demo_dataset()["test"]
    rows = rows.select(range(min(args.examples, len(rows))))
    folders = dict(one.split("=", 1) for one in args.models)
    load = AutoModelForSequenceClassification.from_pretrained
    models = {name: load(folder).eval() for name, folder in folders.items()}
    data = {name: batches(folder, rows) for name, folder in folders.items()}
    parts = []
    for norm in args.norms:
        head = f"K = {args.steps}, {norm}, {len(rows)} texts; accuracy under attack, %:"
        parts += [head, table(models, data, args, norm)]
    if args.results:
        with args.results.open("a", encoding="utf-8") as file:
            file.write("\n".join(["", *"\n\n".join(parts).split("\n"), ""]))


if __name__ == "__main__":
    main()
