"""Which examples a model answers rightly: without attack, under one, under all together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nlp_adv.report.content import ModelResult
from nlp_adv.robustness.record import Record, Substitution
from nlp_adv.robustness.statistics import Share, is_robust, worst_case

CLEAN, WORST = "clean", "worst case"


def records_under(records: Sequence[Record], attack: str) -> list[Record]:
    """Those of one attack."""
    return [record for record in records if record.title == attack]


def moves_text(records: Sequence[Record]) -> bool:
    """Whether any of the texts differs from its original."""
    found = [record.found for record in records]
    return any(isinstance(one, Substitution) and one.adversarial != one.original for one in found)


def combined(models: Sequence[ModelResult]) -> list[str]:
    """Titles of the attacks that the worst case is over: on words, or on pixels.

    Texts and embeddings are not put together: any radius large enough would decide the worst case.
    """
    records = (record for model in models for record in model.records)
    together = (one.title for one in records if one.changes_text or one.text is None)
    return list(dict.fromkeys(together))


def standing(model: ModelResult, measure: str, together: Sequence[str]) -> dict[int, bool]:
    """id → whether the model answers rightly; empty where that was not measured.

    Args:
        model: with its records.
        measure: `CLEAN`, `WORST` or an attack's title.
        together: the attacks that the worst case is over.
    """
    records = model.records
    if measure == CLEAN:
        return {record.id: record.attacked for record in records}
    if measure != WORST:
        return {r.id: is_robust(r, model.within) for r in records if r.title == measure}
    # An example that one attack never saw has no worst case; a model that one never saw, neither.
    ids = [{record.id for record in records if record.title == attack} for attack in together]
    common = set.intersection(*ids) if ids else set()
    chosen = [one for one in records if one.id in common and one.title in together]
    return worst_case(chosen, model.within) if common else {}


def share_of(model: ModelResult, measure: str, together: Sequence[str]) -> Share | None:
    """One model's right answers by one measure; None where it was not measured."""
    right = standing(model, measure, together)
    return share(right) if right else None


def share(right: Mapping[int, bool]) -> Share:
    """So many of them."""
    return Share(sum(right.values()), len(right))
