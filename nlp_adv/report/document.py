"""The sections of a report, which the page and the Markdown both show."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from markupsafe import Markup

from nlp_adv.report import layout, sentences
from nlp_adv.report.cells import Table, facts
from nlp_adv.report.charts import Chart, chart_table, radius_table, robust_radii
from nlp_adv.report.content import Exhibit, Report
from nlp_adv.report.drawn import inline
from nlp_adv.report.matched import Matched, matched_table, points_table
from nlp_adv.report.numbers import Numbers
from nlp_adv.report.sentences import said


@dataclass(frozen=True)
class Part:
    """One thing in a section.

    Args:
        kind: "text" is a paragraph and "quiet" a smaller one, "heading" stands above what follows,
            "table" is a `Table`, "figures" are (`<svg>`, its numbers) each, "html" is markup, and
            "code" is shown as it is.
        content: what is shown.
        look: of a table on the page: "words" for one of sentences, "facts" for names and values.
        folded: the line behind which the page hides it.
        files: names of pictures that say the same where there is no page.
        brief: the table that stands for it where nothing can be folded.
    """

    kind: Literal["text", "quiet", "heading", "table", "figures", "html", "code"]
    content: Any
    look: str = ""
    folded: str = ""
    files: tuple[str, ...] = ()
    brief: Table | None = None


@dataclass(frozen=True)
class Section:
    """A part of the page with an entry in its contents; one of parts without content is left out.

    Args:
        anchor, name: of that entry.
        title: above the section.
        parts: in order.
        folded: the page shows its title alone until it is asked for.
    """

    anchor: str
    name: str
    title: str
    parts: Sequence[Part]
    folded: bool = False


def table(content: Table, look: str = "", folded: str = "") -> list[Part]:
    """A table, if it has rows."""
    return [Part("table", content, look, folded)] if content.rows else []


def sections_of(
    report: Report,
    numbers: Numbers,
    charts: Mapping[str, Sequence[Chart]],
    exhibit: Exhibit | None,
    equal: Sequence[Matched] = (),
) -> list[Section]:
    """All of a report below its verdict.

    Args:
        report, numbers: what is shown.
        charts: by the name of the file that they stand in.
        exhibit: of single examples.
        equal: the methods beside the curve of plain training.
    """
    band = said("band", several_seeds=numbers.several_seeds)
    settings = "Settings" if report.of_images else "Protocol"
    moved = "pixels" if report.of_images else "word embeddings"
    over_epsilon = f"The attack moves {moved} by at most ε. {band}"
    epsilon = _figures(charts, "epsilon_curve.svg", over_epsilon)
    radii = _figures(charts, "robust_radii.svg", said("radii"))
    radii += table(radius_table(robust_radii(report, numbers.attacks)))
    queries = _figures(charts, "query_budget.svg", f"{said('queries')} {band}")
    protocol = [Part("text", said("hash", report=report)), *table(facts(report.protocol), "facts")]
    found = [
        Section("accuracy", "Accuracy", "Accuracy, in percent", _accuracy(report, numbers)),
        Section(
            "equal",
            "At equal clean accuracy",
            "At equal clean accuracy",
            _equal(report, equal, charts),
        ),
        Section("checks", "Checks", "Checks", _checks(report)),
        Section("attacks", "Attack by attack", "Attack by attack", _attacks(report, numbers), True),
        Section("epsilon", "ε", "Accuracy and the size of the perturbation", epsilon),
        Section("radii", "Robust radii", "Robust radii", radii),
        Section("queries", "Queries", "Accuracy and the queries an attack may ask", queries, True),
        *(exhibit.sections(report) if exhibit else ()),
        Section("protocol", settings, settings, protocol, True),
        Section("published", "Published values", "Published values", _published(report, numbers)),
        Section("cost", "Cost", "Cost of the evaluation", _cost(numbers), True),
        Section("run", "Run", "Seeds, training, environment", _run(report, numbers), True),
    ]
    return [section for section in found if section.parts]


def _figures(
    charts: Mapping[str, Sequence[Chart]],
    name: str,
    words: str,
    in_numbers: Callable[[Chart], Table] = chart_table,
) -> list[Part]:
    """The charts of one file below what is to be said of them; nothing without charts."""
    first = 100 * list(charts).index(name)  # names inside an element are the page's alone
    drawn = [
        (Markup(inline(chart, number)), in_numbers(chart))
        for number, chart in enumerate(charts[name], first)
    ]
    return [Part("text", words), Part("figures", drawn, files=(name,))] if drawn else []


def _accuracy(report: Report, numbers: Numbers) -> list[Part]:
    quiet = [sentences.legend(report, numbers), sentences.threat(numbers), *report.notes]
    return [
        *table(layout.accuracy_table(report, numbers)),
        *(Part("quiet", words) for words in quiet if words),
        Part("heading", "Without attack"),
        *table(layout.clean_table(report, numbers)),
        Part("quiet", said("largest")),
    ]


def _attacks(report: Report, numbers: Numbers) -> list[Part]:
    shown = table(layout.attack_table(report, numbers))
    return shown and [*shown, Part("quiet", said("attacks", of_images=report.of_images))]


def _equal(
    report: Report, equal: Sequence[Matched], charts: Mapping[str, Sequence[Chart]]
) -> list[Part]:
    if not equal:
        return []
    words = said("equal", noun=report.noun, plain=equal[0].plain, primary=bool(report.primary))
    shown = _figures(charts, "equal_accuracy.svg", words, points_table)
    return [*shown, *table(matched_table(report, equal))]


def _checks(report: Report) -> list[Part]:
    passed, brief = layout.check_table(report, True), layout.passed_table(report)
    shown = [
        *table(layout.check_table(report, False, None), "words"),
        *(
            [Part("table", passed, "words", f"{len(passed.rows)} passed", brief=brief)]
            if passed.rows
            else []
        ),
    ]
    return shown or [Part("text", "None were run.")]


def _published(report: Report, numbers: Numbers) -> list[Part]:
    shown = table(layout.published_table(report, numbers), "words")
    return shown and [Part("text", said("published")), *shown]


def _cost(numbers: Numbers) -> list[Part]:
    shown = table(layout.cost_table(numbers))
    told = f"Mean over seeds; × is the ratio to {numbers.baseline.name}."
    return shown and [*shown, Part("quiet", told)]


def _run(report: Report, numbers: Numbers) -> list[Part]:
    parts = table(facts(layout.run_facts(report, numbers)), "facts")
    for name, seeds in report.methods().items():  # once for seeds that were trained alike
        alike = all(model.description == seeds[0].description for model in seeds)
        for model in seeds[:1] if alike else seeds:
            how = f"How {name if alike else model.title} was trained"
            parts += table(facts(model.description), "facts", how)
    if report.commands:
        parts += [Part("heading", "Commands"), Part("code", "\n".join(report.commands))]
    return parts
