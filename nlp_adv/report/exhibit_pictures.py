"""A few images under each attack: before, δ, after; and how the attacks went step by step."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from markupsafe import Markup
from torch import Tensor

from nlp_adv.attacks import Attack, AttackResult
from nlp_adv.attacks.subject import device_of
from nlp_adv.drawing import svg_bytes
from nlp_adv.errors import UserError
from nlp_adv.report.cells import percent
from nlp_adv.report.content import Report
from nlp_adv.report.drawn import inlined
from nlp_adv.report.pictures import history_curves, picture_grid
from nlp_adv.report.templates import rendered
from nlp_adv.robustness.evaluated import Evaluation
from nlp_adv.sites.normalisation import Classifier

FOOLED, ROBUST = 4, 2  # of the images that are drawn
_SHOWN = 6  # images an attack
_SMALL = 96  # pixels a side, up to which pictures keep every pixel; larger ones are JPEG
_HISTORY = 1000  # the number of that drawing on the page, above those of the charts


@dataclass(frozen=True)
class PictureExhibit:
    """The same few images under each attack.

    Args:
        results: name of the attack → its result, on the CPU.
    """

    results: Mapping[str, AttackResult]
    sections: tuple[tuple[str, str], ...] = (("pictures", "Pictures"), ("history", "Step by step"))

    def html(self, report: Report) -> Markup:
        """Pictures with the model's answers, and curves of loss and ‖δ‖.

        Raises:
            UserError: there is no Pillow.
        """
        figure = history_curves(list(self.results.values()), stacked=True)
        figure.patch.set_visible(False)
        for axes in figure.axes:
            axes.patch.set_visible(False)
        title = "Loss and length of δ at each step of each attack"
        return rendered(
            "pictures.html.j2",
            pictures={name: _cards(report, one) for name, one in self.results.items()},
            history=Markup(inlined(svg_bytes(figure, text=True), _HISTORY, title)),
        )

    def files(self, report: Report) -> Mapping[str, Callable[[Path], None]]:
        """The same as files of their own."""
        results = list(self.results.values())
        drawn: dict[str, Callable[[Path], None]] = {"history.svg": partial(_draw_history, results)}
        for name, result in self.results.items():
            drawn[f"pictures_{_file_name(name)}.png"] = partial(_draw, result, report.labels)
        return drawn


def exhibit_ids(found: Evaluation, count: int = 32) -> list[int]:
    """Ids of images that attacks were tried on, those to be drawn first.

    Evenly spaced: four that any attack fooled and two that none did, or more of one kind where
    there are fewer of the other; then others, for the curves.

    Args:
        found: by the attacks.
        count: how many in all.
    """
    attacked = {record.id for record in found.of(found.titles[0]) if record.attacked}
    is_robust = found.robust()
    fooled = [number for number in sorted(attacked) if not is_robust[number]]
    robust = [number for number in sorted(attacked) if is_robust[number]]
    several = min(ROBUST, len(robust))
    chosen = _spaced(fooled, FOOLED + ROBUST - several)
    chosen += _spaced(robust, FOOLED + ROBUST - len(chosen))
    others = [number for number in sorted(attacked) if number not in chosen]
    return [*chosen, *_spaced(others, count - len(chosen))]


def exhibits(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    attacks: Mapping[str, Attack],
    *,
    target: int | None = None,
) -> dict[str, AttackResult]:
    """Each attack on the same images, from its first start; results are on the CPU.

    Args:
        model: pixels → logits.
        x, y: images (B, C, H, W) in [0, 1] and right classes (B,).
        attacks: by name.
        target: class to reach.
    """
    device = device_of(model) or x.device
    results = {}
    for name, attack in attacks.items():
        result = attack(model, x.to(device), y.to(device), target=target)
        moved: dict[str, Any] = {k: v.cpu() for k, v in vars(result).items() if torch.is_tensor(v)}
        results[name] = replace(result, attack=name, **moved)
    return results


def _cards(report: Report, result: AttackResult) -> list[dict[str, Any]]:
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
                "fooled": bool(result.success[row]),
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


def _said(report: Report, answer: Tensor, confidence: Tensor) -> str:
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
    return f"data:image/{kind};base64,{base64.b64encode(written.getvalue()).decode()}"


def _spaced(ids: list[int], count: int) -> list[int]:
    """So many of them, evenly spaced."""
    count = min(count, len(ids))
    return [ids[place * len(ids) // count] for place in range(count)]


def _file_name(attack: str) -> str:
    return "".join(one if one.isalnum() or one in "-." else "_" for one in attack)


def _draw(result: AttackResult, labels: Sequence[str], path: Path) -> None:
    picture_grid(result, str(path), label_names=labels)


def _draw_history(results: Sequence[AttackResult], path: Path) -> None:
    history_curves(results, str(path))
