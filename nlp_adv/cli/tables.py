"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from nlp_adv.training.records import REPORT_NAME as REPORT_NAME


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows below the first, which names the columns: the first to the left, the others right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        first, *cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append(first.strip().ljust(widths[0]) + "  " + "  ".join(cells))
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)
