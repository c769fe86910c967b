"""Named entities of WNUT-17: FreeLB against plain training, without and under attack.

    python recipes/wnut17.py --model_name_or_path MODEL --dataset_name WNUT17_FOLDER

The folder holds train, validation and test files with the columns `tokens` and `ner_tags`, and
`labels.json`, the names of the tags. Each method trains once a seed; a run that is there already is
not repeated, so that a stopped recipe goes on where it was. The table and its numbers end in
`recipes/results/wnut17`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from nlp_adv.cli.main import main as nlp_adv
from nlp_adv.folders import write_whole
from nlp_adv.training.records import REPORT_NAME

RESULTS = Path(__file__).parent / "results" / "wnut17"
METHODS = ("none", "freelb")
EPSILONS = ("0.02", "0.05")
TRAINING = {
    "num_train_epochs": 2,
    "per_device_train_batch_size": 16,
    "learning_rate": 3e-4,
    "warmup_steps": 0.1,
    "save_strategy": "no",
    "logging_steps": 50,
}


def scores(method: str, seed: int, args: argparse.Namespace) -> dict[str, float]:
    """Of one model, which is trained and attacked where that is missing."""
    folder = args.output_dir / f"{method}-seed{seed}"
    given = {
        "task": "token-classification",
        "dataset_name": args.dataset_name,
        "label_names_file": Path(args.dataset_name) / "labels.json",
        "use_cpu": "true",
        "seed": seed,
    }
    training = {"model_name_or_path": args.model_name_or_path, "adv": method, **TRAINING}
    if args.train_samples:
        training["max_train_samples"] = args.train_samples
    attack = {
        "model_name_or_path": folder,
        "do_train": "false",
        "do_eval": "false",
        "attack_examples": args.examples,
    }
    trained = run(folder, {**given, **training})
    attacked = run(folder / "attacked", {**given, **attack}, "--attack_epsilons", *EPSILONS)
    under = {e: attacked["scores_under_attack"][e]["entity F1"] for e in EPSILONS}
    return {
        "entity F1, all": trained["metrics"]["test_f1"],
        "word accuracy, all": trained["metrics"]["test_accuracy"],
        "entity F1": attacked["scores_without_attack"]["entity F1"],
        **{f"entity F1, ε = {e}": under[e] for e in EPSILONS},
        "word accuracy": attacked["accuracy_without_attack"],
        **{f"word accuracy, ε = {e}": attacked["accuracy_under_attack"][e] for e in EPSILONS},
        "seconds": trained["train_seconds"],
    }


def run(folder: Path, settings: dict[str, Any], *more: str) -> dict[str, Any]:
    """What `nlp-adv train` reports of a run, which is made where its report is missing."""
    if not (folder / REPORT_NAME).exists():
        flags = [str(part) for key, value in settings.items() for part in (f"--{key}", value)]
        flags += [*more, "--output_dir", str(folder), "--overwrite_output_dir"]
        if nlp_adv(["train", *flags]):
            raise SystemExit(f"{folder}: not made, as was said above.")
    found: dict[str, Any] = json.loads((folder / REPORT_NAME).read_text())["runs"][0]
    return found


def main() -> None:
    """Train, attack, and write what came out."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model_name_or_path", required=True)
    parser.add_argument("--dataset_name", required=True)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/wnut17"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--train_samples", type=int, help="training sentences; all without")
    parser.add_argument("--examples", type=int, default=100, help="test sentences under attack")
    args = parser.parse_args()
    found = {m: [] for m in METHODS}
    for seed in args.seeds:
        for method in METHODS:
            found[method].append(scores(method, seed, args))
            RESULTS.mkdir(parents=True, exist_ok=True)
            write_whole(RESULTS / "results.json", json.dumps(found, indent=1) + "\n")
    write_whole(RESULTS / "results.md", page(found, args))


def page(found: dict[str, list[dict[str, float]]], args: Any) -> str:
    """The table."""
    lines = [
        "# WNUT-17: named entities under attack",
        "",
        f"`python recipes/wnut17.py`: {len(args.seeds)} seeds, a 6-layer MiniLM encoder, "
        f"{args.train_samples or 'all'} training sentences a seed, "
        f"{TRAINING['num_train_epochs']} epochs, on a CPU. The attack is PGD-20 on the word "
        f"embeddings, ε a share of the norm of a sentence's; one δ a sentence makes as many of "
        f"its words wrong as it can. It was run on the first {args.examples} test sentences; “all” "
        f"is the whole test split.",
        "",
        "Means over seeds with 95 % t intervals, which hold the chance of seeds and not that of "
        "sentences; differences are of pairs of equal seed.",
        "",
        "| | plain | FreeLB | difference |",
        "|---|---|---|---|",
    ]
    for name in found["none"][0]:
        columns = [[run[name] for run in found[method]] for method in METHODS]
        scale = 1.0 if name == "seconds" else 100.0
        cells = [_mean([scale * one for one in column]) for column in columns]
        pairs = [scale * (b - a) for a, b in zip(*columns, strict=True)]
        unit = " (s)" if name == "seconds" else ", %"
        lines.append(f"| {name}{unit} | {' | '.join([*cells, _mean(pairs)])} |")
    return "\n".join(lines) + "\n"


def _mean(values: list[float]) -> str:
    """The mean, and half of the 95 % t interval over seeds."""
    spread = np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{np.mean(values):.1f} ± {student.isf(0.025, len(values) - 1) * spread:.1f}"


if __name__ == "__main__":
    main()
