"""What must be alike in models that stand in one table: their texts, and what one ε means."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence

from nlp_adv.errors import UserError
from nlp_adv.perturbation import Per
from nlp_adv.perturbation.units import token_share
from nlp_adv.report.content import ModelResult
from nlp_adv.robustness.record import Record

_LENGTHS = 1.25  # times as many tokens may a text have in another column; a quarter by tokenizer
# As attacks on embeddings are titled, whose radius stands behind the @.
_TITLE = re.compile(r".*-(l1|l2|linf)(-token)?(-absolute|-per_coordinate)?@([^@]+)")


def check_same_texts(models: Sequence[ModelResult]) -> None:
    """Under one attack an id is one text for all models.

    Raises:
        UserError: two models have different texts or labels under one id.
    """
    seen: dict[tuple[str, int], Record] = {}
    noun = "image" if any(model.of_images for model in models) else "text"
    for model in models:
        for record in model.records:
            if not _same(seen.setdefault((record.title, record.id), record), record):
                raise UserError(
                    f"Example {record.id} of {model.name} is not the {noun} or has not the label "
                    f"that it has elsewhere: only models that were attacked on the same {noun}s "
                    f"are compared; write a report of each data set."
                )


def _same(one: Record, other: Record) -> bool:
    """By their texts but for case and blanks; by digits where one of them has no text left."""
    texts = [(record.text or "").casefold().split() for record in (one, other)]
    if not all(texts):
        texts = [[record.example] for record in (one, other)]
    return texts[0] == texts[1] and one.label == other.label


def check_same_threat(models: Sequence[ModelResult]) -> None:
    """Texts attacked at one ε on the embeddings are about as long for every model.

    Raises:
        UserError: ε depends on the length, and the median numbers of tokens are far apart.
    """
    first: dict[str, tuple[float, str]] = {}
    for model in models:
        for attack in filter(grows, dict.fromkeys(record.title for record in model.records)):
            length = median_tokens(model.records, attack)
            other, name = first.setdefault(attack, (length, model.name))
            if max(length, other) > _LENGTHS * min(length, other):
                raise UserError(
                    f"{attack} is another threat to {name}, whose texts have {other:g} tokens in "
                    f"the median, than to {model.name}, with {length:g}: a relative ε allows more "
                    f"in a longer text; write a report of each."
                )


def grows(attack: str) -> bool:
    """Whether the same ε allows more in a longer text, as the attack's name says."""
    named = _TITLE.fullmatch(attack)
    return bool(named and named[1] != "linf" and not named[2] and named[3] != "-absolute")


def share_of_a_token(records: Sequence[Record], attack: str) -> float | None:
    """How far the attack may move one token, as a share of a token's norm, at the median length.

    None where the attack is not on embeddings, its ε is not relative, or it is in no record.
    """
    named = _TITLE.fullmatch(attack)
    if not named or named[3] or not any(record.title == attack for record in records):
        return None
    per: Per = "token" if named[2] else "example"
    return token_share(float(named[4]), median_tokens(records, attack), norm=named[1], per=per)


def median_tokens(records: Sequence[Record], attack: str) -> float:
    """The median number of tokens of a text; a record counts those of all its forward passes."""
    return statistics.median(
        r.found.tokens / max(1, r.forwards) for r in records if r.title == attack
    )
