"""The report's numbers as CSV and JSON; shares are between 0 and 1."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from nlp_adv.report.charts import robust_radii
from nlp_adv.report.content import ModelResult, Report
from nlp_adv.report.numbers import Numbers, Score
from nlp_adv.report.standing import CLEAN, WORST, records_under, share_of
from nlp_adv.robustness.answers import Answers
from nlp_adv.robustness.statistics import Share, summarise

# A share of the largest answer near 1 marks a model whose accuracies are the share of one class.
_SHARES = ("clean", "under_attack", "success", "budget_stopped")
_MEANS = ("queries", "forwards", "tokens", "words_changed")
_OF_IMAGES = ("l2", "linf", "l1", "l0", "gradient_passes")


def csv_text(report: Report, numbers: Numbers) -> str:
    """One row a model and attack, with the ends of Wilson's 95 % intervals; nan is left empty.

    `worst_case`, `clean_all_texts` and `largest_answer`, the share of the most frequent answer
    without attack, belong to the model and are the same in all its rows.
    """
    rows = [
        {"method": model.name, "seed": model.seed, "attack": attack}
        | _attacked(model, attack)
        | _ends("worst_case", share_of(model, WORST, numbers.together))
        | _ends("clean_all_texts", model.clean)
        | {"largest_answer": Answers.of_records(model.records).largest.value}
        | {"protocol_hash": report.protocol_hash}
        for model in report.models
        for attack in numbers.attacks
        if records_under(model.records, attack)
    ]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _bare(value) for key, value in row.items()} for row in rows)
    return out.getvalue()


def _attacked(model: ModelResult, attack: str) -> dict[str, Any]:
    found = summarise(records_under(model.records, attack), model.within)
    row: dict[str, Any] = {"examples": found.examples}
    for name in _SHARES:
        row |= _ends(name, getattr(found, name))
    if model.of_images:
        for name in ("fooled", "fooled_8_bit", "zero_gradients"):
            row |= _ends(name, getattr(found, name))
    means = (*_MEANS, *_OF_IMAGES) if model.of_images else _MEANS
    return row | {name: getattr(found, name) for name in means}


def _ends(name: str, share: Share | None) -> dict[str, float | None]:
    low, high = share.interval() if share else (None, None)
    return {name: share.value if share else None, f"{name}_low": low, f"{name}_high": high}


def json_text(report: Report, numbers: Numbers) -> str:
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


def _score(score: Score) -> dict[str, Any]:
    return {
        "mean": score.over_seeds.mean,
        "sd": score.over_seeds.sd,
        "low": score.low,
        "high": score.high,
        "clean": score.clean.mean,
        "difference": score.difference,
        "p": score.p,
        "p_holm": score.p_holm,
        "told_from_0": score.told,
    }


def _model(model: ModelResult, numbers: Numbers) -> dict[str, Any]:
    return {
        "name": model.name,
        "seed": model.seed,
        "description": model.description,
        "clean_all_texts": model.clean,
        "clean": share_of(model, CLEAN, numbers.together),
        "answers": Answers.of_records(model.records) if model.records else None,
        "worst_case": share_of(model, WORST, numbers.together),
        "attacks": {
            attack: summarise(records, model.within)
            for attack in numbers.attacks
            if (records := records_under(model.records, attack))
        },
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


def _bare(value: Any) -> Any:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value
