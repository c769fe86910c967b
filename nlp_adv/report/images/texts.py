"""The report as Markdown, for a README or a pull request, and as JSON, for machines."""

from __future__ import annotations

import json
from collections.abc import Sequence

from nlp_adv.report.images.content import ImageReport
from nlp_adv.report.images.tables import (
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
from nlp_adv.report.machine import plain
from nlp_adv.report.markdown import escaped, markdown_table


def markdown(report: ImageReport, figures: Sequence[str]) -> str:
    """The page's tables and sentences.

    Args:
        report: to show.
        figures: names of the files drawn beside it.
    """
    found = found_verdict(report)
    parts = [
        f"# {escaped(report.title)}",
        escaped(summary(report)),
        f"**{escaped(found.text)}**",
        "\n".join(f"- {escaped(words)}" for _, words in found.failed),
        "## Accuracy, in percent",
        markdown_table(accuracy_table(report)),
        escaped(legend(report)),
        *map(escaped, report.notes),
        "## Attack by attack",
        markdown_table(attack_table(report)),
        ATTACK_LEGEND,
    ]
    if report.sweeps:
        parts += ["## Accuracy over ε", markdown_table(curve_table(report))]
    if report.checks:
        parts += ["## Checks", markdown_table(checks(report, False, None, True))]
    if figures:
        parts += ["## Pictures", *(f"![{name}]({name})" for name in figures)]
    parts += ["## Settings and environment", markdown_table(settings_table(report))]
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
        "answers": report.found.answers,
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
