"""The report's sentences and tables, ready to show: page and Markdown print the same cells."""

from __future__ import annotations

from nlp_adv.report.cells import (
    MISSING,
    Cell,
    Table,
    Tone,
    facts,
    interval,
    number,
    percent,
)
from nlp_adv.report.chart import Chart, Line, Point
from nlp_adv.report.content import ModelResult, Report
from nlp_adv.report.images.content import NORMS, ImageReport
from nlp_adv.report.layout import check_table
from nlp_adv.report.sentences import Verdict, verdict
from nlp_adv.robustness.curve import AccuracyCurve
from nlp_adv.robustness.statistics import Share, radius_of

ATTACK_LEGEND = (
    "“fooled” is of the images that were right without attack, by a δ of any length; the next "
    "column is what remains of it when the image is saved as a picture of 256 levels. Norms are "
    "means over the fooled, gradients and “no gradient” over all attacked."
)


def summary(report: ImageReport) -> str:
    """The report in one sentence."""
    found, several = report.found, len(report.found.titles)
    under = f"the worst of {several} attacks" if several > 1 else found.titles[0]
    clean, worst = percent(found.clean.value), percent(found.worst_case.value)
    if report.target is None:
        said = f"{report.model} answers {worst} % of {found.examples} images right under {under}"
    else:
        said = (
            f"{worst} % of {found.examples} images are right and not led to "
            f"“{report.label(report.target)}” by {under}"
        )
    said += f", {clean} % without attack"
    if found.answers.constant:
        said += "; but every image gets the same answer, so the number is the share of one class"
    elif any(check.passed is False for check in report.checks):
        said += "; but a check fails, so the number may not be robustness"
    return f"{said}."


def legend(report: ImageReport) -> str:
    """How to read the accuracies."""
    read = "Share of right answers, [Wilson's 95 % interval]."
    if report.target is not None:
        read = (
            f"Share of images that are right without attack and not led to the target; images of "
            f"“{report.label(report.target)}” are left out. [Wilson's 95 % interval.]"
        )
    within = report.found.within
    if within is not None:
        read += (
            f" An attack counts where its δ has an {NORMS[report.norm]} norm of at most "
            f"{radius(report, radius_of(within))}."
        )
    return f"{read} “worst case” counts an image only if it stands under every attack and start."


def found_verdict(report: ImageReport) -> Verdict:
    """What the checks come to."""
    return verdict(_as_text_report(report))


def checks(report: ImageReport, *verdicts: bool | None) -> Table:
    """A row a check with one of these verdicts."""
    found = check_table(_as_text_report(report), *verdicts)
    kept = [place for place, name in enumerate(found.head) if name != "model"]
    rows = tuple(tuple(row[place] for place in kept) for row in found.rows)
    return Table(tuple(found.head[place] for place in kept), rows)


def accuracy_table(report: ImageReport) -> Table:
    """A row without attack, one an attack, the worst case, and the most frequent answer."""
    found = report.found
    shares = {"without attack": found.clean}
    shares |= {name: one.under_attack for name, one in found.summaries.items()}
    if len(found.titles) > 1:
        shares["worst case"] = found.worst_case
    rows = [(Cell(name), _share(share), Cell(str(share.count))) for name, share in shares.items()]
    answers = found.answers
    of_labels = (f"of the labels {percent(answers.label.value)}",)
    tone: Tone = "bad" if answers.constant else ""
    name = f"largest answer without attack, “{report.label(answers.answer)}”"
    largest = Cell(percent(answers.largest.value), of_labels, tone)
    rows.append((Cell(name, (), tone), largest, Cell(str(answers.largest.count))))
    return Table(("attack", "accuracy, %", f"of {found.examples} images"), tuple(rows))


def attack_table(report: ImageReport) -> Table:
    """A row an attack: what it achieved and what it took."""
    head = ("attack", "fooled, %", "after rounding to 8 bits, %", "‖δ‖₂", "‖δ‖∞", "‖δ‖₁")
    rows = []
    for name, one in report.found.summaries.items():
        norms = [Cell(_norm(value)) for value in (one.l2, one.linf, one.l1)]
        row = [Cell(name), _share(one.fooled), Cell(percent(one.fooled_8_bit.value)), *norms]
        row += [Cell(number(one.gradient_passes)), Cell(percent(one.zero_gradients.value))]
        rows.append(tuple(row))
    return Table((*head, "gradients an image", "no gradient, %"), tuple(rows))


def chart(report: ImageReport) -> Chart | None:
    """Accuracy over ε, a line an attack."""
    if not report.sweeps:
        return None
    levels = report.norm == "linf"
    unit = "grey levels of 255" if levels else "pixels in [0, 1]"
    lines = [Line(name, _points(one.curve, levels)) for name, one in report.sweeps.items()]
    label = f"ε, {NORMS[report.norm]}, {unit}"
    return Chart(title="Accuracy under attack", x_label=label, lines=lines)


def curve_table(report: ImageReport) -> Table:
    """Accuracy at each radius, and the area under the curve; a row an attack."""
    radii = sorted({radius for one in report.sweeps.values() for radius in one.epsilons} | {0.0})
    rows = []
    for name, one in report.sweeps.items():
        points = {point.epsilon: point for point in one.curve.points}
        cells = [_share(points[r].share) if r in points else Cell(MISSING) for r in radii]
        rows.append((Cell(name), *cells, Cell(percent(one.curve.area))))
    return Table(("attack", *(f"ε = {radius(report, r)}" for r in radii), "area"), tuple(rows))


def settings_table(report: ImageReport) -> Table:
    """What was asked for, and what it ran on."""
    return facts({"data": report.data, **report.settings, **report.environment})


def _as_text_report(report: ImageReport) -> Report:
    """As the parts of a report see it that know only checks."""
    model = ModelResult(name=report.model, records=(), checks=report.checks)
    return Report(title="", protocol={}, protocol_hash="", data="", models=[model])


def _points(curve: AccuracyCurve, levels: bool) -> list[Point]:
    return [
        Point(
            round(255 * point.epsilon, 6) if levels else point.epsilon,
            *(100 * value for value in (point.accuracy, *point.interval)),
        )
        for point in curve.points
    ]


def radius(report: ImageReport, epsilon: float) -> str:
    """ε as people write it."""
    levels = 255 * epsilon
    whole = report.norm == "linf" and epsilon > 0 and abs(levels - round(levels)) < 1e-6
    return f"{round(levels)}/255" if whole else f"{epsilon:.4g}"


def _share(share: Share) -> Cell:
    return Cell(percent(share.value), (interval(*share.interval()),))


def _norm(value: float) -> str:
    return MISSING if value != value else f"{value:.4g}"
