"""The report's numbers as CSV and JSON; shares are between 0 and 1."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from nlp_adv.report.charts import robust_radii
from nlp_adv.report.content import ModelResult, Report
from nlp_adv.report.matched import Matched
from nlp_adv.report.numbers import CLEAN, WORST, Numbers, Score, right_answers, share
from nlp_adv.robustness.answers import Answers
from nlp_adv.robustness.statistics import Share

_COLUMNS = ("examples", "clean", "under_attack", "success", "budget_stopped")
_MEANS = ("queries", "forwards", "tokens", "words_changed")
_OF_IMAGES = ("fooled", "fooled_8_bit", "zero_gradients")
_MEANS_OF_IMAGES = ("l2", "linf", "l1", "l0", "gradient_passes")


def csv_text(report: Report, numbers: Numbers) -> str:
    """One row a model and attack, with the ends of Wilson's 95 % intervals; nan is left empty.

    `worst_case`, `clean_all_texts` and `largest_answer`, the share of the most frequent answer
    without attack, belong to the model and are the same in all its rows. A largest answer near 1
    marks a model whose accuracies are the share of one class.
    """
    rows = []
    for model in report.models:
        names = [*_COLUMNS, *_MEANS]
        if model.of_images:
            names = [*_COLUMNS, *_OF_IMAGES, *_MEANS, *_MEANS_OF_IMAGES]
        for attack in (one for one in numbers.attacks if one in model.summaries):
            row: dict[str, Any] = {"method": model.name, "seed": model.seed, "attack": attack}
            row |= {name: getattr(model.summaries[attack], name) for name in names}
            row["worst_case"] = _right(model, WORST, numbers) or Share(0, 0)
            row["clean_all_texts"] = model.clean or Share(0, 0)
            row["largest_answer"] = Answers.of_records(model.records).largest.value
            rows.append(_flat(row | {"protocol_hash": report.protocol_hash}))
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Three columns of each share; what is unknown is empty."""
    cells: dict[str, Any] = {}
    for name, value in row.items():
        cells[name] = value.value if isinstance(value, Share) else value
        if isinstance(value, Share):
            cells[f"{name}_low"], cells[f"{name}_high"] = value.interval()
    return {name: "" if plain(value) is None else value for name, value in cells.items()}


def json_text(report: Report, numbers: Numbers, equal: Sequence[Matched] = ()) -> str:
    """All numbers, with what they were measured by; nan and infinities are null."""
    content = {
        "title": report.title,
        "data": report.data,
        "seed": report.seed,
        "labels": report.labels,
        "notes": report.notes,
        "target": report.target,
        "protocol": report.protocol,
        "protocol_hash": report.protocol_hash,
        "baseline": numbers.baseline.name,
        "attacks": numbers.attacks,
        "methods": [
            {
                "name": method.name,
                "seeds": [model.seed for model in method.models],
                "accuracy": {measure: _score(score) for measure, score in method.scores.items()},
            }
            for method in numbers.methods
        ],
        "equal_clean_accuracy": [_equal(one) for one in equal],
        "models": [_model(model, numbers) for model in report.models],
        "robust_radii": [
            {"attack": one.attack, "method": one.method, "norm": one.norm}
            | {"quartiles": one.quartiles, "examples": len(one.values), "radii": one.values}
            for one in robust_radii(report, numbers.attacks)
        ],
        "published": report.published,
        "commands": report.commands,
        "environment": report.environment,
    }
    return json.dumps(plain(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _equal(one: Matched) -> dict[str, Any]:
    """Gains over plain training at equal clean accuracy; null of what draws its curve."""
    gains = {name: None if name in one.plain else one.gain(name) for name in one.outcomes}
    told = {
        name: None if found is None else {"gain": found[0], "seeds": found[1]}
        for name, found in gains.items()
    }
    return {"measure": one.measure, "plain": one.plain, "methods": told}


def _score(score: Score) -> dict[str, Any]:
    same = {name: getattr(score, name) for name in ("low", "high", "difference", "p", "p_holm")}
    return {
        "mean": score.over_seeds.mean,
        "sd": score.over_seeds.sd,
        "clean": score.clean.mean,
        **same,
        "told_from_0": score.told,
    }


def _model(model: ModelResult, numbers: Numbers) -> dict[str, Any]:
    same = {name: getattr(model, name) for name in ("name", "seed", "description")}
    return {
        **same,
        "clean_all_texts": model.clean,
        "clean": _right(model, CLEAN, numbers),
        "answers": Answers.of_records(model.records) if model.records else None,
        "worst_case": _right(model, WORST, numbers),
        "attacks": model.summaries,
        "checks": model.checks,
        "curves": [
            {
                "title": curve.title,
                "x_label": curve.x_label,
                "points": [{"x": x, "share": share} for x, share in sorted(curve.points.items())],
                "area": curve.accuracy.area,
            }
            for curve in model.curves
        ],
        "cost": model.cost,
    }


def _right(model: ModelResult, measure: str, numbers: Numbers) -> Share | None:
    """One model's right answers by one measure; None where it was not measured."""
    right = right_answers(model, measure, numbers.together)
    return share(right) if right else None


def plain(value: Any) -> Any:
    """What JSON can hold: nan and infinities as null, unknown kinds as their text."""
    if isinstance(value, Share):
        low, high = value.interval()
        ends = {"value": value.value, "low": low, "high": high}
        return plain({"count": value.count, "total": value.total, **ends})
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(one) for one in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float) else str(value)
