"""Every method on SST-2, at equal epochs and at equal time: accuracy, robustness, seconds.

    python recipes/sst2_methods.py --model_name_or_path MODEL --dataset_name SST2_FOLDER

Every cell (method × budget × seed) is one `nlp-adv train` command, printed before it runs; a cell
whose report is there already, in the output folder or among the published results, is not run
again, so a stopped recipe goes on where it was (`--results NEW_FILE` begins anew). The tables and
the numbers of every cell end in `recipes/results/`. Several processes may share the work
(`--methods` or `--seeds` of their own); `--table_only` makes the tables of what there is.
The figures need `nlp_adv[plots]`.
"""

import argparse
import json
import math
import shlex
from pathlib import Path
from typing import Any

from sst2_report import RESULTS, write_results

from nlp_adv.cli.main import main as nlp_adv
from nlp_adv.methods import build, floor_cost

EPSILONS = (0.01, 0.02, 0.04)
BLOCKS = 6  # of the model, for the cost of a pass through one of them
EPOCHS = 3
TIME = 3  # the equal-time budget, in epochs of plain training

# A fresh head and full-size attacks from the first step can end in a constant answer (seen with
# fgm_matrix, freeat and pgd without a clean loss), so all begin alike.
START = {"adv_start_step": "0.1"}
RAMP = START | {"adv_ramp_steps": "0.3"}

# Radii are shares of the embedding norm; all else is the preset. Noise, the control, gets three
# times the attacks' radius, so that it has a chance.
METHODS: dict[str, dict[str, str]] = {
    "none": {"adv": "none"},
    "noise": {"adv": "noise", "adv_epsilon": "0.1"} | RAMP,
    "rdrop": {"adv": "rdrop"} | START,
    "fgsm": {"adv": "fgsm"} | RAMP,
    "fgm": {"adv": "fgm"} | RAMP,
    "fgm_matrix": {"adv": "fgm_matrix"} | START,
    "pgd": {"adv": "pgd"} | RAMP,
    "freeat": {"adv": "freeat"} | RAMP,
    "yopo": {"adv": "yopo"} | RAMP,
    "freelb": {"adv": "freelb"} | RAMP,
    "freelb-1 reuse": {"adv": "freelb", "adv_steps": "1", "adv_reuse": "true"} | RAMP,
    "tavat": {"adv": "tavat"} | RAMP,
    "vat": {"adv": "vat"} | RAMP,
    "smart": {"adv": "smart"} | RAMP,
    "trades": {"adv": "trades"} | RAMP,
    "awp": {"adv": "awp"} | RAMP,
    "alum": {"adv": "vat", "adv_symmetric": "true"} | RAMP,
    "smart proximal": {"adv": "smart", "adv_proximal_weight": "1"} | RAMP,
}
TRAINING = {
    "max_train_samples": "1200",
    "per_device_train_batch_size": "16",
    "per_device_eval_batch_size": "64",
    "learning_rate": "5e-5",
    "warmup_steps": "0.1",
    "train_sampling_strategy": "group_by_length",
    "save_strategy": "no",
    "logging_steps": "50",
    "attack_examples": "200",
    "attack_steps": "10",
}
BUDGETS = ("epochs", "time")


def steps_for_equal_time(method: str) -> int:
    """Optimizer steps that cost as much as `TIME` plain epochs, by the passes a step makes."""
    return round(TIME * steps_an_epoch() / cost(method))


def cost(method: str) -> float:
    """Of a step, in plain ones, the mean over a run that begins without attack."""
    own = {key.removeprefix("adv_"): value for key, value in METHODS[method].items()}
    name, start = own.pop("adv"), float(own.pop("start_step", 0))
    own.pop("ramp_steps", None)
    attacked = floor_cost(build(name, **{k: json.loads(v) for k, v in own.items()}), BLOCKS)
    return start + (1 - start) * attacked


def steps_an_epoch() -> int:
    rows, batch = int(TRAINING["max_train_samples"]), int(TRAINING["per_device_train_batch_size"])
    return math.ceil(rows / batch)


def command(args: argparse.Namespace, method: str, budget: str, seed: int) -> list[str]:
    """What follows `nlp-adv`."""
    length = {"num_train_epochs": str(EPOCHS)}
    if budget == "time":
        length = {"max_steps": str(steps_for_equal_time(method))}
    settings = {
        "model_name_or_path": args.model_name_or_path,
        "dataset_name": args.dataset_name,
        **TRAINING,
        **length,
        "seed": str(seed),
        "output_dir": str(folder(args, method, budget, seed)),
        **METHODS[method],
    }
    flags = [part for name, value in settings.items() for part in (f"--{name}", value)]
    epsilons = [str(epsilon) for epsilon in EPSILONS]
    own = ["--attack_epsilons", *epsilons, "--overwrite_output_dir", "true", *args.extra]
    return ["train", *flags, *own]


def folder(args: argparse.Namespace, method: str, budget: str, seed: int) -> Path:
    """Another setting is another cell; one that both budgets come to is run once."""
    if budget == "time" and steps_for_equal_time(method) == EPOCHS * steps_an_epoch():
        budget = "epochs"
    flags = METHODS[method].items()
    setting = "_".join(part.removeprefix("adv_") for flag in flags for part in flag)
    return Path(args.output_dir) / budget / f"{setting}-seed{seed}"


def report_of(
    args: argparse.Namespace, method: str, budget: str, seed: int
) -> dict[str, Any] | None:
    path = folder(args, method, budget, seed) / "nlp_adv_report.json"
    if not path.exists():
        return published(args.results).get(key(method, budget, seed))
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    run: dict[str, Any] = report["runs"][-1]
    if "attack" in report:
        run["attack"] = report["attack"]
    state = json.loads((path.parent / "trainer_state.json").read_text(encoding="utf-8"))
    return run | {"optimizer_steps": state["global_step"]}


def key(method: str, budget: str, seed: int) -> str:
    """A cell's place in the published numbers."""
    return str(folder(argparse.Namespace(output_dir="."), method, budget, seed))


def published(path: Path) -> dict[str, dict[str, Any]]:
    """Cells of the results, by key, where they were trained as this recipe trains."""
    if not path.exists():
        return {}
    results = json.loads(path.read_text(encoding="utf-8"))
    return results["cells"] if results.get("training") == TRAINING else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_name_or_path", required=True)
    parser.add_argument("--dataset_name", required=True, help="a folder with SST-2's three splits")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--budgets", nargs="+", default=list(BUDGETS), choices=BUDGETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--output_dir", default="runs/sst2_methods")
    parser.add_argument("--title", help="the model's name in the results")
    parser.add_argument("--results", type=Path, default=RESULTS / "sst2_methods.json")
    parser.add_argument("--table_only", action="store_true")
    args, args.extra = parser.parse_known_args()  # the rest goes to every nlp-adv train
    for seed in [] if args.table_only else args.seeds:
        for budget in args.budgets:
            for method in args.methods:
                if report_of(args, method, budget, seed) is None:
                    line = command(args, method, budget, seed)
                    print("$", shlex.join(["nlp-adv", *line]), flush=True)
                    if nlp_adv(line) != 0:
                        raise SystemExit(f"The cell {method}, {budget}, seed {seed} failed.")
    write(args)


def write(args: argparse.Namespace) -> None:
    """The tables and figures of all cells that there are."""
    cells = {
        budget: {
            method: {
                seed: run
                for seed in sorted({*args.seeds, *range(10)})
                if (run := report_of(args, method, budget, seed)) is not None
            }
            for method in METHODS
        }
        for budget in BUDGETS
    }
    anywhere = {"model_name_or_path": "MODEL", "dataset_name": "SST2_FOLDER", "output_dir": "runs"}
    shown = argparse.Namespace(**vars(args) | anywhere)
    example = shlex.join(["nlp-adv", *command(shown, "freelb", "epochs", 0)])
    note = (
        f"Equal epochs: {EPOCHS}. Equal time: as many optimizer steps as cost what {TIME} epochs "
        f"of plain training do, counted in passes (`floor_cost`). All attacks begin after a tenth "
        f"of the steps and grow over three tenths (fgm_matrix and rdrop do not grow)."
    )
    kept = {
        key(method, budget, seed): run
        for budget, methods in cells.items()
        for method, runs in methods.items()
        for seed, run in runs.items()
    }
    args.results.parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps({"training": TRAINING, "cells": kept}, indent=1)
    args.results.write_text(content + "\n", encoding="utf-8")
    write_results(
        cells,
        EPSILONS,
        TRAINING,
        args,
        example=example,
        note=note,
        costs={method: cost(method) for method in METHODS},
        plain_steps=EPOCHS * steps_an_epoch(),
    )


if __name__ == "__main__":
    main()
