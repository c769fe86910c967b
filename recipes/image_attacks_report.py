"""The tables and figures that `image_attacks.py` ends in."""

import argparse
import platform
from pathlib import Path
from typing import Any

import torch
from image_attacks_experiments import EPSILONS, RATES, STEPS, TUNED_STEPS, Made, Subject
from image_attacks_figures import (
    draw_attacks,
    draw_curves,
    draw_descents,
    draw_epsilons,
    levels,
    median,
    share,
)
from torch import Tensor

from nlp_adv.robustness.statistics import Share

KEPT = "\n## What came out\n"  # and what follows it is written by hand; a new page keeps it
LOOKS = (1, 10, 50, STEPS)  # steps at which losses are shown
NAMED = ("data_dir", "images", "model_name_or_path", "output_dir", "results")  # not by value
VERDICTS = {True: "passed", False: "failed", None: "undecided"}


def row(*cells: object, head: bool = False) -> str:
    return f"| {' | '.join(map(str, cells))} |\n" + head * f"|{'---|' * len(cells)}\n"


def percent(found: Share) -> str:
    """With Wilson's interval."""
    low, high = found.interval()
    return f"{100 * found.value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def arrived(reached: Tensor) -> Tensor:
    """The first step after which the target is the answer, inf where there is none. (S+1, B)"""
    return torch.where(reached.any(0), reached.int().argmax(0).double(), torch.inf)


def steps_shown(step: float) -> str:
    return "never" if step == torch.inf else f"{step:.0f}"


def epsilon_table(made: Made, y: Tensor) -> str:
    sure = "mean probability of the right class"
    head = ["accuracy, %", sure, "inverse: accuracy, %", sure, "surer than at ε = 0, %"]
    text = row("ε", *head, head=True)
    before = made["inverse probability"][:, 0]
    for k, epsilon in enumerate(EPSILONS):
        cells = []
        for way in ("fgsm", "inverse"):
            cells.append(percent(share(made[f"{way} answers"][:, k] == y)))
            cells.append(f"{made[f'{way} probability'][:, k].double().mean():.3f}")
        surer = share(made["inverse probability"][:, k] > before)
        text += row(levels(epsilon), *cells, f"{100 * surer.value:.1f}" if k else "")
    return text


def rate_table(made: Made) -> str:
    """Medians over images; of one image, its numbers."""
    head = ["first step, ‖Δx‖∞", "by its formula", "‖δ‖₂ after it"]
    head += [f"loss after {k}" for k in LOOKS]
    head += ["‖δ‖₂ at the end", "‖δ‖∞", "at the target, %", "first at step"]
    text = row("optimizer", *head, "‖δ‖₂ there", head=True)
    for name, run in made.items():
        if name == "settings":
            continue
        values = [run["first"], run["formula"], run["norms"][1]]
        values += [run["losses"][k] for k in LOOKS] + [run["norms"][-1], run["linf"]]
        cells = [f"{median(value):.3g}" for value in values]
        cells += [f"{100 * share(run['reached'][-1]).value:.0f}"]
        at = arrived(run["reached"])
        there = run["norms"].gather(0, at.clamp(max=len(run["norms"]) - 1).long()[None])[0][
            at < torch.inf
        ]
        length = f"{median(there):.3g}" if len(there) else "–"
        text += row(name, *cells, steps_shown(median(at)), length)
    return text


def best_table(best: dict[str, Made]) -> str:
    head = ["best learning rate", "at the target, %", "loss", "‖δ‖₂", "first at step"]
    text = row("optimizer", *head, head=True)
    for name, run in best.items():
        values = [run["losses"][-1], run["norms"][-1]]
        cells = [f"{run['rate']:.2g}", percent(share(run["reached"][-1]))]
        cells += [f"{median(value):.3g}" for value in values]
        text += row(name, *cells, steps_shown(median(arrived(run["reached"]))))
    text += "\nAt the target, % of the images that rates were chosen with, by learning rate:\n\n"
    text += row("optimizer", *(f"{rate:.2g}" for rate in RATES), head=True)
    for name, run in best.items():
        text += row(name, *(f"{100 * value:.0f}" for value in run["shares"]))
    return text


def attack_table(table: dict[str, Made]) -> str:
    head = ["fooled, %", "after rounding to 8 bits, %", "‖δ‖₂, mean", "median", "‖δ‖∞, mean"]
    text = row("attack", *head, "gradients an image", "CPU ms an image", head=True)
    for name, run in table.items():
        fell = run["success"] == 1
        cells = [percent(share(fell)), f"{100 * share(run['success_8_bit'] == 1).value:.1f}"]
        norms = run["l2"][fell], run["linf"][fell]
        cells += [f"{norms[0].mean():.3f}", f"{norms[0].median():.3f}", f"{norms[1].mean():.4f}"]
        cells += [f"{run['passes'].mean():.1f}", f"{1000 * run['cpu'] / len(fell):.2f}"]
        text += row(name, *(cell.replace("nan", "–") for cell in cells))
    return text


def check_table(checks: list[list[Any]]) -> str:
    lines = [row(name, VERDICTS[passed], finding) for name, passed, finding in checks]
    return row("check", "", "", head=True) + "".join(lines)


def fgsm_section(made: dict[str, Any], subject: Subject) -> str:
    return f"""
## FGSM over ε, and its inverse

{epsilon_table(made["fgsm"], subject.y)}
The {len(subject.x)} images, those that are wrong without attack as well. FGSM: x + ε·sign(∇L), L
the cross entropy of the right class, clamped to [0, 1]. Inverse: x − ε·sign(∇L). One gradient
serves all ε.

![one image a row, one ε a column, under FGSM](fgsm.png)

![the same under the inverse](inverse.png)

Above each picture: the answer and its probability, in orange where it is not the right class.

![probability of the right class and accuracy over ε, both ways](epsilons.svg)
"""


def optimizer_section(
    made: dict[str, Any], subject: Subject, shown: list[int], args: argparse.Namespace
) -> str:
    label = int(subject.y[shown[0]])
    target = (label + 1) % len(subject.names) if args.target is None else args.target
    count = made["best"]["sgd"]["linf"].numel()
    goal = "the class after its own" if args.target is None else "the same class"
    return f"""
## Optimizers on pixels

One image ({subject.names[label]}, number {shown[0]}) towards “{subject.names[target]}”, learning
rate {args.learning_rate:g}, {STEPS} steps, pixels clamped to [0, 1] and otherwise free:

{rate_table(made["one"])}
Medians over {made["many"]["sgd"]["linf"].numel()} images that are right, each towards {goal}:

{rate_table(made["many"])}
**Equal learning rates are not equal steps.** The first step moves a pixel whose gradient is g by
lr·|g| under SGD, with momentum or without, by lr·|g|/√((1 − ρ)·g²) = 10·lr under RMSprop
(ρ = 0.99), and by lr·|g|/|g| = lr under Adagrad and Adam. “By its formula”: the largest of these
over the pixels, after clamping. Loss: cross entropy of the target. SGD's momentum is 0.9; else
torch's defaults.

![loss and length of δ step by step](optimizers.svg)

Above: the one image. Below: medians over the others.

Each at its best learning rate, in an L∞ ball of ε = {levels(args.epsilon_target)}, in which all can
go equally far, {TUNED_STEPS} steps. The rate is the one that brings most of {count} images to the
target, then the one of the lowest loss; its row is of {count} others (medians). sgd_sign: SGD on
the sign of the gradient, which is BIM.

{best_table(made["best"])}"""


def attack_section(made: dict[str, Any], subject: Subject, args: argparse.Namespace) -> str:
    return f"""
## Attacks

{attack_table(made["table"])}
Each on the {len(subject.right)} of {len(subject.x)} images that are right without attack,
untargeted. Balls: L∞ with ε = {levels(args.epsilon_linf)}, L2 with {args.epsilon_l2:g}, L1 with
{args.epsilon_l1:g}; {args.steps} steps from the image itself, for pgd from a random start;
α = 2.5·ε/steps (bim, pgd) or ε/steps (mi-fgsm, μ = 1); Adam's learning rate is 0.01. They climb the
cross entropy unless the name says margin or dlr. noise: the first of 10 random δ of length ε that
fools. stop: an image leaves with its first success. DeepFool: at most 50 steps over 10 classes. cw:
9 constants of 200 steps. Norms are of the images that are fooled, before rounding. CPU ms: of the
process, an attacked image, {args.batch_size} at once.

![adversarial images by attack, each above its δ](attacks.png)

Below each picture δ, scaled so that its largest change is black or white. In orange: fooled.

Checks against masking, on all {len(subject.x)} images with PGD in the L∞ ball:

{check_table(made["checks"])}"""


def command(args: argparse.Namespace) -> str:
    """What to run, with names in the place of folders."""
    text = "python recipes/image_attacks.py"
    text += " --data_dir FASHION_MNIST_FOLDER" if args.data_dir else " --images PICTURES"
    if args.model_name_or_path:
        folder = Path(args.model_name_or_path).is_dir()
        text += f" --model_name_or_path {'MODEL_FOLDER' if folder else args.model_name_or_path}"
    for flag, value in vars(args).items():
        if flag not in NAMED and not flag.startswith("epsilon") and value is not None:
            shown = " ".join(map(str, value)) if isinstance(value, list) else value
            text += f" --{flag} {shown}"
    radii = {
        "target": levels(args.epsilon_target),
        "linf": levels(args.epsilon_linf),
        "l2": args.epsilon_l2,
        "l1": args.epsilon_l1,
    }
    return text + "".join(f" --epsilon_{name} {radius}" for name, radius in radii.items())


def write_results(
    made: Made, subject: Subject, shown: list[int], args: argparse.Namespace, folder: Path
) -> None:
    """`image_attacks.md` and its figures."""
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "image_attacks.md"
    old = page.read_text(encoding="utf-8") if page.exists() else ""
    by_hand = "".join(old.partition(KEPT)[1:])
    accuracy = percent(Share(len(subject.right), len(subject.x)))
    text = f"""# Attacks on images

Model: {subject.title}.
Right on the {len(subject.x)} images used here: {accuracy} % (Wilson's 95 % interval, here and
below). ε, δ and steps are in pixels of [0, 1].
"""
    if "fgsm" in made:
        text += fgsm_section(made, subject)
        draw_epsilons(subject, shown, folder)
        draw_curves(made["fgsm"], subject.y, folder / "epsilons.svg")
    if "many" in made:
        text += optimizer_section(made, subject, shown, args)
        draw_descents(made["one"], made["many"], folder / "optimizers.svg")
    if "table" in made:
        text += attack_section(made, subject, args)
        draw_attacks(subject, shown, made["table"], folder / "attacks.png")
    text += f"""
## How it was run

{platform.machine()} CPU, {torch.get_num_threads()} thread(s), torch {torch.__version__}.

    {command(args)}
"""
    page.write_text(text + by_hand, encoding="utf-8")
    print(text)
