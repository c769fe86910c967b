"""The report as one page: no script, no file, no font from anywhere else."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from nlp_adv.report import layout, sentences
from nlp_adv.report.cells import Table, facts, number, percent
from nlp_adv.report.chart import Chart
from nlp_adv.report.content import Report
from nlp_adv.report.curves import chart_table
from nlp_adv.report.examples import Example, Examples, examples_of
from nlp_adv.report.figures import svg
from nlp_adv.report.numbers import Numbers
from nlp_adv.report.word_diff import shortened
from nlp_adv.robustness.record import Record, Substitution


def page(
    report: Report,
    numbers: Numbers,
    epsilon_charts: Sequence[Chart],
    query_charts: Sequence[Chart],
) -> str:
    """The whole page. All texts are escaped: an attacked text may hold markup."""
    own = files(__package__)
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["tied"] = _tied
    template = environment.from_string(own.joinpath("page.html.j2").read_text(encoding="utf-8"))
    published, cost = layout.published_table(report, numbers), layout.cost_table(numbers)
    return template.render(
        style=Markup(own.joinpath("page.css").read_text(encoding="utf-8")),
        report=report,
        baseline=numbers.baseline.name,
        summary=sentences.summary(numbers),
        verdict=sentences.verdict(report),
        sections=_sections(bool(epsilon_charts), bool(query_charts), published, cost),
        accuracy=layout.accuracy_table(report, numbers),
        legend=sentences.legend(numbers),
        threat=sentences.threat(numbers),
        attacks=layout.attack_table(numbers),
        attack_legend=sentences.ATTACK_LEGEND,
        checks=layout.check_table(report, False, None),
        passed=layout.check_table(report, True),
        band=sentences.band(numbers),
        epsilon_charts=[_figure(chart) for chart in epsilon_charts],
        query_charts=[_figure(chart) for chart in query_charts],
        examples=[_group(report, examples_of(report, attack)) for attack in numbers.attacks],
        protocol=facts(report.protocol),
        published=published,
        cost=cost,
        run=facts(layout.run_facts(report, numbers)),
        trained=[(name, facts(described)) for name, described in _training(report).items()],
    )


def _sections(epsilon: bool, queries: bool, published: Table, cost: Table) -> list[tuple[str, str]]:
    sections = {
        ("accuracy", "Accuracy"): True,
        ("checks", "Checks"): True,
        ("epsilon", "ε"): epsilon,
        ("queries", "Queries"): queries,
        ("examples", "Examples"): True,
        ("protocol", "Protocol"): True,
        ("published", "Published values"): bool(published.rows),
        ("cost", "Cost"): bool(cost.rows),
        ("run", "Run"): True,
    }
    return [section for section, there in sections.items() if there]


def _figure(chart: Chart) -> dict[str, Any]:
    return {"svg": Markup(svg(chart)), "table": chart_table(chart)}


def _group(report: Report, group: Examples) -> dict[str, Any]:
    return {
        "attack": group.attack,
        "moves_text": group.moves_text,
        "successes": group.successes,
        "shown": [_example(report, one) for one in group.shown],
    }


def _example(report: Report, one: Example) -> dict[str, Any]:
    record = one.record
    assert isinstance(record.found, Substitution)
    return {
        "fell": record.outcome == "fooled",
        "model": sentences.model_name(one.model),
        "record": record,
        "label": report.label(record.label),
        "answers": _answers(report, record),
        "cost": f"{number(record.found.words_changed)} of {number(record.found.words)} words, "
        f"{number(record.found.queries)} queries",
        "pieces": shortened(one.pieces),
    }


def _answers(report: Report, record: Record) -> str:
    before, after = report.label(record.prediction), report.label(record.adversarial_prediction)
    sure = [percent(one) for one in (record.confidence, record.adversarial_confidence)]
    return f"{before} ({sure[0]} %) → {after} ({sure[1]} %)"


def _training(report: Report) -> dict[str, Mapping[str, Any]]:
    """How each model was trained; once for seeds that were trained alike."""
    found: dict[str, Mapping[str, Any]] = {}
    for name, seeds in report.methods().items():
        alike = all(model.description == seeds[0].description for model in seeds)
        for model in seeds[:1] if alike else seeds:
            if model.description:
                found[name if alike else sentences.model_name(model)] = model.description
    return found


def _tied(text: str) -> str:
    """No line break between a number and its sign, or a model and its seed."""
    return re.sub(r" (?=[%±])|(?<=±) |(?<=seed) (?=\d)", "\xa0", text)
