"""The recipes' figures are drawn, but roughly."""

import pytest
from matplotlib.figure import Figure
from roughly import savefig_roughly


@pytest.fixture(autouse=True)
def _rough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Figure, "savefig", savefig_roughly)
