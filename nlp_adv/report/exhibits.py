"""What a report shows of single examples: a small protocol, and a file a modality."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from markupsafe import Markup

from nlp_adv.report.content import Report


class Exhibit(Protocol):
    """Some attacked examples, as people see them."""

    @property
    def sections(self) -> tuple[tuple[str, str], ...]:
        """Anchor and title of what it adds to the page's contents."""
        ...

    def html(self, report: Report) -> Markup:
        """Its sections of the page, headings and all."""
        ...

    def files(self, report: Report) -> Mapping[str, Callable[[Path], None]]:
        """Name → what draws that picture beside the page."""
        ...
