"""Lines of records as nlp_adv 0.4 and 0.5 wrote them, and what they are now.

A text had the radius of an attack on embeddings behind an @ in the attack's name, and an image had
a record of its own. Both named outcomes otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nlp_adv.errors import UserError

OUTCOMES = {"skipped": "wrong", "failed": "robust", "succeeded": "fooled"}
_TEXT = ("original", "adversarial", "queries", "words", "words_changed")
_IMAGE = ("pixels", "clean_answer", "answer", "clean_confidence")
_WORDS = (*_TEXT, "context", "tokens", "budget_stopped")
_COMMON = ("id", "attack", "label", "outcome", "forwards")
_ANSWERS = ("prediction", "adversarial_prediction", "confidence", "adversarial_confidence")
_POINT = ("l2", "linf", "l1", "l0", "gradient_passes", "first_loss", "last_loss")


def upgraded(value: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A line's JSON as this version has it; unchecked but for what must be told here.

    Raises:
        UserError: the fields are those of no record.
    """
    told = {"outcome": _outcome(value["outcome"], where)} if "outcome" in value else {}
    if any(name in value for name in _IMAGE):
        return {**_image(value, where), **told}
    return {**_text(value, where), **told}


def _text(value: Mapping[str, Any], where: str) -> dict[str, Any]:
    _check(value, {*_COMMON, *_ANSWERS, *_WORDS}, {"context", "budget_stopped"}, where)
    common = _chosen(value, (*_COMMON, *_ANSWERS))
    name, at, radius = str(value["attack"]).rpartition("@")
    try:
        epsilon = float(radius) if at else None
    except ValueError:  # an @ in a name of one's own
        epsilon = None
    if epsilon is None:
        return {**common, "words": _chosen(value, _WORDS)}
    point = {"text": value["original"], **_chosen(value, ("context", "tokens"))}
    return {**common, "attack": name, "epsilon": epsilon, "point": point}


def _image(value: Mapping[str, Any], where: str) -> dict[str, Any]:
    common = ("id", "attack", "label", "outcome")
    rest = {"confidence", "survives_8_bit", "zero_gradient", *_POINT}
    _check(value, {*common, *_IMAGE, *rest}, set(), where)
    if type(value["zero_gradient"]) is not bool:
        raise UserError(f"{where}: zero_gradient is {value['zero_gradient']!r:.40}, not bool.")
    blind = {"first_gradient": 0.0} if value["zero_gradient"] else {}
    point = {**_chosen(value, (*_POINT, "survives_8_bit")), **blind}
    return {
        **_chosen(value, common),
        "example": value["pixels"],
        "prediction": value["clean_answer"],
        "confidence": value["clean_confidence"],
        "adversarial_prediction": value["answer"],
        "adversarial_confidence": value["confidence"],
        "point": point,
    }


def _outcome(name: Any, where: str) -> str:
    if name not in OUTCOMES:
        raise UserError(f"{where}: the outcome is {name!r:.40}; it must be {', '.join(OUTCOMES)}.")
    return OUTCOMES[name]


def _check(value: Mapping[str, Any], known: set[str], optional: set[str], where: str) -> None:
    required = known - optional
    for what, names in (("no", required - value.keys()), ("an unknown", value.keys() - known)):
        if names:
            raise UserError(
                f"{where}: {what} field {', '.join(sorted(names))}; name a file of records that "
                "nlp_adv wrote."
            )


def _chosen(value: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value[name] for name in names if name in value}
