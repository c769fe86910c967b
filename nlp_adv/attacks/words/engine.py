"""Drives the searches of many examples at once and answers what they ask in batches."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

import torch

from nlp_adv.attacks.words.constraints import Constraints
from nlp_adv.attacks.words.encoding import Splicer, Template
from nlp_adv.attacks.words.example import (
    Answer,
    Example,
    Goal,
    GradientRequest,
    LogitsRequest,
    Request,
    Steps,
)
from nlp_adv.attacks.words.own_functions import OwnFunction
from nlp_adv.attacks.words.protocols import Part
from nlp_adv.attacks.words.protocols import Protocol as AttackProtocol
from nlp_adv.attacks.words.result import Outcome, WordResult
from nlp_adv.attacks.words.victim import Victim
from nlp_adv.attacks.words.words import Segmenter, Words
from nlp_adv.errors import UserError
from nlp_adv.perturbation.evaluating import evaluating

LIVE = 256  # examples under attack at once: enough to fill batches, few enough to hold in memory

# Answers to all requests of one kind, in their order.
Oracle = Callable[[list[Any]], Sequence[Any]]


class Attack(Protocol):
    """A search over one example; a frozen dataclass whose fields are its configuration."""

    @property
    def name(self) -> str:
        """As on the command line and in records."""
        ...

    def search(self, example: Example) -> Steps[Answer]:
        """From the original, which the model gets right, to the best variant found."""
        ...


def attacked_column(columns: Sequence[str], part: Part) -> str:
    """The text column of which attacks change the words."""
    return columns[0] if part == "first" else columns[-1]


@dataclass(frozen=True)
class Text:
    """What is attacked.

    Args:
        id: its number in the data.
        text: the attacked text.
        label: the right class.
        context: the other text of a pair.
    """

    id: int
    text: str
    label: int
    context: str | None = None

    @classmethod
    def of_rows(
        cls, rows: Any, columns: Sequence[str], labels: Sequence[int], part: Part
    ) -> list[Text]:
        """Rows of a data set, numbered.

        Args:
            rows: a mapping from columns to their texts.
            columns: one, or two of pairs.
            labels: the right class of each.
            part: the attacked text of a pair.
        """
        mine, other = rows[attacked_column(columns, part)][:], [None] * len(labels)
        if len(columns) == 2:
            other = rows[columns[part == "first"]][:]
        return list(map(cls, range(len(labels)), mine, labels, other))


@dataclass
class Engine:
    """A model, a protocol and what answers the requests of searches.

    Args:
        victim: the attacked model.
        splicer: its tokenizer.
        constraints: of the protocol.
        oracles: request type → what answers it, besides the victim.
        target: the class of a targeted attack; None for any wrong answer.
        goal: one's own instead of either.
        segmenter: finds the words of texts without spaces; None takes runs of letters.
        seed: of all random numbers.
        live: examples under attack at once.
        unspliced: texts so far that had to be tokenized whole.
    """

    victim: Victim
    splicer: Splicer
    constraints: Constraints
    oracles: Mapping[type, Oracle] = field(default_factory=dict)
    target: int | None = None
    goal: OwnFunction | None = None
    segmenter: Segmenter | None = None
    seed: int = 0
    live: int = LIVE
    unspliced: int = 0

    @property
    def protocol(self) -> AttackProtocol:
        """The numbers."""
        return self.constraints.protocol

    def try_functions(self, texts: Sequence[Text]) -> None:
        """Ask the user's functions about some texts, so that bad ones are refused at once.

        Raises:
            UserError: one fails, or answers with something else than it should.
        """
        words, again = ([Words.of(text.text, self.segmenter) for text in texts] for _ in range(2))
        for one, other in zip(words, again, strict=True):
            if one != other:
                raise UserError(
                    f"The segmenter parts {one.text!r:.60} in two ways, one time and the next, so "
                    f"that its numbers could not be had again: take the randomness out of it."
                )
        for one in words[:1]:
            self.constraints.permitted(one, words)
        if self.goal is not None and texts:
            rows = self.splicer.whole([(text.text, text.context) for text in texts])
            with evaluating(self.victim.model):
                Goal(None, self.goal).judged(self.victim.logits(rows), 0, texts[0].text)

    def run(self, attack: Attack, texts: Iterable[Text]) -> Iterator[WordResult]:
        """Attack all texts; results come as examples are finished.

        What comes of an example depends on nothing but the model, the attack, the protocol, the
        seed and the example: not on the others, their order or the size of batches, up to the
        rounding of the model's arithmetic.
        """
        oracles = self._oracles()
        waiting = iter(texts)
        live: dict[int, tuple[Steps[WordResult], Request]] = {}
        with evaluating(self.victim.model):
            while True:
                for example in self._examples(attack, islice(waiting, self.live - len(live))):
                    steps = self._attacked(attack, example)
                    finished = _advance(live, example.id, steps, None)
                    if finished is not None:
                        yield finished
                if not live:
                    return
                for number, answer in _answers(live, oracles):
                    finished = _advance(live, number, live.pop(number)[0], answer)
                    if finished is not None:
                        yield finished

    def _oracles(self) -> dict[type, Oracle]:
        def logits(requests: list[LogitsRequest]) -> Sequence[torch.Tensor]:
            rows = [row for request in requests for row in request.rows]
            return torch.split(self.victim.logits(rows), [len(r.rows) for r in requests])

        def gradients(requests: list[GradientRequest]) -> Sequence[torch.Tensor]:
            rows, labels = [r.row for r in requests], [r.label for r in requests]
            return self.victim.gradients(rows, labels)

        return {LogitsRequest: logits, GradientRequest: gradients, **self.oracles}

    def _examples(self, attack: Attack, texts: Iterable[Text]) -> list[Example]:
        chosen = list(texts)
        if not chosen:
            return []
        parts = [(Words.of(text.text, self.segmenter), text.context) for text in chosen]
        templates = self.splicer.templates(parts)
        self.unspliced += sum(not template.splices for template in templates)
        pairs = zip(chosen, templates, strict=True)
        return [self._example(attack, text, template) for text, template in pairs]

    def _example(self, attack: Attack, text: Text, template: Template) -> Example:
        return Example(
            id=text.id,
            template=template,
            label=text.label,
            goal=Goal(self.target, self.goal),
            protocol=self.protocol,
            constraints=self.constraints,
            rng=random.Random(self.seed_of(attack, text)),
        )

    def seed_of(self, attack: Attack, text: Text) -> int:
        """Random numbers belong to the example: to no order, batch or shard."""
        key = f"{self.seed}/{attack.name}/{self.protocol.hash()}/{text.id}"
        return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")

    def _attacked(self, attack: Attack, example: Example) -> Steps[WordResult]:
        while True:
            state = example.rng.getstate()
            (original,) = yield from example.ask([example.words])
            example.original = original
            if original.prediction != example.label or original.succeeded:
                return _result(attack, example, original, "wrong")
            found = yield from attack.search(example)
            if example.template.splices and not example.template.holds_for(found.words):
                # The spliced ids were not the tokenizer's: once more, tokenized whole.
                self.unspliced += 1
                example.rng.setstate(state)
                example.start_over()
                continue
            return _result(attack, example, found, "fooled" if found.succeeded else "robust")


def _advance(
    live: dict[int, tuple[Steps[WordResult], Request]],
    number: int,
    steps: Steps[WordResult],
    answer: Any,
) -> WordResult | None:
    """Run a search up to its next request, or to its end."""
    try:
        live[number] = (steps, steps.send(answer))
    except StopIteration as end:
        found: WordResult = end.value
        return found
    return None


def _answers(
    live: Mapping[int, tuple[Steps[WordResult], Request]], oracles: Mapping[type, Oracle]
) -> list[tuple[int, Any]]:
    """Number of the example and answer, for all requests, those of one kind together."""
    kinds: dict[type, list[int]] = {}
    for number, (_, request) in live.items():
        kinds.setdefault(type(request), []).append(number)
    answered: list[tuple[int, Any]] = []
    for kind, numbers in kinds.items():
        answers = oracles[kind]([live[number][1] for number in numbers])
        answered += zip(numbers, answers, strict=True)
    return answered


def _result(attack: Attack, example: Example, found: Answer, outcome: Outcome) -> WordResult:
    original = example.original
    assert original is not None
    return WordResult(
        id=example.id,
        attack=attack.name,
        original=example.words.text,
        adversarial=found.words.text,
        context=example.template.context,
        label=example.label,
        prediction=original.prediction,
        adversarial_prediction=found.prediction,
        outcome=outcome,
        queries=example.queries,
        forwards=example.forwards,
        tokens=example.tokens,
        words=len(example.words),
        words_changed=len(example.words.changed(found.words)),
        confidence=_confidence(original),
        adversarial_confidence=_confidence(found),
        budget_stopped=example.spent and not found.succeeded,
    )


def _confidence(answer: Answer) -> float:
    return float(answer.logits.softmax(0).max())
