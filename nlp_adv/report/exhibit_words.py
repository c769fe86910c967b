"""Attacked texts, drawn by a rule and not by hand: what was taken out and what was put in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from nlp_adv.report.cells import number, percent
from nlp_adv.report.content import ModelResult, Report
from nlp_adv.report.standing import moves_text, records_under
from nlp_adv.report.templates import rendered
from nlp_adv.report.word_diff import Piece, shortened, word_diff
from nlp_adv.robustness.record import Record, Substitution

FOOLED, ROBUST = 5, 2


@dataclass(frozen=True)
class Example:
    """One attacked text: the model, the record, and both texts as one."""

    model: ModelResult
    record: Record
    pieces: tuple[Piece, ...]

    @property
    def fooled(self) -> bool:
        """Whether the attack succeeded."""
        return self.record.outcome == "fooled"

    @property
    def cost(self) -> str:
        """What it took."""
        found = self.record.found
        assert isinstance(found, Substitution)
        words = f"{number(found.words_changed)} of {number(found.words)} words"
        return f"{words}, {number(found.queries)} queries"

    @property
    def shown(self) -> list[Piece]:
        """Both texts without long unchanged stretches."""
        return shortened(self.pieces)


@dataclass(frozen=True)
class Examples:
    """Texts of one attack: the fooled first, and how many of these there were."""

    attack: str
    shown: tuple[Example, ...]
    fooled: int


@dataclass(frozen=True)
class WordExhibit:
    """Word diffs of attacks on words.

    Args:
        attacks: their titles.
    """

    attacks: Sequence[str]
    sections: tuple[tuple[str, str], ...] = (("examples", "Examples"),)

    def html(self, report: Report) -> Markup:
        """Examples of each attack, and one line for those that change no text."""
        groups = {attack: examples_of(report, attack) for attack in self.attacks}
        return rendered(
            "words.html.j2",
            groups=[group for group in groups.values() if group is not None],
            unmoved=[attack for attack, group in groups.items() if group is None],
            answers=lambda record: _answers(report, record),
            label=report.label,
        )

    def files(self, report: Report) -> Mapping[str, Callable[[Path], None]]:
        """None: the texts stand in the records."""
        return {}


def examples_of(report: Report, attack: str) -> Examples | None:
    """Up to five fooled and two robust, evenly spaced in the data, the models in turn.

    None of an attack by which no text differs: it moves embeddings, or changed nothing.
    """
    pairs = [
        (place, record)
        for place, model in enumerate(report.models)
        for record in records_under(model.records, attack)
    ]
    if not moves_text([record for _, record in pairs]):
        return None
    turns = len(report.models)
    fooled = [pair for pair in pairs if pair[1].outcome == "fooled"]
    robust = [pair for pair in pairs if pair[1].outcome == "robust"]
    chosen = [*_drawn(fooled, turns, FOOLED), *_drawn(robust, turns, ROBUST)]
    shown = [Example(report.models[place], record, _pieces(record)) for place, record in chosen]
    return Examples(attack, tuple(shown), len(fooled))


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


def _answers(report: Report, record: Record) -> str:
    before, after = report.label(record.prediction), report.label(record.adversarial_prediction)
    sure = [percent(one) for one in (record.confidence, record.adversarial_confidence)]
    return f"{before} ({sure[0]} %) → {after} ({sure[1]} %)"
