"""Adversarial training on images: how it converges, what ε, step and warm-up do, how it collapses.

    python recipes/image_training.py --data_dir FASHION_MNIST_FOLDER

A cell (setting × seed) is what one `nlp-adv train --modality image` command trains, printed before
it runs: a small ResNet from random weights, attacked at the end of every epoch on held-out images
and after the last one on test images. `EXPERIMENTS` says which cells are looked at together; a cell
that belongs to several is trained once.

Each cell ends in a JSON file in the output folder and is not made again unless its flags or its
attacks changed, so a stopped recipe goes on where it was, and several processes may share the work.
`--report_only` writes the page of what there is. The figures need `nlp_adv[images]`.
"""

import argparse
import json
import logging
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from image_training_report import write_results
from torch import nn
from transformers import TrainerCallback, set_seed

from nlp_adv.attacks import FGSM, PGD
from nlp_adv.cli.arguments import parse
from nlp_adv.cli.image_arguments import ImageReportArguments
from nlp_adv.cli.image_task import ImageTask
from nlp_adv.errors import UserError
from nlp_adv.methods import floor_cost
from nlp_adv.robustness import epsilon_sweep, evaluate_images, image_evaluator
from nlp_adv.training.callbacks import RobustnessCallback
from nlp_adv.training.trainer import AdversarialTrainer

SMALL, USUAL, LARGE = 8 / 255, 0.1, 0.25  # radii in pixels of [0, 1]
RADII = (SMALL, 0.05, USUAL, 0.15, 0.2)  # that every cell is tested at
TRAINING = {
    "num_train_epochs": "5",
    "max_train_samples": "5000",
    "validation_examples": "500",
    "per_device_train_batch_size": "64",
    "learning_rate": "5e-3",
}
OFTEN = {"eval_strategy": "steps", "eval_steps": "0.1"}
LONG = {
    "num_train_epochs": "6",
    "max_train_samples": "10000",
    "eval_strategy": "steps",
    "eval_steps": "0.042",
}
WATCH_STEPS = 20  # of the PGD on held-out images
TEST_STEPS, RESTARTS, TESTED = 50, 3, 500  # of the PGD on test images, and how many


def attack(method: str, epsilon: float, **settings: object) -> dict[str, str]:
    """Flags of a method at its preset for images, in the ball of that radius."""
    flags = {"adv": method, "adv_epsilon": f"{epsilon:.6g}"}
    return flags | {f"adv_{key}": str(value) for key, value in settings.items()}


def fast(epsilon: float, step: float, **settings: object) -> dict[str, str]:
    """FGSM with a step of so many ε, from the clean point, the adversarial loss alone."""
    own = {"step_size": f"{step * epsilon:.6g}", "random_start": "false"}
    return attack("fgsm", epsilon, **own | settings)


SETTINGS: dict[str, dict[str, str]] = {
    "plain": {"adv": "none"},
    "pgd": attack("pgd", USUAL),
    "pgd mixed": attack("pgd", USUAL, clean_weight=0.5),
    "pgd ε=8/255": attack("pgd", SMALL),
    "pgd ε=0.25": attack("pgd", LARGE),
    "pgd α=ε/20": attack("pgd", USUAL, step_size=USUAL / 20),
    "pgd α=2ε": attack("pgd", USUAL, step_size=2 * USUAL),
    "pgd ε=0.25 ramp": attack("pgd", LARGE, ramp_steps=0.5),
    "fgsm ε=0.25": fast(LARGE, 1) | OFTEN,
    "fgsm ε=0.25 α=ε/2": fast(LARGE, 0.5) | OFTEN,
    "fgsm ε=0.25 ramp": fast(LARGE, 1, ramp_steps=0.5) | OFTEN,
    "fgsm-rs ε=0.25": attack("fgsm", LARGE) | OFTEN,
    "fgsm ε=0.2 long": fast(0.2, 1) | LONG,
    "fgsm-rs ε=0.2 long": attack("fgsm", 0.2) | LONG,
    "fgsm-rs": attack("fgsm", USUAL),
    "freeat": attack("freeat", USUAL, replays=4),
    "freelb": attack("freelb", USUAL),
    "yopo": attack("yopo", USUAL),
    "trades": attack("trades", USUAL, steps=7),
}
EXPERIMENTS: dict[str, list[str]] = {  # cells that are looked at together
    "convergence": ["plain", "pgd", "pgd mixed"],
    "methods": ["plain", "fgsm-rs", "freeat", "freelb", "yopo", "trades", "pgd"],
    "fast": [
        "fgsm ε=0.25",
        "fgsm ε=0.25 α=ε/2",
        "fgsm ε=0.25 ramp",
        "fgsm-rs ε=0.25",
        "pgd ε=0.25",
        "fgsm ε=0.2 long",
        "fgsm-rs ε=0.2 long",
    ],
    "epsilon": ["plain", "pgd ε=8/255", "pgd", "pgd ε=0.25"],
    "step": ["pgd α=ε/20", "pgd", "pgd α=2ε"],
    "warm-up": ["pgd ε=0.25", "pgd ε=0.25 ramp"],
}


def epsilon_of(name: str) -> float:
    """The radius that a cell is watched and tested at: its own, or the usual one."""
    return float(SETTINGS[name].get("adv_epsilon", USUAL))


def command(args: argparse.Namespace, name: str, seed: int) -> list[str]:
    """What follows `nlp-adv`."""
    settings = {"modality": "image", **TRAINING, **SETTINGS[name], "seed": str(seed)}
    settings |= {"watch_epsilon": str(epsilon_of(name)), "attack_examples": str(TESTED)}
    settings |= {"dataset_name": str(args.data_dir)} if args.data_dir else {}
    flags = [part for flag, value in settings.items() for part in (f"--{flag}", value)]
    return ["train", *flags, *args.extra]


def pgd_of(steps: int, epsilon: float) -> PGD:
    """The one of `nlp-adv train`: on the logit margin, from a random start, α = 2.5·ε/K."""
    return ImageReportArguments(attack_steps=steps).attack([epsilon]).attack


def watch_of(task: ImageTask, epsilon: float) -> Callable[[nn.Module], dict[str, float]]:
    """Clean, PGD and FGSM accuracy on the held-out images."""
    batches = list(task.images("validation").batches(256))
    by_pgd = image_evaluator(batches, pgd_of(WATCH_STEPS, epsilon), task.pixels)
    by_fgsm = image_evaluator(batches, FGSM(epsilon), task.pixels)
    return lambda model: by_pgd(model) | {"fgsm_accuracy": by_fgsm(model)["robust_accuracy"]}


class StepClock(TrainerCallback):
    """CPU seconds of the optimizer steps alone, without loading and evaluation."""

    def __init__(self) -> None:
        self.seconds, self._begun = 0.0, 0.0

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Before the first pass."""
        self._begun = time.process_time()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """After the optimizer."""
        self.seconds += time.process_time() - self._begun


@contextmanager
def warnings_of(state: Callable[[], Any]) -> Iterator[list[dict[str, Any]]]:
    """What the training warns of, and in which epoch."""
    kept: list[dict[str, Any]] = []

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            kept.append({"epoch": state().epoch, "text": record.getMessage()})

    keeper, logger = Keeper(logging.WARNING), logging.getLogger("nlp_adv.training")
    logger.addHandler(keeper)
    try:
        yield kept
    finally:
        logger.removeHandler(keeper)


def train(args: argparse.Namespace, name: str, seed: int) -> dict[str, Any]:
    """A cell: the Trainer's log, the warnings, the cost, and what attacks left at the end."""
    arguments = parse([*command(args, name, seed)[1:], "--output_dir", str(args.output_dir)])
    set_seed(seed)
    task = ImageTask.load(arguments)
    set_seed(seed)
    trainer = AdversarialTrainer(
        model=task.new_model(),
        args=arguments.training,
        **task.for_trainer(),
    )
    epsilon, clock = epsilon_of(name), StepClock()
    trainer.add_callback(RobustnessCallback(trainer, watch_of(task, epsilon)))
    trainer.add_callback(clock)
    with warnings_of(lambda: trainer.state) as warned:
        trainer.train()
    method = arguments.training.adversarial_schedule("image").method
    return {
        "command": shown(args, name, seed),
        "flags": " ".join(f"--{key} {value}" for key, value in SETTINGS[name].items()),
        "protocol": protocol(),
        "epsilon": epsilon,
        "optimizer_steps": trainer.state.global_step,
        "cpu_seconds": clock.seconds,
        "floor_cost": floor_cost(method, layers_of(trainer.model)),
        "warnings": warned,
        "history": trainer.state.log_history,
        "test": tested(task, trainer.model, epsilon),
    }


def layers_of(model: nn.Module) -> int:
    """For the cost of a pass through the first of them."""
    return sum(isinstance(module, nn.Conv2d | nn.Linear) for module in model.modules())


def tested(task: ImageTask, model: nn.Module, epsilon: float) -> dict[str, Any]:
    """On the first test images: strong attacks at one radius, a weaker one at several."""
    images = task.images(str(task.reported)).head(TESTED)
    on_pixels, batches = task.pixels(model), list(images.batches(256))
    attacks = {"fgsm": FGSM(epsilon), "pgd": pgd_of(TEST_STEPS, epsilon)}
    found = evaluate_images(on_pixels, batches, attacks, restarts=RESTARTS)
    sweep = epsilon_sweep(pgd_of(WATCH_STEPS, USUAL), on_pixels, batches, RADII)
    return {
        "images": len(images),
        "clean": found.clean.value,
        "fgsm": found.summaries["fgsm"].under_attack.value,
        "pgd": found.summaries["pgd"].under_attack.value,
        "worst_case": found.worst_case.value,
        "sweep": {str(radius): sweep.accuracy(radius) for radius in RADII},
    }


def protocol() -> dict[str, Any]:
    """What a cell's numbers depend on beside its command."""
    return {"watch": WATCH_STEPS, "test": [TEST_STEPS, RESTARTS, TESTED], "radii": list(RADII)}


def shown(args: argparse.Namespace, name: str, seed: int) -> str:
    """The command as people can give it."""
    anywhere = {"data_dir": "FASHION_MNIST_FOLDER"} if args.data_dir else {}
    return shlex.join(
        ["nlp-adv", *command(argparse.Namespace(**vars(args) | anywhere), name, seed)]
    )


def path_of(args: argparse.Namespace, name: str, seed: int) -> Path:
    safe = name.translate({ord("ε"): "epsilon", ord("α"): "step", ord(" "): "_", ord("/"): "-"})
    return Path(args.output_dir) / f"{safe}-seed{seed}.json"


def finished(args: argparse.Namespace, name: str, seed: int) -> dict[str, Any] | None:
    """A cell's record, if it was made with these flags and attacks."""
    path = path_of(args, name, seed)
    if not path.exists():
        return None
    cell: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    same = cell["command"] == shown(args, name, seed) and cell["protocol"] == protocol()
    return cell if same else None


def run(args: argparse.Namespace, name: str, seed: int) -> None:
    """Train a cell that is not there and that no other process is at."""
    path = path_of(args, name, seed)
    try:
        with FileLock(path.with_suffix(".lock"), timeout=0):
            if finished(args, name, seed) is None:
                print("$", shown(args, name, seed), flush=True)
                content = json.dumps(train(args, name, seed), indent=1)
                partial = path.with_suffix(".partial")
                partial.write_text(content + "\n", encoding="utf-8")
                partial.replace(path)
    except Timeout:
        print(f"{name}, seed {seed} is being trained by another process.")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data_dir", type=Path, help="a folder of IDX files; scikit-learn's digits without"
    )
    parser.add_argument(
        "--experiments", nargs="+", default=list(EXPERIMENTS), choices=list(EXPERIMENTS)
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--output_dir", type=Path, default=Path("runs/image_training"))
    parser.add_argument(
        "--results", type=Path, help="folder of the page and figures (default: the output folder)"
    )
    parser.add_argument("--report_only", action="store_true", help="train nothing")
    args, args.extra = parser.parse_known_args(argv)  # the rest goes to every nlp-adv train
    args.output_dir.mkdir(parents=True, exist_ok=True)
    names = dict.fromkeys(name for one in args.experiments for name in EXPERIMENTS[one])
    try:
        for seed in [] if args.report_only else args.seeds:
            for name in names:
                run(args, name, seed)
    except UserError as error:
        parser.error(str(error))
    cells = {
        name: {
            seed: cell for seed in args.seeds if (cell := finished(args, name, seed)) is not None
        }
        for name in SETTINGS
    }
    write_results(cells, EXPERIMENTS, args)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
