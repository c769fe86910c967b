"""Tables and figures of `image_training.py`."""

import argparse
import math
import platform
import statistics
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from nlp_adv.drawing import line_style, mark, new_figure, saved, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Cell = dict[str, Any]
Runs = dict[int, Cell]  # by seed
KEPT = "\n## What came out\n"  # and what follows it is written by hand; a new page keeps it
LOSS, ADVERSARIAL = "loss", "adv_loss"  # of the mixed cells the second is a part of the first
CLEAN, PGD, FGSM = (f"eval_{name}_accuracy" for name in ("clean", "robust", "fgsm"))


def shown(values: list[float], digits: int = 1) -> str:
    """Mean ± standard deviation over seeds."""
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def row(*cells: object, head: bool = False) -> str:
    return f"| {' | '.join(map(str, cells))} |\n" + head * f"|{'---|' * len(cells)}\n"


def series(cell: Cell, key: str) -> dict[float, float]:
    """What was logged of a quantity, by epoch."""
    return {line["epoch"]: line[key] for line in cell["history"] if key in line}


def levels(radius: float) -> str:
    """Whole grey levels as people write them."""
    whole = abs(radius * 255 - round(radius * 255)) < 1e-3 and radius < 0.05
    return f"{radius * 255:.0f}/255" if whole else f"{radius:g}"


def epochs_table(cells: dict[str, Runs]) -> str:
    """Training loss and held-out accuracies after every epoch."""
    some = next(iter(next(iter(cells.values())).values()))
    epochs = list(series(some, PGD))
    text = row("", "after epoch", *(f"{epoch:g}" for epoch in epochs), head=True)
    titles = [("training loss", LOSS, 1, 2), ("clean, %", CLEAN, 100, 1), ("PGD, %", PGD, 100, 1)]
    for name, runs in cells.items():
        part = [("its adversarial part", ADVERSARIAL, 1, 2)] if mixed(runs) else []
        for title, key, scale, digits in titles[:1] + part + titles[1:]:
            found = [series(cell, key) for cell in runs.values()]
            values = ([scale * one[epoch] for one in found if epoch in one] for epoch in epochs)
            text += row(name, title, *(shown(v, digits) if v else "" for v in values))
    return text


def mixed(runs: Runs) -> bool:
    """Trained on the clean loss as well as on the adversarial one."""
    return any("clean_loss" in line for cell in runs.values() for line in cell["history"])


def test_table(cells: dict[str, Runs], plain: Runs) -> str:
    """At the end, on test images: accuracies at each cell's own radius, and what training cost."""
    titles = ("trained with", "at ε", "seeds", "clean, %", "FGSM, %", "worst case, %")
    text = row(*titles, "steps", "CPU s", "a step ÷ plain", "floor", head=True)
    of_plain = [seconds_a_step(cell) for cell in plain.values()]
    for name, runs in cells.items():
        done = list(runs.values())
        tests = ("clean", "fgsm", "worst_case")
        ratio = [seconds_a_step(cell) / statistics.mean(of_plain) for cell in done if plain]
        text += row(
            name,
            levels(done[0]["epsilon"]),
            len(done),
            *(shown([100 * cell["test"][key] for cell in done]) for key in tests),
            done[0]["optimizer_steps"],
            shown([cell["cpu_seconds"] for cell in done], 0),
            shown(ratio, 1) if ratio else "",
            f"{done[0]['floor_cost']:.2f}",
        )
    return text


def seconds_a_step(cell: Cell) -> float:
    return cell["cpu_seconds"] / cell["optimizer_steps"]


def sweep_table(cells: dict[str, Runs]) -> str:
    """At the end, on test images: accuracy under PGD at several radii."""
    radii = next(iter(next(iter(cells.values())).values()))["test"]["sweep"]
    heads = (f"ε = {levels(float(radius))}, %" for radius in radii)
    text = row("trained with", "seeds", "clean, %", *heads, head=True)
    for name, runs in cells.items():
        tests = [cell["test"] for cell in runs.values()]
        clean = shown([100 * test["clean"] for test in tests])
        under = (shown([100 * test["sweep"][radius] for test in tests]) for radius in radii)
        text += row(name, len(tests), clean, *under)
    return text


def warnings_text(cells: dict[str, Runs]) -> str:
    """Every warning of these cells as it was logged."""
    logged = [
        f"- `{name}`, seed {seed}, epoch {one['epoch']:.1f}:\n\n      {one['text']}\n"
        for name, runs in cells.items()
        for seed, cell in runs.items()
        for one in cell["warnings"]
    ]
    return "\n".join(logged) or "No training warned of anything.\n"


def line(
    axes: "Axes", points: list[dict[float, float]], label: str, number: int, dash: str
) -> None:
    """Mean over seeds with marks, and each seed as a thin line."""
    points = [one for one in points if one]
    if not points:
        return
    style = line_style(number) | {"linestyle": dash}
    x = sorted(set.intersection(*(set(one) for one in points)))
    for one in points if len(points) > 1 else []:
        axes.plot(list(one), list(one.values()), **style | {"linewidth": 0.6, "alpha": 0.6})
    means = [statistics.mean(one[at] for one in points) for at in x]
    axes.plot(x, means, label=label, marker=mark(number), markersize=4, **style)


def finish(axes: "Axes", title: str, x: str, y: str, *, legend: bool = True) -> None:
    axes.set(title=title, xlabel=x, ylabel=y)
    tidy(axes)
    axes.locator_params(axis="x", nbins=6, integer=x == "epoch")
    if legend and axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=False)


def draw_convergence(cells: dict[str, Runs], path: Path) -> None:
    """Training loss, and held-out accuracy without attack and under it."""
    figure = new_figure(10, 4)
    left, right = figure.subplots(1, 2)
    for number, (name, runs) in enumerate(cells.items()):
        keys = (LOSS, ADVERSARIAL, CLEAN, PGD)
        of = {key: [series(cell, key) for cell in runs.values()] for key in keys}
        line(left, of[LOSS], name, number, "-")
        if mixed(runs):
            line(left, of[ADVERSARIAL], f"{name}: adversarial part", number, "--")
        line(right, of[CLEAN], f"{name}: clean", number, "-")
        line(right, of[PGD], f"{name}: PGD", number, "--")
    finish(left, "loss that is trained on", "epoch", "training loss")
    finish(right, "held-out images", "epoch", "accuracy")
    right.set_ylim(0, 1)
    saved(figure, str(path))


def draw_settings(groups: dict[str, dict[str, Runs]], path: Path) -> None:
    """The effect of ε on the test images, of step and warm-up on the way there."""
    figure = new_figure(13, 4)
    first, *others = figure.subplots(1, 3, sharey=True)
    for number, (name, runs) in enumerate(groups["epsilon"].items()):
        tests = [cell["test"] for cell in runs.values()]
        curves = [{0.0: t["clean"]} | {float(r): v for r, v in t["sweep"].items()} for t in tests]
        line(first, curves, name, number, "-")
    finish(first, "ε of the training", "ε of the attack on test images", "accuracy")
    for axes, group, title in zip(others, ("step", "warm-up"), ("step α", "warm-up"), strict=True):
        for number, (name, runs) in enumerate(groups[group].items()):
            for key, label, dash in ((CLEAN, "clean", "-"), (PGD, "PGD", "--")):
                found = [series(cell, key) for cell in runs.values()]
                line(axes, found, f"{name}: {label}", number, dash)
        finish(axes, f"{title}, held-out images", "epoch", "")
    first.set_ylim(0, 1)
    saved(figure, str(path))


def draw_collapse(cells: dict[str, Runs], path: Path) -> None:
    """Clean, FGSM and PGD accuracy over the epochs, a panel a setting; a red line is an alarm."""
    columns = min(4, len(cells))
    rows = math.ceil(len(cells) / columns)
    figure = new_figure(2.9 * columns, 2.8 * rows + 0.2)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flatten()
    for axes, (name, runs) in zip(panels, cells.items(), strict=False):
        for number, (key, label) in enumerate(((CLEAN, "clean"), (FGSM, "FGSM"), (PGD, "PGD"))):
            line(axes, [series(cell, key) for cell in runs.values()], label, number, "-")
        for one in (one for cell in runs.values() for one in cell["warnings"]):
            axes.axvline(one["epoch"], color="#cc0000", linewidth=1, linestyle=":")
        left = axes in panels[::columns]
        finish(axes, name, "epoch", "accuracy" if left else "", legend=axes is panels[0])
    for axes in panels[len(cells) :]:
        axes.set_visible(False)
    panels[0].set_ylim(0, 1)
    saved(figure, str(path))


def flags_table(cells: dict[str, Runs]) -> str:
    """What sets each cell apart from the others."""
    text = row("name", "flags", head=True)
    for name, runs in cells.items():
        text += row(name, f"`{next(iter(runs.values()))['flags']}`")
    return text


def page_text(groups: dict[str, dict[str, Runs]], args: argparse.Namespace) -> str:
    every = {name: runs for cells in groups.values() for name, runs in cells.items()}
    some = next(iter(every.get("pgd", next(iter(every.values()))).values()))
    protocol = some["protocol"]
    test = partial(test_table, plain=every.get("plain", {}))
    sections = [
        ("How it converges", "convergence", [epochs_table, test], "convergence"),
        ("The radius", "epsilon", [sweep_table], "settings"),
        ("The step", "step", [epochs_table, test], None),
        ("Warm-up", "warm-up", [epochs_table, test], None),
        ("Fast single-step training", "fast", [test, warnings_text], "collapse"),
        ("Six methods at one radius", "methods", [test], None),
    ]
    parts = []
    for title, group, tables, figure in sections:
        if groups.get(group):
            text = "\n".join(table(groups[group]) for table in tables)
            picture = f"\n![{title}]({figure}.svg)\n" if figure else ""
            parts.append(f"## {title}\n\n{text}{picture}")
    parts.append(f"## Settings\n\n{flags_table(every)}")
    body = "\n".join(parts)
    data = " --data_dir FASHION_MNIST_FOLDER" * bool(args.data_dir)
    seeds = " ".join(map(str, args.seeds))
    command = f"python recipes/image_training.py{data} --seeds {seeds}"
    return f"""# Adversarial training on images

{"Fashion-MNIST" if args.data_dir else "Digits of scikit-learn"}, a ResNet of three blocks, 78,000
weights, random at first. ε is the radius of an L∞ ball in pixels of [0, 1] and α the step in it.
Names say what differs from the method's preset for images at that ε; all flags are below.

{body}
Mean ± standard deviation over seeds; in figures marks are means and thin lines are seeds. By epoch:
accuracy on held-out images, PGD being PGD-{protocol["watch"]} at the ε of the training (0.1 for
plain training). At ε: on the first {some["test"]["images"]} test images after the last epoch; the
worst case is that of FGSM and {protocol["test"][1]} starts of PGD-{protocol["test"][0]}. The
radius: one start of PGD-{protocol["watch"]} on the same images. Every PGD climbs the logit margin
from a random start, α = 2.5·ε/K. CPU s: of the optimizer steps, without loading and evaluation.
Floor: what a step costs by its passes, in plain steps (`floor_cost`).

{platform.machine()} CPU shared with other work, {torch.get_num_threads()} thread(s),
torch {torch.__version__}, transformers {transformers.__version__}.

    {" ".join([command, *args.extra])}

One cell of it:

    {some["command"]}
"""


def write_results(
    cells: dict[str, Runs], experiments: dict[str, list[str]], args: argparse.Namespace
) -> None:
    """`image_training.md` and its figures."""
    groups = {
        experiment: {name: cells[name] for name in names if cells[name]}
        for experiment, names in experiments.items()
    }
    if not any(cells.values()):
        raise SystemExit("No cell has been trained yet.")
    folder: Path = args.results or args.output_dir
    folder.mkdir(parents=True, exist_ok=True)
    draw_convergence(groups["convergence"], folder / "convergence.svg")
    draw_settings(groups, folder / "settings.svg")
    if groups["fast"]:
        draw_collapse(groups["fast"], folder / "collapse.svg")
    page = folder / "image_training.md"
    old = page.read_text(encoding="utf-8") if page.exists() else ""
    text = page_text(groups, args) + "".join(old.partition(KEPT)[1:])
    page.write_text(text, encoding="utf-8")
    print(text.partition("\nMean ±")[0])
