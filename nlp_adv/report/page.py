"""The report as one page: no script, no file, no font from anywhere else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from nlp_adv.report import layout, sentences
from nlp_adv.report.cells import facts
from nlp_adv.report.charts import Chart, chart_table, radius_table, robust_radii
from nlp_adv.report.content import Report
from nlp_adv.report.drawn import inline
from nlp_adv.report.exhibits import Exhibit
from nlp_adv.report.numbers import Numbers
from nlp_adv.report.templates import rendered, style


@dataclass(frozen=True)
class Charts:
    """All that is drawn of a report."""

    epsilon: Sequence[Chart]
    queries: Sequence[Chart]
    radii: Sequence[Chart]


def page(report: Report, numbers: Numbers, charts: Charts, exhibit: Exhibit | None) -> str:
    """The whole page."""
    published, cost = layout.published_table(report, numbers), layout.cost_table(numbers)
    figures = [_figures(some, 100 * place) for place, some in enumerate(vars(charts).values())]
    sections = {
        ("accuracy", "Accuracy"): True,
        ("checks", "Checks"): True,
        ("epsilon", "ε"): bool(charts.epsilon),
        ("radii", "Robust radii"): bool(charts.radii),
        ("queries", "Queries"): bool(charts.queries),
        **dict.fromkeys(exhibit.sections if exhibit else (), True),
        ("protocol", "Settings" if report.of_images else "Protocol"): True,
        ("published", "Published values"): bool(published.rows),
        ("cost", "Cost"): bool(cost.rows),
        ("run", "Run"): True,
    }
    return rendered(
        "page.html.j2",
        style=style(),
        report=report,
        baseline=numbers.baseline.name,
        summary=sentences.summary(report, numbers),
        verdict=sentences.verdict(report),
        sections=[section for section, there in sections.items() if there],
        accuracy=layout.accuracy_table(report, numbers),
        legend=sentences.legend(report, numbers),
        threat=sentences.threat(numbers),
        attacks=layout.attack_table(report, numbers),
        attack_legend=sentences.attack_legend(report),
        checks=layout.check_table(report, False, None),
        passed=layout.check_table(report, True),
        band=sentences.band(numbers),
        epsilon_charts=figures[0],
        query_charts=figures[1],
        radius_charts=figures[2],
        radii=radius_table(robust_radii(report, numbers.attacks)),
        exhibit=exhibit.html(report) if exhibit else Markup(""),
        protocol=facts(report.protocol),
        published=published,
        cost=cost,
        run=facts(layout.run_facts(report, numbers)),
        trained=[(name, facts(described)) for name, described in _training(report).items()],
    )


def _figures(charts: Sequence[Chart], first: int) -> list[dict[str, Any]]:
    return [
        {"svg": Markup(inline(chart, first + place)), "table": chart_table(chart)}
        for place, chart in enumerate(charts)
    ]


def _training(report: Report) -> dict[str, Mapping[str, Any]]:
    """How each model was trained; once for seeds that were trained alike."""
    found: dict[str, Mapping[str, Any]] = {}
    for name, seeds in report.methods().items():
        alike = all(model.description == seeds[0].description for model in seeds)
        for model in seeds[:1] if alike else seeds:
            if model.description:
                found[name if alike else sentences.model_name(model)] = model.description
    return found
