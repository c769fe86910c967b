"""An evaluation on disk: `evaluation.json` says which run it is and what was found.

The records stand beside it. Headers of nlp_adv 0.4 and 0.5 are read as well: `evaluation.json` of
texts, and `settings.json` of images, which knew the run alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nlp_adv.attacks.words.protocols import Protocol
from nlp_adv.errors import UserError
from nlp_adv.folders import write_whole
from nlp_adv.perturbation import Ball, L1Ball, L2Ball, LInfBall
from nlp_adv.robustness.check_result import Check
from nlp_adv.robustness.curve import Curve
from nlp_adv.robustness.evaluated import Evaluation
from nlp_adv.robustness.records import RECORDS, read_records
from nlp_adv.robustness.statistics import Share, norm_of, radius_of

HEADER = "evaluation.json"
OLD_HEADER = "settings.json"  # of images, up to nlp_adv 0.5
_BALLS: dict[str, type[L2Ball] | type[LInfBall] | type[L1Ball]] = {
    "l2": L2Ball,
    "linf": LInfBall,
    "l1": L1Ball,
}
_ONE_BY_ONE = ("clean_on_all", "within", "checks", "curves")
_AS_THEY_ARE = ("cost", "notes", "details", "environment", "name", "shard", "texts", "training")


def identity(evaluation: Evaluation) -> dict[str, Any]:
    """What makes two runs the same, and what describes it."""
    protocol = evaluation.protocol
    content = {
        "version": 2,
        "protocol": None if protocol is None else protocol.described(),
        "settings": dict(evaluation.settings),
        "hashes": dict(evaluation.hashes),
        "attacks": dict(evaluation.attacks),
        "model": evaluation.model,
        "data": evaluation.data,
        "description": evaluation.description,
        "seed": evaluation.seed,
        "target": evaluation.target,
        "labels": list(evaluation.labels),
    }
    found: dict[str, Any] = json.loads(json.dumps(content))  # tuples and the like as they come back
    return found


def save(folder: Path, evaluation: Evaluation) -> None:
    """Write down what was found beside the records, which are there already.

    Raises:
        UserError: the folder cannot be written.
    """
    ball = evaluation.within
    found = {
        "clean": evaluation.clean_on_all,
        "within": None if ball is None else [norm_of(ball), radius_of(ball)],
        "ids": list(evaluation.ids),
        "titles": list(evaluation.titles),
        "checks": [asdict(check) for check in evaluation.checks],
        "curves": [
            {
                "title": curve.title,
                "x_label": curve.x_label,
                "points": [[e, share.count, share.total] for e, share in curve.points.items()],
                "scale": curve.scale,
            }
            for curve in evaluation.curves
        ],
        **{name: getattr(evaluation, name) for name in _AS_THEY_ARE},
    }
    write_header(folder, identity(evaluation) | {"found": found})


def load(folder: Path) -> Evaluation:
    """A saved evaluation.

    Raises:
        UserError: there is none, it is damaged, or it was not finished.
    """
    header = folder / HEADER
    if not header.exists() and (folder / OLD_HEADER).exists():
        return _loaded_images(folder)
    if not header.exists():
        raise UserError(f"{folder} holds no evaluation; run nlp-adv attack with it first.")
    saved = read_header(header)
    if saved.get("found") is None:
        raise UserError(f"The evaluation in {folder} was not finished; run its command again.")
    try:
        return _evaluation(saved, saved["found"], folder)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{header} is damaged ({error}); remove its folder and run again."
        ) from error


def _evaluation(saved: Mapping[str, Any], found: Mapping[str, Any], folder: Path) -> Evaluation:
    protocol, within = saved["protocol"], found.get("within")
    records = read_records(folder / RECORDS)
    if "ids" in found:  # a folder may hold more than was asked for at last
        ids, titles = set(found["ids"]), {title: n for n, title in enumerate(found["titles"])}
        records = [one for one in records if one.id in ids and one.title in titles]
        records.sort(key=lambda one: (titles[one.title], one.id))
    return Evaluation(
        protocol=None if protocol is None else Protocol(**_protocol(protocol)),
        settings=saved.get("settings", {}),
        hashes=saved["hashes"],
        attacks=saved.get("attacks", {}),
        model=saved["model"],
        data=saved["data"],
        description=saved["description"],
        seed=saved["seed"],
        target=saved["target"],
        labels=tuple(saved["labels"]),
        records=records,
        within=None if within is None else _ball(*within),
        clean_on_all=None if found["clean"] is None else (found["clean"][0], found["clean"][1]),
        checks=[Check(**check) for check in found["checks"]],
        curves=[_curve(curve) for curve in found["curves"]],
        **{name: found[name] for name in _AS_THEY_ARE if name in found},
    )


def _loaded_images(folder: Path) -> Evaluation:
    """What `settings.json` and the records say; checks and curves stand in the old report alone."""
    old = upgraded_header(read_header(folder / OLD_HEADER), folder / OLD_HEADER)
    records = read_records(folder / RECORDS)
    note = "nlp_adv 0.5 or earlier made these records: run its command again for curves and checks."
    known = {name: old[name] for name in ("hashes", "attacks", "settings", "model", "target")}
    return Evaluation(**known, records=records, notes=[note])


def read_header(path: Path) -> dict[str, Any]:
    """What says which run a folder holds.

    Raises:
        UserError: it is damaged.
    """
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); remove its folder and run again.") from error
    if not isinstance(header, dict):
        raise UserError(f"{path} is damaged; remove its folder and run again.")
    return header


def upgraded_header(old: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """`settings.json` of images as a header is now; its attacks have no hashes, only names.

    Raises:
        UserError: it is damaged.
    """
    if not isinstance(old.get("attacks"), dict):
        raise UserError(f"{path} is damaged; remove its folder and run again.")
    own = ("model", "target", "attacks")
    return {
        "settings": {name: value for name, value in old.items() if name not in own},
        "hashes": {},
        "data": "",
        "seed": None,
        **{name: old.get(name) for name in own},
    }


def write_header(folder: Path, content: Mapping[str, Any]) -> None:
    """Write it whole.

    Raises:
        UserError: the folder cannot be written.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / HEADER, text + "\n")
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}).") from error


def _curve(content: Mapping[str, Any]) -> Curve:
    return Curve(
        title=content["title"],
        x_label=content["x_label"],
        points={epsilon: Share(*counts) for epsilon, *counts in content["points"]},
        scale=content.get("scale", 1.0),
    )


def _ball(norm: str, radius: float) -> Ball:
    ball: Ball = _BALLS[norm](radius)
    return ball


def _protocol(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A protocol's fields as they are now; at first the one list of stop words was another."""
    stops = settings["stop_words"]
    return {**settings, "stop_words": "scikit-learn" if stops is False else stops}
