"""The report as Markdown, for a README or a pull request."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from nlp_adv.report import sentences
from nlp_adv.report.cells import Cell, Table
from nlp_adv.report.content import Report
from nlp_adv.report.document import Part, Section
from nlp_adv.report.matched import Matched
from nlp_adv.report.numbers import Numbers

# All that Markdown or the HTML inside it could take for markup.
_MARKUP = re.compile(r"([\\`*{}\[\]<>#|~&!]|(?<!\w)_|_(?!\w))")
_WIDEST = 12  # columns of a figure's numbers that are still readable


def markdown(
    report: Report, numbers: Numbers, sections: Sequence[Section], equal: Sequence[Matched] = ()
) -> str:
    """The page's tables, sentences and figures; what is markup without a file is on it alone."""
    found = sentences.verdict(report)
    lines = [
        f"# {escaped(report.title)}",
        escaped(sentences.summary(report, numbers, equal)),
        f"{escaped(report.data)} · protocol `{report.protocol_hash}`",
        f"**{escaped(found.text)}**",
        "\n".join(f"- **{escaped(model)}:** {escaped(words)}" for model, words in found.failed),
    ]
    for section in sections:
        if all(part.files for part in section.parts if part.kind == "html"):
            lines += [
                f"## {section.title}",
                *(line for one in section.parts for line in _told(one)),
            ]
    return "\n\n".join(line for line in lines if line) + "\n"


def _told(part: Part) -> Iterator[str]:
    if part.folded:
        yield f"{escaped(part.folded)}:"
    if part.kind == "table":
        yield markdown_table(part.content if part.brief is None else part.brief)
    elif part.kind == "heading":
        yield f"### {part.content}"
    elif part.kind == "code":
        yield "\n".join(f"    {line}" for line in part.content.splitlines())
    elif part.kind in ("text", "quiet"):
        yield escaped(part.content)
    yield from (f"![{name}]({name})" for name in part.files)
    if part.kind == "figures":
        tables = [numbers for _, numbers in part.content if len(numbers.head) <= _WIDEST]
        yield from map(markdown_table, tables)


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
