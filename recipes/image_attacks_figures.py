"""The figures of `image_attacks.py`."""

from pathlib import Path

import torch
from image_attacks_experiments import EPSILONS, Made, Subject, signed_steps
from PIL import Image
from torch import Tensor

from nlp_adv.drawing import band_style, line_style, mark, new_figure, saved, tidy
from nlp_adv.robustness.statistics import Share

DRAWN = "noise-linf fgsm fgm-l2 pgd-linf pgd-l2 pgd-l1 apgd-linf deepfool-linf deepfool-l2 cw-l2"
WRONG = (213, 94, 0)  # titles of pictures with another answer
Cell = tuple[Tensor, str, bool]  # pixels, title, whether the answer is right


def share(hits: Tensor) -> Share:
    return Share(int(hits.sum()), len(hits))


def median(values: Tensor) -> float:
    """The lower one of an even number; inf may be among them."""
    return values.double().quantile(0.5, interpolation="lower").item()


def levels(epsilon: float) -> str:
    """Whole grey levels as people write them."""
    whole = round(255 * epsilon)
    return f"{whole}/255" if whole and abs(255 * epsilon - whole) < 1e-6 else f"{epsilon:g}"


def draw_pictures(path: Path, lines: list[list[Cell]], heads: list[str]) -> None:
    """One line of pictures an image."""
    figure = new_figure(1.05 * len(heads), 0.2 + 1.4 * len(lines))
    grid = figure.subplots(len(lines), len(heads), squeeze=False)
    for axes, line in zip(grid, lines, strict=True):
        for axis, (pixels, title, right) in zip(axes, line, strict=True):
            image = pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)
            axis.imshow(image.clamp(0, 1).numpy(), cmap="gray", vmin=0, vmax=1)
            axis.set_title(
                title, fontsize=7.5, color="black" if right else [level / 255 for level in WRONG]
            )
            axis.set(xticks=[], yticks=[])
    for axis, head in zip(grid[0], heads, strict=True):
        place = {"transform": axis.transAxes, "ha": "center", "va": "bottom"}
        axis.text(0.5, 1.36, head, fontsize=8.5, fontweight="bold", **place)
    saved(figure, str(path))
    if len(lines[0][0][0]) == 1:  # grey ones need few colours, and so a third of the size
        colours = Image.new("P", (1, 1))
        titles = [255 + (level - 255) * k // 8 for k in range(1, 9) for level in WRONG]
        colours.putpalette([level for level in (0, *range(7, 256, 8)) for _ in range(3)] + titles)
        picture = Image.open(path).convert("RGB")
        picture.quantize(palette=colours, dither=Image.Dither.NONE).save(path, optimize=True)


def answer(names: tuple[str, ...], number: Tensor, confidence: Tensor) -> str:
    name = names[int(number)]
    return f"{name if len(name) < 15 else name[:13] + '…'}\n{100 * float(confidence):.0f} %"


def draw_epsilons(subject: Subject, shown: list[int], folder: Path) -> None:
    rows = torch.tensor(shown)
    for name in ("fgsm", "inverse"):
        results = signed_steps(subject, rows, inverse=name == "inverse")
        lines = [
            [
                (r.adv[k], answer(subject.names, r.answers[k], r.confidences[k]), right)
                for r in results
                for right in [bool(r.answers[k] == subject.y[index])]
            ]
            for k, index in enumerate(shown)
        ]
        draw_pictures(folder / f"{name}.png", lines, [f"ε = {levels(e)}" for e in EPSILONS])


def draw_curves(made: Made, y: Tensor, path: Path) -> None:
    figure = new_figure(8.4, 3.4)
    left, right = figure.subplots(1, 2)
    radii = [255 * epsilon for epsilon in EPSILONS]
    for number, (name, label) in enumerate((("fgsm", "FGSM"), ("inverse", "inverse"))):
        style = {"label": label, "marker": mark(number), "ms": 4, **line_style(number)}
        left.plot(radii, made[f"{name} probability"].double().mean(0).tolist(), **style)
        shares = [share(column == y) for column in made[f"{name} answers"].T]
        ends = zip(*(one.interval() for one in shares), strict=True)
        low, high = ([100 * end for end in side] for side in ends)
        right.fill_between(radii, low, high, **band_style(number, 2))
        right.plot(radii, [100 * one.value for one in shares], **style)
    left.set(ylabel="mean probability of the right class", ylim=(0, 1.02))
    right.set(ylabel="accuracy, %", ylim=(0, 102))
    for axis in (left, right):
        axis.set_xlabel("ε, grey levels of 255")
        tidy(axis)
    left.legend(frameon=False, loc="center right")
    saved(figure, str(path))


def draw_descents(one: Made, many: Made, path: Path) -> None:
    figure = new_figure(9, 6.4)
    grid = figure.subplots(2, 2, sharex=True, sharey="col")
    for axes, (made, title) in zip(grid, ((one, "one image"), (many, "medians")), strict=True):
        for number, name in enumerate(name for name in made if name != "settings"):
            run = made[name]
            for axis, key in zip(axes, ("losses", "norms"), strict=True):
                values = [median(line) for line in run[key]]
                axis.plot(range(len(values)), values, label=name, **line_style(number))
        axes[0].set(ylabel=f"{title}: loss towards the target", yscale="log")
        axes[1].set_ylabel(f"{title}: ‖δ‖₂")
        for axis in axes:
            tidy(axis)
    for axis in grid[1]:
        axis.set_xlabel("step")
    lines, names = grid[0, 0].get_legend_handles_labels()
    figure.legend(lines, names, loc="outside lower center", ncols=len(names), frameon=False)
    saved(figure, str(path))


def draw_attacks(subject: Subject, shown: list[int], table: dict[str, Made], path: Path) -> None:
    """Each image above its δ."""
    names = [name for name in DRAWN.split() if name in table] or list(table)
    lines: list[list[Cell]] = []
    for k, index in enumerate(shown[:4]):
        x, y = subject.x[index], subject.y[index]
        above: list[Cell] = [(x, f"{subject.names[int(y)]}\n", True)]
        below: list[Cell] = [(torch.full_like(x, 0.5), "", True)]
        for name in names:
            run = table[name]
            title = answer(subject.names, run["answers"][k], run["confidences"][k])
            above.append((run["adv"][k], title, bool(run["answers"][k] == y)))
            delta = run["adv"][k] - x
            factor = 0.5 / max(delta.abs().max().item(), 1e-9)
            length = f"‖δ‖₂ {delta.norm():.2f}\n‖δ‖∞ {delta.abs().max():.3f}"
            below.append((0.5 + factor * delta, length, True))
        lines += [above, below]
    draw_pictures(path, lines, ["before", *names])
