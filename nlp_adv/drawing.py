"""Empty figures, their colours, and how they are written; matplotlib is loaded when asked for."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlp_adv.errors import UserError
from nlp_adv.folders import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito (2008), as in the reports; dashes and marks tell lines apart without colours.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b0578d", "#a66f00", "#3a8fbf", "#333333")
_DASHES = ("-", "--", "-.", ":")
_MARKS = ("o", "s", "^", "D", "v")
_WITHOUT_DATE = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": {}}


def new_figure(width: float, height: float, *, laid_out: bool = True) -> Figure:
    """An empty figure of so many inches.

    Args:
        width, height: of it.
        laid_out: by matplotlib, which for many panels takes longer than drawing them.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained" if laid_out else None)


def saved(figure: Figure, path: str | None) -> Figure:
    """The figure, written where a path is given; an equal figure is an equal file.

    Raises:
        UserError: it cannot be written there, or not in that format.
    """
    if path is None:
        return figure
    suffix = Path(path).suffix.lower()
    if suffix not in _WITHOUT_DATE:
        raise UserError(f"{path} cannot be drawn; its name must end in .png, .svg or .pdf.")
    import matplotlib

    drawn = BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "nlp_adv"}):
        figure.savefig(drawn, format=suffix[1:], dpi=150, metadata=_WITHOUT_DATE[suffix])
    try:
        write_whole(Path(path), drawn.getvalue())
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}); check the folder."
        ) from error
    return figure


def svg_bytes(figure: Figure, *, text: bool = False) -> bytes:
    """The figure as an SVG file.

    Args:
        figure: what is drawn.
        text: whether its words stay text, in the reader's font, and are not drawn as shapes.
    """
    import matplotlib

    written = BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "nlp_adv"}):
        matplotlib.rcParams["svg.fonttype"] = "none" if text else "path"
        figure.savefig(written, format="svg", metadata=_WITHOUT_DATE[".svg"])
    return written.getvalue()


def band_style(number: int, bands: int) -> dict[str, Any]:
    """Of the band around the n-th line; many together stay light."""
    alpha = 0.45 / max(3, bands)
    return {"color": COLOURS[number % len(COLOURS)], "alpha": alpha, "linewidth": 0}


def line_style(number: int) -> dict[str, Any]:
    """Of the n-th line."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": _DASHES[number % len(_DASHES)],
        "linewidth": 1.8,
    }


def mark(number: int) -> str:
    """Of the points on the n-th line."""
    return _MARKS[number % len(_MARKS)]


def tidy(axes: Axes) -> None:
    """A light grid behind the lines, no frame above and beside them."""
    axes.grid(color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=10)
