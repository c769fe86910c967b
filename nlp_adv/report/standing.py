"""Which texts a model answers rightly: without attack, under one, under all on the text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nlp_adv.report.content import ModelResult
from nlp_adv.robustness.record import Record, Substitution
from nlp_adv.robustness.statistics import Share, worst_case

CLEAN, WORST = "clean", "worst case"


def records_under(records: Sequence[Record], attack: str) -> list[Record]:
    """Those of one attack."""
    return [record for record in records if record.title == attack]


def moves_text(records: Sequence[Record]) -> bool:
    """Whether any of the texts differs from its original."""
    found = [record.found for record in records]
    return any(isinstance(one, Substitution) and one.adversarial != one.original for one in found)


def combined(attacks: Sequence[str]) -> list[str]:
    """Those that the worst case is over.

    Texts and embeddings are not put together: any radius large enough would decide the worst case.
    """
    return [attack for attack in attacks if "@" not in attack]


def standing(records: Sequence[Record], measure: str, attacks: Sequence[str]) -> dict[int, bool]:
    """id → whether the model answers rightly; empty where that was not measured."""
    if measure == CLEAN:
        return {record.id: record.attacked for record in records}
    if measure != WORST:
        return {r.id: r.outcome == "robust" for r in records if r.title == measure}
    attacks = combined(attacks)
    # A text that one attack never saw has no worst case; a model that one never saw, neither.
    ids = [{record.id for record in records if record.title == attack} for attack in attacks]
    common = set.intersection(*ids) if ids else set()
    return (
        worst_case(
            [record for record in records if record.id in common and record.title in attacks]
        )
        if common
        else {}
    )


def share_of(model: ModelResult, measure: str, attacks: Sequence[str]) -> Share | None:
    """One model's right answers by one measure; None where it was not measured."""
    right = standing(model.records, measure, attacks)
    return share(right) if right else None


def share(right: Mapping[int, bool]) -> Share:
    """So many of them."""
    return Share(sum(right.values()), len(right))
