"""The report as one page: no script, no file, no font from anywhere else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from nlp_adv.report import sentences
from nlp_adv.report.content import Report
from nlp_adv.report.document import Section
from nlp_adv.report.drawn import inline
from nlp_adv.report.matched import Matched, matched_charts, points_table
from nlp_adv.report.numbers import Numbers

_FIRST = 9000  # numbers of the pictures at the top, which no others have


def page(
    report: Report, numbers: Numbers, sections: Sequence[Section], equal: Sequence[Matched] = ()
) -> str:
    """The whole page: a sentence, a picture and the checks first.

    Args:
        report, numbers: what is shown.
        sections: of `sections_of`; the checks unfold below the sentence.
        equal: the methods beside the curve of plain training, for sentence and picture.
    """
    drawn = {one.title: one for one in matched_charts(equal)}
    alone = [name for name in drawn if name not in numbers.together and name != numbers.main]
    first = [drawn[name] for name in (numbers.main, *alone) if name in drawn][:2]
    return rendered(
        "page.html.j2",
        style=Markup(files("nlp_adv.report").joinpath("page.css").read_text(encoding="utf-8")),
        report=report,
        summary=sentences.summary(report, numbers, equal),
        picture=[
            (Markup(inline(one, _FIRST + at)), points_table(one)) for at, one in enumerate(first)
        ],
        verdict=sentences.verdict(report),
        caption=sentences.said("caption"),
        checks=next(one for one in sections if one.anchor == "checks"),
        sections=[one for one in sections if one.anchor != "checks"],
    )


def rendered(template: str, **content: Any) -> Markup:
    """A template of this folder, filled in; texts are escaped: an attacked one may hold markup."""
    return Markup(_environment().get_template(template).render(**content))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("nlp_adv.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"tied": _tied, "soft": _soft}
    return environment


def _tied(text: str) -> str:
    """No line break between a number and its sign, within an interval, or before a seed."""
    return re.sub(r" (?=[%±])|(?<=±) |(?<=seed) (?=\d)|(?<=\d,) (?=[+−\d.]+\])", "\xa0", text)


def _soft(text: str) -> Markup:
    """A long name may break behind an underscore or a slash, and nowhere else."""
    return Markup(re.sub(r"(?<=\w)([_/])(?=\w)", r"\1<wbr>", str(escape(text))))
