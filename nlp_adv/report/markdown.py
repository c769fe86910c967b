"""The report as Markdown, for a README or a pull request."""

from __future__ import annotations

import re
from collections.abc import Sequence

from nlp_adv.report import layout, sentences
from nlp_adv.report.cells import Cell, Table, facts
from nlp_adv.report.charts import Chart, chart_table, radius_table, robust_radii
from nlp_adv.report.content import Report
from nlp_adv.report.numbers import Numbers

# All that Markdown or the HTML inside it could take for markup.
_MARKUP = re.compile(r"([\\`*{}\[\]<>#|~&!]|(?<!\w)_|_(?!\w))")


def markdown(
    report: Report, numbers: Numbers, charts: Sequence[Chart], figures: Sequence[str]
) -> str:
    """The page's tables and sentences; the examples are on the page only.

    Args:
        report: to show.
        numbers: of it.
        charts: of accuracy over ε, whose numbers are shown.
        figures: names of the files drawn beside it.
    """
    found = sentences.verdict(report)
    parts = [
        f"# {escaped(report.title)}",
        escaped(sentences.summary(report, numbers)),
        f"{escaped(report.data)} · protocol `{report.protocol_hash}`",
        f"**{escaped(found.text)}**",
        "\n".join(f"- **{escaped(model)}:** {escaped(words)}" for model, words in found.failed),
        "## Accuracy, in percent",
        markdown_table(layout.accuracy_table(report, numbers)),
        escaped(sentences.legend(report, numbers)),
        escaped(sentences.threat(numbers)),
        *map(escaped, report.notes),
        "### Attack by attack",
        markdown_table(layout.attack_table(report, numbers)),
        sentences.attack_legend(report),
    ]
    radii = radius_table(robust_radii(report, numbers.attacks))
    sections = {
        "Accuracy over ε": Table((), ()),
        "Robust radii": radii,
        "Checks": layout.check_table(report, False, None, True),
        "Settings" if report.of_images else "Protocol": facts(report.protocol),
        "Published values": layout.published_table(report, numbers),
        "Cost of the evaluation": layout.cost_table(numbers),
        "Seeds and environment": facts(layout.run_facts(report, numbers)),
    }
    for title, table in sections.items():
        if title == "Accuracy over ε" and charts and report.of_images:
            parts += [f"## {title}", *(markdown_table(chart_table(chart)) for chart in charts)]
        if table.rows:
            parts += [f"## {title}", markdown_table(table)]
        if title == "Checks" and figures:
            parts += ["## Curves", sentences.band(numbers)]
            parts += [f"![{name}]({name})" for name in figures]
    if report.commands:
        lines = [line for command in report.commands for line in command.splitlines()]
        parts += ["## Commands", "\n".join(f"    {line}" for line in lines)]
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown_table(table: Table) -> str:
    """A table in Markdown; notes stand below a cell's text."""
    head = f"| {' | '.join(escaped(name) for name in table.head)} |"
    rows = [f"| {' | '.join(map(_cell, row))} |" for row in table.rows]
    return "\n".join([head, "|---" * len(table.head) + "|", *rows])


def _cell(cell: Cell) -> str:
    return "<br>".join(map(escaped, (cell.text, *cell.notes)))


def escaped(text: str) -> str:
    """A line of text in which nothing is markup."""
    return _MARKUP.sub(r"\\\1", " ".join(text.split()))
