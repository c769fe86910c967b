"""Pictures for tests of which they are not the point."""

from typing import Any

from matplotlib.figure import Figure

_savefig = Figure.savefig


def savefig_roughly(self: Figure, *args: Any, **settings: Any) -> None:
    """All is drawn, but coarsely, and where it comes to lie without being laid out."""
    self.set_layout_engine("none")
    _savefig(self, *args, **settings | {"dpi": 20})
