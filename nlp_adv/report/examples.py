"""Some texts of each attack, drawn by a rule and not by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nlp_adv.report.content import ModelResult, Report
from nlp_adv.report.standing import moves_text, records_under
from nlp_adv.report.word_diff import Piece, word_diff
from nlp_adv.robustness.record import Record, Substitution

SUCCESSES, FAILURES = 5, 2


@dataclass(frozen=True)
class Example:
    """One attacked text: the model, the record, and both texts as one."""

    model: ModelResult
    record: Record
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Examples:
    """Texts of one attack.

    Args:
        attack: its name.
        moves_text: False where no text of it ever differs: an attack on embeddings.
        shown: successes first, then failures.
        successes, failures: how many there were.
    """

    attack: str
    moves_text: bool
    shown: tuple[Example, ...]
    successes: int
    failures: int


def examples_of(report: Report, attack: str) -> Examples:
    """Up to five successes and two failures, evenly spaced in the data, the models in turn."""
    pairs = [
        (place, record)
        for place, model in enumerate(report.models)
        for record in records_under(model.records, attack)
    ]
    succeeded = [pair for pair in pairs if pair[1].outcome == "fooled"]
    failed = [pair for pair in pairs if pair[1].outcome == "robust"]
    moves = moves_text([record for _, record in pairs])
    turns = len(report.models)
    chosen = [*_drawn(succeeded, turns, SUCCESSES), *_drawn(failed, turns, FAILURES)]
    return Examples(
        attack=attack,
        moves_text=moves,
        shown=tuple(
            Example(report.models[place], record, _pieces(record))
            for place, record in (chosen if moves else [])
        ),
        successes=len(succeeded),
        failures=len(failed),
    )


def _pieces(record: Record) -> tuple[Piece, ...]:
    assert isinstance(record.found, Substitution)
    return tuple(word_diff(record.found.original, record.found.adversarial))


def _drawn(
    pairs: Sequence[tuple[int, Record]], models: int, count: int
) -> list[tuple[int, Record]]:
    """The middle of each of `count` equal stretches of the ids, from the models in turn."""
    ids = sorted({record.id for _, record in pairs})
    count = min(count, len(ids))
    chosen = []
    for i in range(count):
        wanted = ids[(2 * i + 1) * len(ids) // (2 * count)]
        of_text = [pair for pair in pairs if pair[1].id == wanted]
        chosen.append(min(of_text, key=lambda pair: (pair[0] - i) % models))
    return chosen
