"""An evaluation of one model: which run it is, its records, and what they come to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from nlp_adv.attacks.words.protocols import Protocol
from nlp_adv.errors import UserError
from nlp_adv.perturbation import Ball
from nlp_adv.robustness.answers import Answers
from nlp_adv.robustness.check_result import Check
from nlp_adv.robustness.curve import Curve
from nlp_adv.robustness.record import Record
from nlp_adv.robustness.statistics import Share, Summary, summarise, worst_case


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was measured of one model, of texts or of images.

    Args:
        hashes: attack → hash of all that its numbers depend on but model, data and seed.
        model: fingerprint of the weights; None of a function.
        data: fingerprint of the data; "" where the records alone know their examples.
        description: of the data, for people.
        seed: of the draw of examples and of the attacks.
        protocol: of attacks on words.
        settings: what else belongs to this run; one with others does not continue it.
        attacks: attack → what it is, for people.
        target: the class of targeted attacks.
        labels: names of the classes.
        records: one an example, attack and radius.
        within: the ball in which a success counts against the accuracy; any without.
        clean_on_all: right answers and examples, where more than the attacked ones were asked.
        checks: what may speak against these numbers.
        curves: accuracy over ε.
        cost: what it took, in all the parts of a run that was resumed.
        notes: what a reader must know besides.
        details: what was asked for, by name, for people.
        environment: versions and hardware.
        name: of the model; "" where nobody named it.
        shard: which part of the examples these records are of, such as "2/8"; None for all.
        texts: how many all of them are.
        training: how the model was trained, as the file beside it says; empty where none does.
    """

    hashes: Mapping[str, str]
    model: str | None
    data: str = ""
    description: str = ""
    seed: int | None = None
    protocol: Protocol | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    attacks: Mapping[str, str] = field(default_factory=dict)
    target: int | None = None
    labels: tuple[str, ...] = ()
    records: Sequence[Record] = ()
    within: Ball | None = None
    clean_on_all: tuple[int, int] | None = None
    checks: Sequence[Check] = ()
    curves: Sequence[Curve] = ()
    cost: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    name: str = ""
    shard: str | None = None
    texts: int | None = None
    training: Mapping[str, Any] = field(default_factory=dict)

    def of(self, title: str) -> list[Record]:
        """The records of one attack at one radius, by its title."""
        return [record for record in self.records if record.title == title]

    @cached_property
    def titles(self) -> tuple[str, ...]:
        """Of the attacks, each with its radius, in the order of the records."""
        return tuple(dict.fromkeys(record.title for record in self.records))

    @cached_property
    def summaries(self) -> dict[str, Summary]:
        """Title → what its records come to.

        Raises:
            UserError: records contradict themselves.
        """
        return {title: summarise(self.of(title), self.within) for title in self.titles}

    @property
    def ids(self) -> tuple[int, ...]:
        """Of all examples, ascending."""
        return tuple(sorted({record.id for record in self.records}))

    @property
    def examples(self) -> int:
        """N."""
        return len(self.ids)

    @property
    def clean(self) -> Share:
        """Right without attack, of all examples that any attack was run on."""
        right = {record.id: record.attacked for record in self.records}
        return Share(sum(right.values()), len(right))

    @property
    def worst_case(self) -> Share:
        """Right under every attack: at most the accuracy under any of them.

        Raises:
            UserError: as `robust`.
        """
        return Share(sum(self.robust().values()), self.examples)

    def robust(self) -> dict[int, bool]:
        """Example id → whether the model is robust to every attack.

        Raises:
            UserError: there are no records, or the attacks were not run on the same examples.
        """
        if not self.records:
            raise UserError("There are no records; attack at least one example.")
        return worst_case(self.records, self.within)

    @property
    def answers(self) -> Answers:
        """The most frequent answer without attack, and the most frequent label."""
        return Answers.of_records(self.records)

    @property
    def is_constant(self) -> bool:
        """Whether every answer without attack is the same: then nothing was learnt."""
        return self.examples > 1 and len({record.prediction for record in self.records}) == 1

    @property
    def unanswered(self) -> int:
        """Examples whose logits without attack are no finite numbers, which count as wrong."""
        return len({one.id for one in self.records if math.isnan(one.confidence)})
