"""The report as one page: no script, and no file from anywhere else."""

from __future__ import annotations

import base64
from importlib.resources import files
from io import BytesIO
from typing import Any

import torch
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from torch import Tensor

from nlp_adv.attacks import AttackResult
from nlp_adv.drawing import svg_bytes
from nlp_adv.errors import UserError
from nlp_adv.report.cells import percent
from nlp_adv.report.figures import svg
from nlp_adv.report.images import tables
from nlp_adv.report.images.content import ImageReport
from nlp_adv.report.pictures import history_curves

_SHOWN = 6  # images an attack
_SMALL = 96  # pixels a side, up to which pictures keep every pixel; larger ones are JPEG


def page(report: ImageReport) -> str:
    """The whole page.

    Raises:
        UserError: there are pictures, and no Pillow or matplotlib.
    """
    own, shared = files(__package__), files("nlp_adv.report")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(own.joinpath("page.html.j2").read_text(encoding="utf-8"))
    styles = (folder.joinpath("page.css").read_text(encoding="utf-8") for folder in (shared, own))
    chart = tables.chart(report)
    return template.render(
        style=Markup("\n".join(styles)),
        report=report,
        summary=tables.summary(report),
        verdict=tables.found_verdict(report),
        accuracy=tables.accuracy_table(report),
        legend=tables.legend(report),
        attacks=tables.attack_table(report),
        attack_legend=tables.ATTACK_LEGEND,
        checks=tables.checks(report, False, None),
        passed=tables.checks(report, True),
        chart=None if chart is None else Markup(svg(chart)),
        curves=tables.curve_table(report),
        history=_history(report),
        pictures={name: _cards(report, one) for name, one in report.exhibits.items()},
        settings=tables.settings_table(report),
    )


def _history(report: ImageReport) -> str | None:
    if not report.exhibits:
        return None
    figure = history_curves(list(report.exhibits.values()), stacked=True)
    return _data(svg_bytes(figure), "svg+xml")


def _cards(report: ImageReport, result: AttackResult) -> list[dict[str, Any]]:
    """An image each: before, δ, after, and what is to be said of them."""
    cards = []
    l2, linf = result.norm(2), result.norm(torch.inf)
    for row in range(min(_SHOWN, len(result))):
        delta = result.delta[row]
        peak = float(delta.abs().max())
        scale = 0.5 / peak if peak > 0 else 1.0
        clean = _said(report, result.clean_answers[row], result.clean_confidences[row])
        after = _said(report, result.answers[row], result.confidences[row])
        label = report.label(int(result.labels[row]))
        cards.append(
            {
                "fell": bool(result.success[row]),
                "label": f"{'target' if result.towards else 'right answer'} {label}",
                "norms": f"‖δ‖₂ = {float(l2[row]):.3g}, ‖δ‖∞ = {float(linf[row]):.3g}",
                "pictures": [
                    (_picture(result.x[row]), clean, "clean"),
                    (_picture(0.5 + scale * delta), f"δ × {scale:.3g}", "change, grey is none"),
                    (_picture(result.adv[row]), after, "adversarial"),
                ],
            }
        )
    return cards


def _said(report: ImageReport, answer: Tensor, confidence: Tensor) -> str:
    return f"{report.label(int(answer))}, {percent(float(confidence))}\xa0%"


def _picture(pixels: Tensor) -> str:
    try:
        from PIL import Image
    except ImportError as error:
        raise UserError("Pictures need Pillow: pip install nlp_adv[images].") from error
    levels = (255 * pixels.detach().float().cpu().clamp(0, 1)).round().to(torch.uint8)
    image = levels[0] if len(levels) == 1 else levels.permute(1, 2, 0)
    written = BytesIO()
    kind = "png" if max(image.shape[:2]) <= _SMALL else "jpeg"
    Image.fromarray(image.contiguous().numpy()).save(written, kind, quality=90)
    return _data(written.getvalue(), kind)


def _data(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
