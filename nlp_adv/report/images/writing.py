"""Writing a report of image attacks: each file whole, or not at all."""

from __future__ import annotations

from pathlib import Path

from nlp_adv.errors import UserError
from nlp_adv.folders import write_whole
from nlp_adv.report.figures import sheet
from nlp_adv.report.images.content import ImageReport
from nlp_adv.report.images.page import page
from nlp_adv.report.images.tables import chart
from nlp_adv.report.images.texts import json_text, markdown
from nlp_adv.report.pictures import history_curves, picture_grid


def write_image_report(report: ImageReport, folder: str | Path) -> list[Path]:
    """Write `report.html`, `.md` and `.json`, the curves as `.svg` and the pictures as `.png`.

    Args:
        report: to write.
        folder: made where it is missing; files of the same names are replaced.

    Returns:
        The files written, the page first.

    Raises:
        UserError: the folder cannot be written, or there are pictures and no matplotlib.
    """
    curves = chart(report)
    drawn = {} if curves is None else {"epsilon_curve.svg": sheet([curves])}
    pictures = {name: f"pictures_{_file_name(name)}.png" for name in report.exhibits}
    histories = ["history.svg"] if report.exhibits else []
    figures = [*drawn, *histories, *pictures.values()]
    texts = {
        "report.html": page(report),
        "report.md": markdown(report, figures),
        "report.json": json_text(report),
        **drawn,
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
    for name in histories:
        history_curves(list(report.exhibits.values()), str(target / name))
    for name, result in report.exhibits.items():
        picture_grid(result, str(target / pictures[name]), label_names=report.labels)
    return [target / name for name in (*texts, *histories, *pictures.values())]


def _file_name(attack: str) -> str:
    return "".join(one if one.isalnum() or one in "-." else "_" for one in attack)
