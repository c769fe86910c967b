"""Writing a report: each file whole, or not at all."""

from __future__ import annotations

from pathlib import Path

from nlp_adv.errors import UserError
from nlp_adv.folders import write_whole
from nlp_adv.report.charts import epsilon_charts, query_charts, radius_charts, robust_radii
from nlp_adv.report.content import Report
from nlp_adv.report.document import sections_of
from nlp_adv.report.drawn import sheet
from nlp_adv.report.exhibit_words import WordExhibit
from nlp_adv.report.machine import csv_text, json_text
from nlp_adv.report.markdown import markdown
from nlp_adv.report.matched import matched, matched_charts
from nlp_adv.report.numbers import numbers_of
from nlp_adv.report.page import page


def write_report(report: Report, folder: str | Path) -> list[Path]:
    """Write `report.html`, `.md`, `.csv` and `.json`, the figures as `.svg`, pictures as `.png`.

    No text is written before everything is computed. The texts of the records are in none of the
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
    equal = matched(report, numbers)
    charts = {
        "equal_accuracy.svg": matched_charts(equal),
        "epsilon_curve.svg": epsilon_charts(report),
        "query_budget.svg": query_charts(report, numbers.attacks),
        "robust_radii.svg": radius_charts(robust_radii(report, numbers.attacks)),
    }
    exhibit = report.exhibit
    if exhibit is None and not report.of_images:
        exhibit = WordExhibit(numbers.attacks)
    pictures = exhibit.files(report) if exhibit else {}
    sections = sections_of(report, numbers, charts, exhibit, equal)
    texts = {
        "report.html": page(report, numbers, sections, equal),
        "report.md": markdown(report, numbers, sections, equal),
        "report.csv": csv_text(report, numbers),
        "report.json": json_text(report, numbers, equal),
        **{name: sheet(some) for name, some in charts.items() if some},
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
    for name, draw in pictures.items():
        draw(target / name)
    return [target / name for name in (*texts, *pictures)]
