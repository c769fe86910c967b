"""Plain training, noise, FGM, PGD and FreeLB on SST-2: accuracy, accuracy under attack, time.

    python recipes/sst2_methods.py --model_name_or_path MODEL --dataset_name SST2_FOLDER

Every cell (method × seed) is one `nlp-adv train` command, printed before it runs; a cell whose
report is there already is not run again, so a stopped recipe goes on where it was. The table and
the numbers of every cell end in `recipes/results/`. Several processes may share the work
(`--methods` or `--seeds` of their own); `--table_only` makes the table of what there is.
The figure needs `nlp_adv[plots]`.
"""

import argparse
import json
import platform
import shlex
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import transformers

RESULTS = Path(__file__).parent / "results"
EPSILONS = (0.01, 0.02, 0.04)

# Radii are shares of the embedding norm; α and m keep the presets' share of ε.
METHODS: dict[str, list[str]] = {
    "none": ["--adv", "none"],
    "noise": ["--adv", "noise", "--adv_epsilon", "0.1"],
    "fgm": ["--adv", "fgm", "--adv_epsilon", "0.03"],
    "pgd": ["--adv", "pgd", "--adv_epsilon", "0.03", "--adv_clean_weight", "0.5"],
    "pgd alone": ["--adv", "pgd", "--adv_epsilon", "0.03", "--adv_clean_weight", "0"],
    "freelb": ["--adv", "freelb", "--adv_epsilon", "0.03"],
}
TRAINING = {
    "max_train_samples": "2000",
    "num_train_epochs": "3",
    "per_device_train_batch_size": "16",
    "per_device_eval_batch_size": "64",
    "learning_rate": "5e-5",
    "warmup_steps": "0.1",
    "train_sampling_strategy": "group_by_length",
    "save_strategy": "no",
    "logging_steps": "125",
    "attack_examples": "200",
}


def command(args: argparse.Namespace, method: str, seed: int) -> list[str]:
    settings = TRAINING | {
        "model_name_or_path": args.model_name_or_path,
        "dataset_name": args.dataset_name,
        "seed": str(seed),
        "output_dir": str(folder(args, method, seed)),
    }
    flags = [part for name, value in settings.items() for part in (f"--{name}", value)]
    epsilons = [str(epsilon) for epsilon in EPSILONS]
    own = [*METHODS[method], "--attack_epsilons", *epsilons, "--overwrite_output_dir", "true"]
    return [sys.executable, "-m", "nlp_adv.cli.main", "train", *flags, *own, *args.extra]


def folder(args: argparse.Namespace, method: str, seed: int) -> Path:
    setting = "".join(METHODS[method]).replace("--adv", "")  # another setting is another cell
    return Path(args.output_dir) / f"{setting.strip('_')}-seed{seed}"


def report_of(args: argparse.Namespace, method: str, seed: int) -> dict[str, Any] | None:
    path = folder(args, method, seed) / "nlp_adv_report.json"
    if not path.exists():
        return None
    run: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["runs"][-1]
    return run | {"seed": seed}


def mean_and_spread(values: list[float], digits: int) -> str:
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def table(cells: dict[str, list[dict[str, Any]]]) -> str:
    attacks = [f"PGD-20, ε = {epsilon}" for epsilon in EPSILONS]
    header = ["method", "setting", "seeds", "test accuracy, %", *attacks, "seconds", "÷ plain"]
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    plain = {run["seed"]: run["train_seconds"] for run in cells.get("none", [])}
    for method, runs in cells.items():
        if not runs:
            continue
        accuracy = [100 * run["metrics"]["test_accuracy"] for run in runs]
        robust = [
            mean_and_spread([100 * run["accuracy_under_attack"][str(e)] for run in runs], 1)
            for e in EPSILONS
        ]
        seconds = [run["train_seconds"] for run in runs]
        ratios = [run["train_seconds"] / plain[run["seed"]] for run in runs if run["seed"] in plain]
        setting = " ".join(METHODS[method][2:]).replace("--adv_", "")
        row = [method, setting, str(len(runs)), mean_and_spread(accuracy, 1), *robust]
        row += [mean_and_spread(seconds, 0), mean_and_spread(ratios, 2) if ratios else ""]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def draw(cells: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Accuracy over ε, one line a method: the mean over seeds, the range shaded."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    radii = (0.0, *EPSILONS)
    for (method, runs), marker in zip(cells.items(), "os^Dv*", strict=False):
        if not runs:
            continue
        curves = [
            [100 * run["accuracy_without_attack"]]
            + [100 * run["accuracy_under_attack"][str(epsilon)] for epsilon in EPSILONS]
            for run in runs
        ]
        points = list(zip(*curves, strict=True))
        means = [statistics.mean(values) for values in points]
        (line,) = axes.plot(radii, means, marker=marker, label=method.replace("none", "plain"))
        low, high = [min(values) for values in points], [max(values) for values in points]
        axes.fill_between(radii, low, high, alpha=0.15, color=line.get_color())
    axes.set(
        xlabel="ε, as a share of the sentence's embedding norm",
        ylabel="accuracy under PGD-20, %",
        xticks=radii,
        ylim=(0, 100),
    )
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, metadata={"Date": None})


def write_results(args: argparse.Namespace) -> None:
    cells = {
        method: [run for seed in args.all_seeds if (run := report_of(args, method, seed))]
        for method in METHODS
    }
    done = [run for runs in cells.values() for run in runs]
    attacked = max((run["attacked_examples"] for run in done), default=0)
    shown = command(argparse.Namespace(**vars(args) | _ANYWHERE), "freelb", 0)
    text = f"""# SST-2, five ways to train

{table(cells)}

Mean ± standard deviation over seeds. Accuracy on all test sentences; under attack, on the first
{attacked} of them: projected gradient ascent on the word embeddings, 20 steps, on the logit margin,
from the clean sentence; ε is the L2 norm of one sentence's perturbation as a share of its
embeddings' norm, in training and in the attack. Seconds are wall-clock time of training on a
machine that other work shared, so their ratios are rough; `scripts/bench_training.py` measures the
cost of a step.

![accuracy over ε](sst2_methods.svg)

Model: {args.title}. Training rows: {TRAINING["max_train_samples"]}, drawn by the seed.
{platform.machine()} CPU, torch {torch.__version__}, transformers {transformers.__version__}.

    python recipes/sst2_methods.py --model_name_or_path MODEL --dataset_name SST2_FOLDER \\
        {" ".join(args.extra)}

One cell of it:

    nlp-adv train {shlex.join(shown[4:])}
"""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "sst2_methods.md").write_text(text, encoding="utf-8")
    (RESULTS / "sst2_methods.json").write_text(json.dumps(cells, indent=1) + "\n", "utf-8")
    draw(cells, RESULTS / "sst2_methods.svg")
    print(table(cells))


_ANYWHERE = {
    "model_name_or_path": "MODEL",
    "dataset_name": "SST2_FOLDER",
    "output_dir": "runs/sst2_methods",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_name_or_path", required=True)
    parser.add_argument("--dataset_name", required=True, help="a folder with SST-2's three splits")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--output_dir", default="runs/sst2_methods")
    parser.add_argument("--title", help="the model's name in the results")
    parser.add_argument("--table_only", action="store_true")
    args, args.extra = parser.parse_known_args()  # the rest goes to every nlp-adv train
    args.title = args.title or Path(args.model_name_or_path).name
    args.all_seeds = sorted({*args.seeds, 0, 1, 2})
    for seed in [] if args.table_only else args.seeds:
        for method in args.methods:
            if report_of(args, method, seed) is None:
                line = command(args, method, seed)
                print("$", shlex.join(line), flush=True)
                subprocess.run(line, check=True)
    write_results(args)


if __name__ == "__main__":
    main()
