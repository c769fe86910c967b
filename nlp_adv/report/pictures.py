"""Pictures of attacks: images before and after, how the attack went, accuracy over ε.

Black on white, and drawn without a window or global state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nlp_adv.attacks.result import AttackResult
from nlp_adv.drawing import new_figure, saved
from nlp_adv.errors import UserError
from nlp_adv.perturbation.evaluating import NO_CLASS
from nlp_adv.report.histories import history_curves, sweep_curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["history_curves", "picture_grid", "sweep_curves"]

_LONGEST = 17  # characters of a class name that fit above a picture
_SIDE, _TITLE, _HEAD = 2.0, 0.5, 0.35  # inches: of a picture, what stands above it, above all


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
        UserError: no images, other shapes, no matplotlib, or the file cannot be written.
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
    l2, linf = result.norm(2), result.norm(torch.inf)
    for row, axes in enumerate(grid):
        delta = result.delta[row]
        peak = float(delta.abs().max())
        scale = 0.5 / peak if peak > 0 else 1.0
        kind = "target" if result.towards else "label"
        label = _named(result.labels[row], label_names)
        clean = _answer(result.clean_answers[row], result.clean_confidences[row], label_names)
        after = _answer(result.answers[row], result.confidences[row], label_names)
        norms = f"‖δ‖₂ = {float(l2[row]):.3g}, ‖δ‖∞ = {float(linf[row]):.3g}"
        _picture(axes[0], result.x[row], f"{kind}: {label}\n{clean}")
        _picture(axes[1], 0.5 + scale * delta, f"δ × {scale:.3g}, grey is 0\n{norms}")
        verdict = "fooled" if result.success[row] else "not fooled"
        if not result.attackable[row]:
            verdict = "there already" if result.towards else "wrong before"
        _picture(axes[2], result.adv[row], f"{verdict}\n{after}")
    return saved(figure, path)


def _picture(axes: Axes, pixels: Tensor, title: str) -> None:
    levels = pixels.detach().float().cpu().clamp(0, 1)
    image = levels[0] if len(levels) == 1 else levels.permute(1, 2, 0)
    axes.imshow(image.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_title(title, fontsize=9.5, parse_math=False)  # a class may be called $x$
    axes.set_xticks([])
    axes.set_yticks([])


def _answer(answer: Tensor, confidence: Tensor, names: Sequence[str] | None) -> str:
    return f"answer: {_named(answer, names)}, {100 * float(confidence):.0f} %"


def _named(label: Tensor, names: Sequence[str] | None) -> str:
    number = int(label)
    name = names[number] if names is not None and 0 <= number < len(names) else str(number)
    name = "no class" if number == NO_CLASS else name
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"
