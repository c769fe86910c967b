"""Pictures of attacks: images before and after, how the attack went, accuracy over ε.

Black on white, and drawn without a window or global state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from nlp_adv.attacks.result import AttackResult
from nlp_adv.drawing import band_style, line_style, mark, new_figure, saved, tidy
from nlp_adv.errors import UserError
from nlp_adv.report.cells import percent
from nlp_adv.report.charts import Chart, Line, Mark
from nlp_adv.report.content import class_name
from nlp_adv.report.drawn import figure_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from nlp_adv.robustness.curve import CurvePoint

_LONGEST = 17  # characters of a class name that fit above a picture
_SIDE, _TITLE, _HEAD = 2.0, 0.5, 0.35  # inches: of a picture, what stands above it, above all
_SPREAD = (0.1, 0.9)  # shares of the images, between which a band lies
_FAR = 8  # times as many steps, from which steps are drawn logarithmically


class Triple(NamedTuple):
    """An image before, δ and the image after, each with what is to be said of it."""

    label: str
    norms: str
    pictures: tuple[tuple[Tensor, str], ...]


def triples(result: AttackResult, count: int, name: Callable[[int], str]) -> Iterator[Triple]:
    """The first so many images of an attack.

    δ is ½ + k·δ with k = ½/max|δ|: grey is no change, brighter is more, and the largest change is
    black or white.

    Args:
        result: of the attack.
        count: of the images.
        name: of a class.
    """
    l2, linf = result.norm(2), result.norm(torch.inf)
    before = result.clean_answers, result.clean_confidences
    after = result.answers, result.confidences
    for row in range(min(count, len(result))):
        delta = result.delta[row]
        peak = float(delta.abs().max())
        scale = 0.5 / peak if peak > 0 else 1.0
        clean, adversarial = (
            f"{name(int(answer[row]))}, {percent(float(confidence[row]))}\xa0%"
            for answer, confidence in (before, after)
        )
        yield Triple(
            name(int(result.labels[row])),
            f"‖δ‖₂ = {float(l2[row]):.3g}, ‖δ‖∞ = {float(linf[row]):.3g}",
            (
                (_pixels(result.x[row]), clean),
                (_pixels(0.5 + scale * delta), f"δ × {scale:.3g}"),
                (_pixels(result.adv[row]), adversarial),
            ),
        )


def _pixels(image: Tensor) -> Tensor:
    """(1 or 3, H, W) as pictures have it: (H, W) or (H, W, 3), in [0, 1]."""
    levels = image.detach().float().cpu().clamp(0, 1)
    return levels[0] if len(levels) == 1 else levels.permute(1, 2, 0)


def picture_grid(
    result: AttackResult,
    path: str | None = None,
    *,
    rows: int = 6,
    label_names: Sequence[str] | None = None,
) -> Figure:
    """A row an image: before, δ, after, with the answers and how sure the model is of them.

    δ is drawn as ½ + k·δ with k = ½/max|δ|: grey is no change, brighter is more, and the largest
    change is black or white. k and the norms stand above it.

    Args:
        result: of an attack on images (B, 1 or 3, H, W).
        path: where to write it, .png, .svg or .pdf; without, it is only returned.
        rows: the first so many images.
        label_names: of the classes; without, their numbers.

    Raises:
        UserError: no images, other shapes, or the file cannot be written.
    """
    if result.x.ndim != 4 or result.x.shape[1] not in (1, 3):
        raise UserError(
            f"Pictures are drawn of images of shape (B, 1 or 3, H, W), not {tuple(result.x.shape)}."
        )
    shown = min(rows, len(result))
    if shown < 1:
        raise UserError(f"There is nothing to draw: {len(result)} images, {rows} rows.")
    height = _HEAD + shown * (_SIDE + _TITLE)
    figure = new_figure(3 * _SIDE + 0.6, height, laid_out=False)
    fooled = int((result.success & result.attackable).sum())
    title = f"{result.attack}: {fooled} of {int(result.attackable.sum())} fooled"
    figure.suptitle(title, y=1 - 0.18 / height, parse_math=False)
    top, gap = 1 - (_HEAD + _TITLE) / height, _TITLE / _SIDE
    places = {"left": 0.02, "right": 0.98, "bottom": 0.1 / height, "top": top, "hspace": gap}
    grid = figure.subplots(shown, 3, squeeze=False, gridspec_kw=places | {"wspace": 0.05})

    def name(number: int) -> str:
        full = class_name(number, label_names or ())
        return full if len(full) <= _LONGEST else full[: _LONGEST - 1] + "…"

    for row, (axes, triple) in enumerate(zip(grid, triples(result, rows, name), strict=True)):
        verdict = "fooled" if result.success[row] else "not fooled"
        if not result.attackable[row]:
            verdict = "there already" if result.towards else "wrong before"
        (clean, before), (delta, scale), (adversarial, after) = triple.pictures
        kind = "target" if result.towards else "label"
        _picture(axes[0], clean, f"{kind}: {triple.label}\nanswer: {before}")
        _picture(axes[1], delta, f"{scale}, grey is 0\n{triple.norms}")
        _picture(axes[2], adversarial, f"{verdict}\nanswer: {after}")
    return saved(figure, path)


def _picture(axes: Axes, pixels: Tensor, title: str) -> None:
    axes.imshow(pixels.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_title(title, fontsize=9.5, parse_math=False)  # a class may be called $x$
    axes.set_xticks([])
    axes.set_yticks([])


def history_curves(
    results: Sequence[AttackResult], path: str | None = None, *, stacked: bool = False
) -> Figure:
    """Loss and ‖δ‖₂ at every image that attacks looked at, one colour an attack.

    A line is the mean over the images; its band leaves out the tenth below and the tenth above.
    An image that an attack has left in peace, fooled, keeps its last value. Each attack has a loss
    of its own: compare shapes, and heights only where the loss is the same.

    Args:
        results: of attacks, one or several.
        path: where to write it; without, it is only returned.
        stacked: one panel below the other, for narrow pages, instead of side by side.

    Raises:
        UserError: nothing was written down, or the file cannot be written.
    """
    drawn = [result for result in results if len(result.losses)]
    if not drawn:
        raise UserError("There is no history to draw: none of the attacks looked at a loss.")
    columns = 2 if stacked else 4
    legend = 0.25 * math.ceil(len(drawn) / columns)
    figure = new_figure(*((4.6, 6.0 + legend) if stacked else (9.0, 3.7 + legend)))
    losses, norms = figure.subplots(2, 1) if stacked else figure.subplots(1, 2)
    for number, result in enumerate(drawn):
        style = band_style(number, len(drawn))
        _history(losses, result.losses, number, result.attack, style)
        _history(norms, result.norms_along, number, result.attack, style)
    losses.set_ylabel("the attack's loss")
    norms.set_ylabel("‖δ‖₂")
    steps = [len(result.losses) for result in drawn if len(result.losses) > 2] or [1]
    for axes in (losses, norms):
        axes.set_xlabel("step")
        axes.xaxis.get_major_locator().set_params(integer=True)
        if max(steps) > _FAR * min(steps):  # the short ones must be seen, too
            axes.set_xscale("symlog", linthresh=10)
            axes.xaxis.set_major_formatter("{x:g}")
        tidy(axes)
    handles, names = losses.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=columns, frameon=False)
    return saved(figure, path)


def _history(axes: Axes, values: Tensor, number: int, name: str, band: dict[str, Any]) -> None:
    known = values.detach().double().cpu()
    known = torch.where(torch.isfinite(known), known, torch.nan)
    for before, at in pairwise(known):
        at.copy_(torch.where(at.isnan(), before, at))
    low, high = torch.nanquantile(known, torch.tensor(_SPREAD, dtype=known.dtype), dim=1)
    steps = range(len(known))
    axes.fill_between(steps, low.tolist(), high.tolist(), **band)
    single = mark(number) if len(known) == 1 else None
    axes.plot(steps, known.nanmean(1).tolist(), marker=single, label=name, **line_style(number))


def sweep_curves(
    curves: Mapping[str, Sequence[CurvePoint]], path: str | None = None, *, norm: str = "L∞"
) -> Figure:
    """Accuracy over ε with its intervals, one colour an attack.

    Args:
        curves: name → points, such as `accuracy_curve(epsilon_sweep(…)).points`.
        path: where to write it; without, it is only returned.
        norm: in which ε is measured; L∞ radii that are whole grey levels are written as such.

    Raises:
        UserError: no curve, or the file cannot be written.
    """
    if not any(curves.values()):
        raise UserError("There is no curve to draw.")
    levels = {255 * point.epsilon for points in curves.values() for point in points}
    whole = norm == "L∞" and all(abs(level - round(level)) < 1e-6 for level in levels)
    lines = [
        Line(
            name,
            [
                Mark(
                    round(255 * point.epsilon) if whole else point.epsilon,
                    *(100 * share for share in (point.accuracy, *point.interval)),
                )
                for point in sorted(points, key=lambda point: point.epsilon)
            ],
        )
        for name, points in curves.items()
    ]
    x_label = f"ε, {norm}, {'grey levels of 255' if whole else 'pixels in [0, 1]'}"
    label = "accuracy under attack, %"
    chart = Chart(title="", x_label=x_label, lines=lines, levels=whole, y_label=label)
    return saved(figure_of([chart]), path)
