"""Writing a report: each file whole, or not at all."""

from __future__ import annotations

from pathlib import Path

from nlp_adv.errors import UserError
from nlp_adv.folders import write_whole
from nlp_adv.report.content import Report
from nlp_adv.report.curves import epsilon_charts, query_charts
from nlp_adv.report.figures import sheet
from nlp_adv.report.html import page
from nlp_adv.report.machine import csv_text, json_text
from nlp_adv.report.markdown import markdown
from nlp_adv.report.numbers import numbers_of


def write_report(report: Report, folder: str | Path) -> list[Path]:
    """Write `report.html`, `.md`, `.csv` and `.json`, and the figures as `.svg`.

    Nothing is written before everything is computed. The texts of the records are in none of the
    machine-readable files: they stand in the records themselves.

    Args:
        report: to write; its models must share protocol, data and seed.
        folder: made where it is missing; files of the same names are replaced.

    Returns:
        The files written; a figure is missing where there is nothing to draw.

    Raises:
        UserError: there is nothing to report, or the folder cannot be written.
    """
    numbers = numbers_of(report)
    epsilon, queries = epsilon_charts(report), query_charts(report, numbers.attacks)
    charts = {"epsilon_curve.svg": epsilon, "query_budget.svg": queries}
    figures = {name: sheet(some) for name, some in charts.items() if some}
    texts = {
        "report.html": page(report, numbers, epsilon, queries),
        "report.md": markdown(report, numbers, list(figures)),
        "report.csv": csv_text(report, numbers),
        "report.json": json_text(report, numbers),
        **figures,
    }
    target = Path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_whole(target / name, text)
    except OSError as error:
        raise UserError(
            f"The report cannot be written to {target} ({error.strerror}); give another folder."
        ) from error
    return [target / name for name in texts]
