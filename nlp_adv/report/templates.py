"""The page's templates; all texts are escaped: an attacked text may hold markup."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from nlp_adv.report.sentences import model_name


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("nlp_adv.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"tied": _tied, "named": model_name, "soft": _soft}
    return environment


def rendered(template: str, **content: Any) -> Markup:
    """A template of this folder, filled in."""
    return Markup(_environment().get_template(template).render(**content))


def style() -> Markup:
    """The page's style sheet."""
    return Markup(files("nlp_adv.report").joinpath("page.css").read_text(encoding="utf-8"))


def _tied(text: str) -> str:
    """No line break between a number and its sign, or a model and its seed."""
    return re.sub(r" (?=[%±])|(?<=±) |(?<=seed) (?=\d)", "\xa0", text)


def _soft(text: str) -> Markup:
    """A long name may break behind an underscore or a slash, and nowhere else."""
    return Markup(re.sub(r"(?<=\w)([_/])(?=\w)", r"\1<wbr>", str(escape(text))))
