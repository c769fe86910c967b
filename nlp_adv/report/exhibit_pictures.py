"""A few images under each attack: before, δ, after; and how the attacks went step by step."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
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
from nlp_adv.errors import UserError
from nlp_adv.report.content import Report
from nlp_adv.report.document import Part, Section
from nlp_adv.report.drawn import inlined
from nlp_adv.report.page import rendered
from nlp_adv.report.pictures import history_curves, picture_grid, triples
from nlp_adv.report.sentences import said
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

    def sections(self, report: Report) -> list[Section]:
        """Pictures with the model's answers, and curves of loss and ‖δ‖.

        Raises:
            UserError: there is no Pillow.
        """
        history, *files = self.files(report)
        cards = {name: _cards(report, result) for name, result in self.results.items()}
        pictures = rendered("pictures.html.j2", pictures=cards)
        figure = history_curves(list(self.results.values()), stacked=True)
        svg = inlined(figure, _HISTORY, "Loss and length of δ at each step of each attack")
        drawn = Markup(f"<figure>\n{svg}\n</figure>")
        return [
            Section(
                "pictures",
                "Pictures",
                "Pictures",
                [Part("text", said("pictures")), Part("html", pictures, files=tuple(files))],
            ),
            Section(
                "history",
                "Step by step",
                "Step by step",
                [Part("text", said("steps")), Part("html", drawn, files=(history,))],
            ),
        ]

    def files(self, report: Report) -> Mapping[str, Callable[[Path], None]]:
        """The same as files of their own, the history first."""
        results = list(self.results.values())
        drawn: dict[str, Callable[[Path], None]] = {"history.svg": partial(_draw_history, results)}
        for name, result in self.results.items():
            file = "".join(one if one.isalnum() or one in "-." else "_" for one in name)
            drawn[f"pictures_{file}.png"] = partial(_draw, result, report)
        return drawn


def _draw(result: AttackResult, report: Report, path: Path) -> None:
    picture_grid(result, str(path), label_names=report.labels)


def _draw_history(results: list[AttackResult], path: Path) -> None:
    history_curves(results, str(path))


def _cards(report: Report, result: AttackResult) -> list[dict[str, Any]]:
    """An image each: before, δ, after, and what is to be said of them."""
    what = ("clean", "change, grey is none", "adversarial")
    return [
        {
            "fooled": fooled,
            "label": f"{'target' if result.towards else 'right answer'} {one.label}",
            "norms": one.norms,
            "pictures": [
                (_picture(pixels), caption, name)
                for (pixels, caption), name in zip(one.pictures, what, strict=True)
            ],
        }
        for one, fooled in zip(
            triples(result, _SHOWN, report.label), result.success.tolist(), strict=False
        )
    ]


def _picture(pixels: Tensor) -> str:
    try:
        from PIL import Image
    except ImportError as error:
        raise UserError("Pictures need Pillow: pip install nlp_adv[images].") from error
    levels = (255 * pixels).round().to(torch.uint8).contiguous().numpy()
    written = BytesIO()
    kind = "png" if max(levels.shape[:2]) <= _SMALL else "jpeg"
    Image.fromarray(levels).save(written, kind, quality=90)
    return f"data:image/{kind};base64,{base64.b64encode(written.getvalue()).decode()}"


def exhibit_ids(found: Evaluation, count: int = 32) -> list[int]:
    """Ids of images that attacks were tried on, those to be drawn first.

    Evenly spaced: four that any attack fooled and two that none did, or more of one kind where
    there are fewer of the other; then others, for the curves.

    Args:
        found: by the attacks.
        count: how many in all.
    """
    attacked = sorted({record.id for record in found.of(found.titles[0]) if record.attacked})
    is_robust = found.robust()
    fooled = [number for number in attacked if not is_robust[number]]
    robust = [number for number in attacked if is_robust[number]]
    several = min(ROBUST, len(robust))
    chosen = _spaced(fooled, FOOLED + ROBUST - several)
    chosen += _spaced(robust, FOOLED + ROBUST - len(chosen))
    others = [number for number in attacked if number not in chosen]
    return [*chosen, *_spaced(others, count - len(chosen))]


def _spaced(ids: list[int], count: int) -> list[int]:
    """So many of them, evenly spaced."""
    count = min(count, len(ids))
    return [ids[place * len(ids) // count] for place in range(count)]


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
