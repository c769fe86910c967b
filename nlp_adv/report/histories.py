"""Curves of attacks: loss and ‖δ‖₂ step by step, accuracy over ε."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from nlp_adv.attacks.result import AttackResult
from nlp_adv.drawing import band_style, line_style, mark, new_figure, saved, tidy
from nlp_adv.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SPREAD = (0.1, 0.9)  # shares of the images, between which a band lies
_FAR = 8  # times as many steps, from which steps are drawn logarithmically


class Measured(Protocol):
    """One point of a curve, such as `nlp_adv.robustness.curve.CurvePoint`."""

    @property
    def epsilon(self) -> float:
        """The radius."""
        ...

    @property
    def accuracy(self) -> float:
        """At that radius, in [0, 1]."""
        ...

    @property
    def interval(self) -> tuple[float, float]:
        """In which the accuracy may lie."""
        ...


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
        UserError: nothing was written down, no matplotlib, or the file cannot be written.
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


def sweep_curves(
    curves: Mapping[str, Sequence[Measured]], path: str | None = None, *, norm: str = "L∞"
) -> Figure:
    """Accuracy over ε with its intervals, one colour an attack.

    Args:
        curves: name → points, such as `accuracy_curve(epsilon_sweep(…)).points`.
        path: where to write it; without, it is only returned.
        norm: in which ε is measured; L∞ radii that are whole grey levels are written as such.

    Raises:
        UserError: no curve, no matplotlib, or the file cannot be written.
    """
    if not any(curves.values()):
        raise UserError("There is no curve to draw.")
    figure = new_figure(6.4, 4.2)
    axes = figure.subplots()
    for number, (name, points) in enumerate(curves.items()):
        ordered = sorted(points, key=lambda point: point.epsilon)
        radii = [point.epsilon for point in ordered]
        low, high = zip(*(point.interval for point in ordered), strict=True)
        ends = [100 * end for end in low], [100 * end for end in high]
        axes.fill_between(radii, ends[0], ends[1], **band_style(number, len(curves)))
        values = [100 * point.accuracy for point in ordered]
        style = {"marker": mark(number), "clip_on": False, **line_style(number)}
        axes.plot(radii, values, label=name, **style)
    tried = sorted({point.epsilon for points in curves.values() for point in points})
    levels = [255 * radius for radius in tried]
    whole = norm == "L∞" and all(abs(one - round(one)) < 1e-6 for one in levels)
    if whole and len(tried) <= 12:
        axes.set_xticks(tried, [f"{round(one)}" for one in levels])
    unit = "grey levels of 255" if whole and len(tried) <= 12 else "pixels in [0, 1]"
    axes.set_xlabel(f"ε, {norm}, {unit}")
    axes.set_ylabel("accuracy under attack, %")
    axes.set_ylim(0, 100)
    tidy(axes)
    axes.legend(frameon=False)
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
