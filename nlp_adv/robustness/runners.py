"""Runners turn any attack into records, one an example and radius.

Attacks on a point (pixels, embeddings, layers) and attacks that replace words have nothing in
common but this: they are given examples, and what comes of each is written down.

"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Protocol

import torch
from torch import Tensor

from nlp_adv.attacks import Ladder, Measured
from nlp_adv.attacks.subject import Batch, Subject
from nlp_adv.attacks.words.encoding import Row, Splicer
from nlp_adv.attacks.words.engine import Attack as WordAttack
from nlp_adv.attacks.words.engine import Engine, Text
from nlp_adv.attacks.words.predictor import asked_again
from nlp_adv.attacks.words.victim import Victim, Work
from nlp_adv.robustness.masking import answers_alike
from nlp_adv.robustness.record import Point, Record, digits_of_pixels, digits_of_text, record_of
from nlp_adv.robustness.store import Store
from nlp_adv.sites.embeddings import EmbeddingSite
from nlp_adv.sites.normalisation import Classifier
from nlp_adv.sites.site import Site

ROWS = 64  # texts in a batch


class Example(Protocol):
    """Anything with a number and a right class."""

    @property
    def id(self) -> int:
        """Its number in the data."""
        ...

    @property
    def label(self) -> int:
        """The right class."""
        ...


class Runner(Protocol):
    """An attack on examples."""

    @property
    def name(self) -> str:
        """In records, without a radius."""
        ...

    @property
    def radii(self) -> Sequence[float | None]:
        """A record each."""
        ...

    @property
    def doubts(self) -> Iterable[str]:
        """What speaks against its numbers, each the end of a sentence about the model."""
        ...

    def wants(self, example: Any) -> bool:
        """Whether it attacks this example."""
        ...

    def portions(self, examples: Sequence[Any]) -> list[list[Any]]:
        """What processes share: examples that are attacked at once, by one of them."""
        ...

    def run(self, portions: Iterable[list[Any]]) -> Iterator[Record]:
        """Attack them; records come as examples are finished."""
        ...


@dataclass(frozen=True)
class WordRunner:
    """An attack that replaces words or characters."""

    engine: Engine
    attack: WordAttack
    radii: Sequence[None] = (None,)
    doubts: Sequence[str] = ()

    @property
    def name(self) -> str:
        """The attack's."""
        return self.attack.name

    def wants(self, example: Any) -> bool:
        """All texts."""
        return True

    def portions(self, examples: Sequence[Text]) -> list[list[Text]]:
        """Texts, one by one: what comes of each is its own, up to rounding."""
        return [[text] for text in examples]

    def run(self, portions: Iterable[list[Text]]) -> Iterator[Record]:
        """Attack texts, many at once."""
        for result in self.engine.run(self.attack, chain.from_iterable(portions)):
            yield record_of(result)


def waiting(store: Store, runner: Runner, examples: Iterable[Any]) -> list[list[Any]]:
    """The portions that a runner wants and has not finished.

    Raises:
        UserError: the store holds others under their numbers.
    """

    def is_left(example: Any) -> bool:
        return any(
            store.find(runner.name, radius, example.id, digits_of(example), example.label) is None
            for radius in runner.radii
        )

    # What is finished leaves its portion, and does not change how the others are put together.
    portions = runner.portions([example for example in examples if runner.wants(example)])
    left = ([example for example in portion if is_left(example)] for portion in portions)
    return [portion for portion in left if portion]


def digits_of(example: Any) -> str:
    """12 hexadecimal digits of what an example holds."""
    if isinstance(example, Picture):
        return example.digits
    return digits_of_text(example.text, example.context)


class Reader(Protocol):
    """What differs between texts and images: how examples become batches, and what is kept."""

    @property
    def subject(self) -> Subject:
        """What is attacked."""
        ...

    def opened(self) -> AbstractContextManager[Any]:
        """Around the attack on a batch."""
        ...

    def portions(self, examples: Sequence[Any]) -> list[list[Any]]:
        """Which examples make a batch, in any order."""
        ...

    def batch(self, examples: Sequence[Any]) -> Batch:
        """Of one portion."""
        ...

    def twice(self, examples: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """The logits (N, C) of two passes over examples, counted nowhere."""
        ...

    def kept(self, example: Any) -> tuple[str, Point]:
        """The digits of an example, and a record's own part that is of the example alone."""
        ...


@dataclass(frozen=True)
class TextReader:
    """Texts at a site of the model.

    Args:
        victim, splicer: the model and its tokenizer.
        site: where δ enters; the word embeddings without.
    """

    victim: Victim
    splicer: Splicer
    site: Site | None = None

    @property
    def subject(self) -> Subject:
        """The victim's model."""
        return Subject(self.victim.model, self.site or EmbeddingSite(self.victim.embedding))

    def opened(self) -> AbstractContextManager[Any]:
        """The model may be of any make."""
        return self.victim.opened()

    def portions(self, examples: Sequence[Text]) -> list[list[Text]]:
        """By length, so that little is padded."""
        rows = self._rows(examples)
        order = sorted(range(len(examples)), key=lambda place: len(rows[place].ids))
        starts = range(0, len(order), ROWS)
        return [[examples[place] for place in order[at : at + ROWS]] for at in starts]

    def batch(self, examples: Sequence[Text]) -> Batch:
        """Padded, with labels."""
        labels = torch.tensor([text.label for text in examples], device=self.victim.device)
        return self.victim.padded(self._rows(examples)) | {"labels": labels}

    def _rows(self, examples: Sequence[Text]) -> list[Row]:
        return self.splicer.whole([(text.text, text.context) for text in examples])

    def twice(self, examples: Sequence[Text]) -> tuple[Tensor, Tensor]:
        """By a victim of its own, which has done nothing yet."""
        rows = self._rows(examples)
        victim = replace(self.victim, work=Work())
        with asked_again(self.victim.model):
            return victim.logits(rows), victim.logits(rows)

    def kept(self, example: Text) -> tuple[str, Point]:
        """The text, and how long it is."""
        (row,) = self._rows([example])
        point = Point(text=example.text, context=example.context, tokens=len(row.ids))
        return digits_of_text(example.text, example.context), point


@dataclass(frozen=True)
class Picture:
    """An image that is attacked.

    Args:
        id: its number in the data.
        x: its pixels in [0, 1].
        label: the right class.
        digits: of its content.
    """

    id: int
    x: Tensor = field(repr=False)
    label: int
    digits: str = ""

    @classmethod
    def batch(cls, ids: Sequence[int], x: Tensor, y: Tensor) -> list[Picture]:
        """Of a batch of images and right classes."""
        digits = digits_of_pixels(x)
        return [cls(*one) for one in zip(ids, x.unbind(), y.tolist(), digits, strict=True)]


@dataclass(frozen=True)
class PictureReader:
    """Images of one shape."""

    model: Classifier

    @property
    def subject(self) -> Subject:
        """The classifier of pixels."""
        return Subject(self.model)

    def opened(self) -> AbstractContextManager[Any]:
        """Nothing is needed."""
        return nullcontext()

    def portions(self, examples: Sequence[Picture]) -> list[list[Picture]]:
        """All of them: they are given batch by batch."""
        return [list(examples)]

    def batch(self, examples: Sequence[Picture]) -> Batch:
        """Images and labels."""
        labels = torch.tensor([picture.label for picture in examples])
        return torch.stack([picture.x for picture in examples]), labels

    def twice(self, examples: Sequence[Picture]) -> tuple[Tensor, Tensor]:
        """In one quiet block: each is left with the random numbers that it began with."""
        batch = self.batch(examples)
        subject = self.subject
        with subject.opened(batch):
            first, second = (subject.rows(batch).look().looked for _ in range(2))
        assert first is not None
        assert second is not None
        return first.cpu(), second.cpu()

    def kept(self, example: Picture) -> tuple[str, Point]:
        """The pixels' hash."""
        return example.digits, Point(survives_8_bit=False)


@dataclass(frozen=True)
class PointRunner:
    """An attack on a point, at some radii.

    Args:
        ladder: the attack.
        reader: of the examples.
        target: class to lead them to; None for any wrong answer.
        chosen: ids of the examples that are attacked; None for all.
        doubts: what speaks against its numbers, filled as it runs.
    """

    ladder: Ladder
    reader: Reader
    target: int | None = None
    chosen: frozenset[int] | None = None
    doubts: dict[str, None] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The ladder's."""
        return self.ladder.name

    @property
    def radii(self) -> Sequence[float | None]:
        """From the smallest up."""
        return self.ladder.radii

    def wants(self, example: Any) -> bool:
        """Whether it is among the chosen."""
        return self.chosen is None or example.id in self.chosen

    def portions(self, examples: Sequence[Any]) -> list[list[Any]]:
        """Batches: what comes of an example is its own, up to the rounding of what is beside it."""
        return self.reader.portions(examples)

    def run(self, portions: Iterable[list[Any]]) -> Iterator[Record]:
        """Attack examples, batch by batch: of each all radii, from the smallest up."""
        found: list[Measured] = []
        subject = self.reader.subject
        for some in portions:
            with self.reader.opened():
                batch = self.reader.batch(some)
                found.append(subject.measure(self.ladder, [batch], target=self.target))
            yield from records_of(found[-1], some, self.reader)
        if found:
            self.doubts.update(dict.fromkeys(doubts_of(Measured.joined(found))))


def doubts_of(found: Measured) -> list[str]:
    """What the accuracies must not be shown without, a sentence each without its subject."""
    random = (
        "answers at random: twice the same rows got different logits, and the longer an attack "
        "looks, the more wrong answers it sees."
    )
    return [*([] if answers_alike(found) else [random]), *found.blindness]


def records_of(found: Measured, examples: Sequence[Any], reader: Reader) -> Iterator[Record]:
    """One record an example and radius, all examples of the smallest radius first.

    Norms are in the unit of ε. Of an example that the model is robust to, the answer under attack
    is that of the last point that was tried.

    Args:
        found: of the examples, in their order.
        examples: what was attacked.
        reader: of them.
    """
    sure = found.clean_confidences.tolist()
    said, right = found.predictions.tolist(), found.right.tolist()
    kept = [reader.kept(example) for example in examples]
    first = found.first_gradients.tolist()
    for place, epsilon in enumerate(found.radii):
        columns = {
            name: getattr(found, name)[:, place].tolist()
            for name in ("fooled", "answers", "confidences", "forwards", "gradient_passes", "l0")
        } | {
            "first_loss": found.first_losses[:, place].tolist(),
            "last_loss": found.last_losses[:, place].tolist(),
            "survives": found.survives_8_bit[:, place].tolist(),
        }
        norms = {
            name: (getattr(found, name)[:, place] / found.units[:, column]).tolist()
            for column, name in enumerate(("l2", "linf", "l1"))
        }
        for row, example in enumerate(examples):
            digits, own = kept[row]
            outcome = "fooled" if columns["fooled"][row] else "robust"
            forwards = columns["forwards"][row]
            yield Record(
                id=example.id,
                attack=found.ladder.name,
                epsilon=epsilon,
                label=example.label,
                prediction=said[row],
                confidence=sure[row],
                adversarial_prediction=columns["answers"][row],
                adversarial_confidence=columns["confidences"][row],
                outcome=outcome if right[row] else "wrong",  # type: ignore[arg-type]
                example=digits,
                forwards=forwards,
                found=replace(
                    own,
                    **{name: values[row] for name, values in norms.items()},
                    l0=float(columns["l0"][row]),
                    gradient_passes=columns["gradient_passes"][row],
                    first_gradient=first[row],
                    first_loss=columns["first_loss"][row],
                    last_loss=columns["last_loss"][row],
                    survives_8_bit=columns["survives"][row] if found.pictures else None,
                    tokens=own.tokens * forwards,
                ),
            )
