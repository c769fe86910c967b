"""Attacked texts, drawn by a rule and not by hand: what was taken out and what was put in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nlp_adv.report.cells import number, percent
from nlp_adv.report.charts import moves_text
from nlp_adv.report.content import ModelResult, Report
from nlp_adv.report.document import Part, Section
from nlp_adv.report.page import rendered
from nlp_adv.report.word_diff import Piece, shortened, word_diff
from nlp_adv.robustness.record import Record, Substitution

FOOLED, ROBUST = 5, 2

_Pair = tuple[int, Record]  # place of the model, and what was done to it


@dataclass(frozen=True)
class Example:
    """One attacked text: the model, the record, and both texts as one."""

    model: ModelResult
    record: Record

    @property
    def found(self) -> Substitution:
        """What the attack did."""
        assert isinstance(self.record.found, Substitution)
        return self.record.found

    @property
    def cost(self) -> str:
        """What it took."""
        words = f"{number(self.found.words_changed)} of {number(self.found.words)} words"
        return f"{words}, {number(self.found.queries)} queries"

    @property
    def shown(self) -> list[Piece]:
        """Both texts without long unchanged stretches."""
        return shortened(word_diff(self.found.original, self.found.adversarial))


@dataclass(frozen=True)
class WordExhibit:
    """Word diffs of attacks on words.

    Args:
        attacks: their titles.
    """

    attacks: Sequence[str]

    def sections(self, report: Report) -> list[Section]:
        """Examples of each attack, and one line for those that change no text."""
        moving = [attack for attack in self.attacks if moves_text(_under(report, attack))]
        groups = {attack: examples_of(report, attack) for attack in moving}
        examples = rendered(
            "words.html.j2",
            groups={attack: some for attack, some in groups.items() if some},
            unmoved=[attack for attack in self.attacks if attack not in moving],
            textless=[attack for attack, some in groups.items() if not some],
            answers=lambda record: _answers(report, record),
            label=report.label,
        )
        return [Section("examples", "Examples", "Examples", [Part("html", examples)])]

    def files(self, report: Report) -> Mapping[str, Callable[[Path], None]]:
        """None: the texts stand in the records."""
        return {}


def examples_of(report: Report, attack: str) -> list[Example]:
    """Up to five fooled and two robust, evenly spaced in the data, the models in turn.

    None of an attack by which no text differs, since it moves embeddings or changed nothing, nor of
    records without their texts.
    """
    pairs = [
        (place, record)
        for place, model in enumerate(report.models)
        for record in model.under(attack)
        if record.text
    ]
    if not moves_text([record for _, record in pairs]):
        return []
    turns = len(report.models)
    fooled = [pair for pair in pairs if pair[1].outcome == "fooled"]
    robust = [pair for pair in pairs if pair[1].outcome == "robust"]
    chosen = [*_drawn(fooled, turns, FOOLED), *_drawn(robust, turns, ROBUST)]
    return [Example(report.models[place], record) for place, record in chosen]


def _under(report: Report, attack: str) -> list[Record]:
    return [record for model in report.models for record in model.under(attack)]


def _drawn(pairs: Sequence[_Pair], models: int, count: int) -> list[_Pair]:
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
