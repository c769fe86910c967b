"""The report as Markdown, for a README or a pull request, and as JSON, for machines."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from nlp_adv.robustness.images.report.content import ImageReport
from nlp_adv.robustness.images.report.tables import (
    ATTACK_LEGEND,
    accuracy_table,
    attack_table,
    checks,
    curve_table,
    found_verdict,
    legend,
    settings_table,
    summary,
)
from nlp_adv.robustness.report.cells import Cell, Table
from nlp_adv.robustness.report.machine import plain

# All that Markdown or the HTML inside it could take for markup.
_MARKUP = re.compile(r"([\\`*{}\[\]<>#|~&!]|(?<!\w)_|_(?!\w))")


def markdown(report: ImageReport, figures: Sequence[str]) -> str:
    """The page's tables and sentences.

    Args:
        report: to show.
        figures: names of the files drawn beside it.
    """
    found = found_verdict(report)
    parts = [
        f"# {_escaped(report.title)}",
        _escaped(summary(report)),
        f"**{_escaped(found.text)}**",
        "\n".join(f"- {_escaped(words)}" for _, words in found.failed),
        "## Accuracy, in percent",
        _table(accuracy_table(report)),
        _escaped(legend(report)),
        *map(_escaped, report.notes),
        "## Attack by attack",
        _table(attack_table(report)),
        ATTACK_LEGEND,
    ]
    if report.sweeps:
        parts += ["## Accuracy over ε", _table(curve_table(report))]
    if report.checks:
        parts += ["## Checks", _table(checks(report, False, None, True))]
    if figures:
        parts += ["## Pictures", *(f"![{name}]({name})" for name in figures)]
    parts += ["## Settings and environment", _table(settings_table(report))]
    if report.commands:
        parts += ["## Commands", "\n".join(f"    {line}" for line in report.commands)]
    return "\n\n".join(part for part in parts if part) + "\n"


def json_text(report: ImageReport) -> str:
    """All numbers; shares are between 0 and 1, nan and infinities null."""
    content = {
        "title": report.title,
        "model": report.model,
        "data": report.data,
        "images": report.found.examples,
        "target": report.target,
        "labels": list(report.labels),
        "clean": report.found.clean,
        "worst_case": report.found.worst_case,
        "attacks": report.found.summaries,
        "curves": {
            name: {
                "points": [{"epsilon": p.epsilon, "accuracy": p.share} for p in one.curve.points],
                "area": one.curve.area,
                "gradient_passes": float(one.gradient_passes.double().mean()),
            }
            for name, one in report.sweeps.items()
        },
        "checks": list(report.checks),
        "settings": report.settings,
        "environment": report.environment,
        "commands": list(report.commands),
        "notes": list(report.notes),
    }
    return json.dumps(plain(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _table(table: Table) -> str:
    head = f"| {' | '.join(_escaped(name) for name in table.head)} |"
    rows = [f"| {' | '.join(map(_cell, row))} |" for row in table.rows]
    return "\n".join([head, "|---" * len(table.head) + "|", *rows])


def _cell(cell: Cell) -> str:
    return "<br>".join(map(_escaped, (cell.text, *cell.notes)))


def _escaped(text: str) -> str:
    return _MARKUP.sub(r"\\\1", " ".join(text.split()))
