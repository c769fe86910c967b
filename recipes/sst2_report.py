"""Tables and figures of `sst2_methods.py`."""

import argparse
import platform
import statistics
from pathlib import Path
from typing import Any

import torch
import transformers

from nlp_adv.perturbation.units import token_share
from nlp_adv.robustness.seeds import mean_of_shares
from nlp_adv.robustness.statistics import Share

RESULTS = Path(__file__).parent / "results"
Runs = dict[int, dict[str, Any]]  # by seed
TEST_SENTENCES = 1821  # SST-2's, for the intervals
TOKENS = 25  # the median of the attacked ones, to say what ε is of one token's norm
AT_CHANCE = 55.0  # % right on them, 50.1 % being of one class: less than that is hardly learnt

COMMAND = "python recipes/sst2_methods.py --model_name_or_path MODEL --dataset_name SST2_FOLDER"
TITLES = {
    "epochs": "At equal epochs",
    "time": "At equal time",
}


def accuracies(runs: Runs, epsilon: float | None) -> list[float]:
    """Per seed, in %: on all test sentences, or under attack."""
    if epsilon is None:
        return [100 * run["metrics"]["test_accuracy"] for run in runs.values()]
    return [100 * run["accuracy_under_attack"][str(epsilon)] for run in runs.values()]


def before_attack(runs: Runs) -> list[float]:
    """Per seed, in %: without attack, on the sentences that are attacked."""
    return [100 * run["accuracy_without_attack"] for run in runs.values()]


def shown(values: list[float], rows: int) -> str:
    """Mean ± standard deviation over seeds [95 % interval over seeds and so many sentences].

    Of one seed it is Wilson's interval, over sentences alone.
    """
    mean = statistics.mean(values)
    low, high = mean_of_shares([Share(round(value / 100 * rows), rows) for value in values])
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{mean:.1f}{spread} [{100 * low:.0f}, {100 * high:.0f}]"


def setting(run: dict[str, Any]) -> str:
    """The method's numbers as its run wrote them down, without what all have in common."""
    usual = {"unit": "relative", "norm": "l2", "per": "example", "clean_weight": 0.0}
    usual |= {"random_start": False, "reuse": False, "carry": False, "symmetric": False}
    usual |= {"proximal_weight": 0.0, "decay": 0.99}
    start = list(run).index("method") + 1
    numbers = list(run.items())[start : list(run).index("start_step")]
    return ", ".join(f"{key} {value}" for key, value in numbers if usual.get(key) != value)


def table(
    cells: dict[str, Runs],
    epsilons: tuple[float, ...],
    rows: int,
    examples: int,
    *,
    costs: dict[str, float],
    plain_steps: int,
) -> str:
    """A row a method.

    Args:
        cells: runs by method and seed.
        epsilons: radii of the attack.
        rows, examples: clean and attacked sentences.
        costs: of a step of each method, in plain steps.
        plain_steps: that plain training makes.
    """
    attacks = [f"PGD, ε = {epsilon}" for epsilon in epsilons]
    clean = ["clean, %", f"clean on the {examples}, %"]
    header = ["method", "setting", "seeds", *clean, *attacks, "steps", "cost ÷ plain"]
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    for method, runs in cells.items():
        if not runs:
            continue
        first = next(iter(runs.values()))
        everywhere = accuracies(runs, None)
        mark = " †" if min(everywhere) < AT_CHANCE else ""
        row = [method, setting(first), str(len(runs)), shown(everywhere, rows)]
        row.append(shown(before_attack(runs), examples))
        row += [shown(accuracies(runs, epsilon), examples) + mark for epsilon in epsilons]
        row.append(str(first["optimizer_steps"]))
        row.append(f"{costs[method] * first['optimizer_steps'] / plain_steps:.2f}")
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def draw(cells: dict[str, dict[str, Runs]], epsilon: float, path: Path) -> None:
    """Clean accuracy against accuracy under attack, a point a method, the seeds' range as bars."""
    import matplotlib.pyplot as plt

    budgets = [budget for budget, methods in cells.items() if any(methods.values())]
    figure, axes = plt.subplots(
        1,
        len(budgets),
        figsize=(4.8 * len(budgets) + 1.6, 4.6),
        layout="constrained",
        squeeze=False,
    )
    points = {}
    for axis, budget in zip(axes[0], budgets, strict=True):
        for number, (method, runs) in enumerate(cells[budget].items()):
            if not runs:
                continue
            clean, robust = accuracies(runs, None), accuracies(runs, epsilon)
            x, y = statistics.mean(clean), statistics.mean(robust)
            points["plain" if method == "none" else method] = axis.errorbar(
                x,
                y,
                xerr=[[x - min(clean)], [max(clean) - x]],
                yerr=[[y - min(robust)], [max(robust) - y]],
                fmt="os^Dv*"[number % 6],
                color=f"C{number % 10}",
                elinewidth=0.6,
            )
        axis.set(
            title=TITLES[budget],
            xlabel="clean accuracy, %",
            ylabel=f"accuracy under PGD, ε = {epsilon}, %",
        )
        axis.grid(alpha=0.3)
    figure.legend(points.values(), points.keys(), loc="outside right center", fontsize=8)
    figure.savefig(path, metadata={"Date": None})


def attack_lengths(runs: list[dict[str, Any]]) -> str:
    """By which attack the cells were measured: how long its steps were."""
    sizes = {(run.get("attack") or {}).get("step_size") for run in runs}
    named = sorted(f"{size}" for size in sizes if size is not None)
    text = f"The attack's steps, in shares of ε: {'; '.join(named) or 'unknown'}"
    if any("constant" in size for size in named):
        text += (
            ". Constant ones are those of version 0.4.0 and before, which find less "
            "([attack_steps.md](attack_steps.md)): compare these numbers with each other only"
        )
    return f"{text}."


def write_results(
    cells: dict[str, dict[str, Runs]],
    epsilons: tuple[float, ...],
    training: dict[str, str],
    args: argparse.Namespace,
    *,
    example: str,
    note: str,
    costs: dict[str, float],
    plain_steps: int,
) -> None:
    """`results/sst2_methods.md` and `.svg`."""
    done = [run for methods in cells.values() for runs in methods.values() for run in runs.values()]
    if not done:
        raise SystemExit("No cell has been run yet.")
    rows, examples = TEST_SENTENCES, done[0]["attacked_examples"]
    parts = []
    for budget, methods in cells.items():
        if any(methods.values()):
            shown = table(methods, epsilons, rows, examples, costs=costs, plain_steps=plain_steps)
            parts.append(f"## {TITLES[budget]}\n\n{shown}\n")
    tables = "\n".join(parts)
    share = 100 * token_share(epsilons[-1], TOKENS)
    text = f"""# SST-2, every method

{tables}
Mean ± standard deviation over seeds [95 % interval over seeds and sentences]: t over the seeds'
means and the variance of as many sentences together; of two seeds that differ it is wide, for they
say hardly more than that. Of one seed it is over sentences alone (Wilson), and says nothing of
another training run. †: a seed has less than {AT_CHANCE:g} % of the test sentences right, where one
class has 50.1 %: its accuracy under attack is about the share of that class, and no robustness.
Clean: all {rows} test sentences, and the first {examples}. PGD: accuracy on these {examples} under
projected gradient
ascent on the word embeddings, {training["attack_steps"]} steps, on the logit margin, from the clean
sentence; ε is the L2 norm of one sentence's perturbation as a share of its embeddings' norm, in
training (unless a setting says otherwise) and in the attack. One token may get all of it: in a
sentence of {TOKENS} tokens, the median, ε = {epsilons[-1]:g} is {share:.0f} % of one token's norm,
in longer texts more. {note} Cost: passes of the
whole run ÷ those of plain training (`floor_cost`); cells were trained on machines of different
speed, in bfloat16 and in float32, so their seconds are not compared:
[bench_training.md](bench_training.md) measures the cost of a step. {attack_lengths(done)}

![clean accuracy against accuracy under attack](sst2_methods.svg)

Model: {args.title or Path(args.model_name_or_path).name}. Training rows:
{training["max_train_samples"]}, drawn by the seed. {platform.machine()} CPU,
torch {torch.__version__}, transformers {transformers.__version__}.

    {" ".join([COMMAND, *args.extra])}

One cell of it:

    {example}
"""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "sst2_methods.md").write_text(text, encoding="utf-8")
    draw(cells, epsilons[-1], RESULTS / "sst2_methods.svg")
    print(tables)
