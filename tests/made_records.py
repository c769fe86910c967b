"""Records from a flat list of fields: of an attack on words, and of one on a point."""

from __future__ import annotations

from dataclasses import fields, replace

from nlp_adv.robustness.record import Point, Record, Substitution

_WORDS = {
    "attack": "swap",
    "original": "a good film",
    "adversarial": "a fine film",
    "queries": 10,
    "forwards": 8,
    "tokens": 40,
    "words": 3,
    "words_changed": 1,
    "confidence": 0.9,
    "adversarial_confidence": 0.6,
    "label": 1,
}
_POINT = {
    "attack": "pgd-linf",
    "example": "0" * 12,
    "label": 1,
    "confidence": 0.9,
    "adversarial_confidence": 0.6,
    "gradient_passes": 5,
    "first_loss": -1.0,
    "last_loss": -0.5,
    "survives_8_bit": False,
    "l2": 0.0,
    "linf": 0.0,
    "l1": 0.0,
    "l0": 0.0,
}


def changed(record: Record, **changes) -> Record:
    """The same with other fields, wherever they stand."""
    own = {one.name for one in fields(record.found)}
    inside = {name: value for name, value in changes.items() if name in own}
    outside = {name: value for name, value in changes.items() if name not in own}
    return replace(record, **outside, found=replace(record.found, **inside))


def words_record(number: int = 0, outcome: str = "robust", **changes) -> Record:
    """Of an attack on words."""
    return _made(Substitution, number, outcome, _WORDS | changes)


def point_record(number: int = 0, outcome: str = "robust", **changes) -> Record:
    """Of an attack on an image; on a text where one is given."""
    fooled = {"l2": 0.3, "linf": 0.05, "last_loss": 0.2, "survives_8_bit": True}
    return _made(Point, number, outcome, _POINT | (fooled if outcome == "fooled" else {}) | changes)


def _made(kind: type, number: int, outcome: str, content: dict) -> Record:
    label = content["label"]
    other = 1 - label if label in (0, 1) else 0
    said = {
        "prediction": other if outcome == "wrong" else label,
        "adversarial_prediction": label if outcome == "robust" else other,
    }
    content = {"id": number, "outcome": outcome, **said, **content}
    own = {one.name for one in fields(kind)}
    inside = {name: value for name, value in content.items() if name in own}
    outside = {name: value for name, value in content.items() if name not in own}
    return Record(**outside, found=kind(**inside))
