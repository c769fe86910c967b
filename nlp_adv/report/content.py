"""What a report is made of: the measurements, and all that a reader needs to judge them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from nlp_adv.errors import UserError
from nlp_adv.perturbation import Ball
from nlp_adv.perturbation.evaluating import NO_CLASS
from nlp_adv.robustness.check_result import Check
from nlp_adv.robustness.curve import Curve
from nlp_adv.robustness.evaluated import Evaluation
from nlp_adv.robustness.record import Record
from nlp_adv.robustness.statistics import Share, Summary, summarise

if TYPE_CHECKING:
    from nlp_adv.report.document import Section

Metric = Literal["clean", "under attack", "success", "words changed", "queries"]


@dataclass(frozen=True, kw_only=True)
class ModelResult:
    """One trained model and all that was measured of it.

    Args:
        name: of the method; results of equal name are the seeds of one method.
        seed: of the training.
        records: of all attacks, one an example and attack.
        checks: of this model.
        clean: accuracy on all test texts, where more were tested than attacked.
        cost: of the evaluation: "seconds", "forwards", "tokens" or others.
        curves: of attacks on embeddings.
        description: how it was trained.
        within: the ball in which a success counts against the accuracy; any without.
        plain: it was trained without perturbation, and helps to draw the curve of plain training,
            beside which the others are shown.
    """

    name: str
    seed: int | None = None
    records: Sequence[Record]
    checks: Sequence[Check] = ()
    clean: Share | None = None
    cost: Mapping[str, float] = field(default_factory=dict)
    curves: Sequence[Curve] = ()
    description: Mapping[str, Any] = field(default_factory=dict)
    within: Ball | None = None
    plain: bool = False

    @property
    def of_images(self) -> bool:
        """Whether its examples are images, and not texts."""
        return any(record.text is None for record in self.records)

    @property
    def title(self) -> str:
        """The method, and the seed where there is one."""
        return self.name if self.seed is None else f"{self.name}, seed {self.seed}"

    def under(self, attack: str) -> list[Record]:
        """The records of one attack, by its title."""
        return [record for record in self.records if record.title == attack]

    @cached_property
    def summaries(self) -> dict[str, Summary]:
        """Title of each attack → what its records come to."""
        titles = dict.fromkeys(record.title for record in self.records)
        return {title: summarise(self.under(title), self.within) for title in titles}

    @classmethod
    def of(
        cls,
        evaluation: Evaluation,
        name: str,
        seed: int | None = None,
        description: Mapping[str, Any] | None = None,
        *,
        plain: bool = False,
    ) -> ModelResult:
        """As a report shows an evaluation.

        Args:
            evaluation: what was measured.
            name: of the method that trained the model.
            seed: of its training.
            description: of its training.
            plain: it was trained without perturbation.
        """
        copied = ("records", "checks", "cost", "curves", "within")
        clean = evaluation.clean_on_all
        return cls(
            name=name,
            seed=seed,
            clean=None if clean is None else Share(*clean),
            description=description or {},
            plain=plain,
            **{field: getattr(evaluation, field) for field in copied},
        )


@dataclass(frozen=True, kw_only=True)
class PublishedValue:
    """A number from the literature, to stand beside ours.

    Args:
        method, attack: as this report names them; the attack of a clean accuracy is "".
        metric: what was measured.
        value: as printed: in percent, or a number of queries.
        spread: as printed behind ±, in the same unit.
        source: the paper and its table.
        verified: whether the value was read in the paper itself.
    """

    method: str
    attack: str
    metric: Metric
    value: float
    spread: float | None = None
    source: str
    verified: bool

    def __post_init__(self) -> None:
        if self.metric not in get_args(Metric):
            raise UserError(
                f"A published value cannot be of {self.metric!r}; choose from "
                f"{', '.join(get_args(Metric))}."
            )


class Exhibit(Protocol):
    """Some attacked examples, as people see them; a file a modality."""

    def sections(self, report: Report) -> list[Section]:
        """What it adds to the page."""
        ...

    def files(self, report: Report) -> Mapping[str, Callable[[Path], None]]:
        """Name → what draws that picture beside the page."""
        ...


@dataclass(frozen=True, kw_only=True)
class Report:
    """One evaluation of some models under one protocol.

    Args:
        title: of the page.
        protocol: all its fields; of images what was asked for.
        protocol_hash: of these and of the resources in use.
        data: which examples were attacked.
        seed: by which they were drawn.
        models: in the order to show; the first one's method is the baseline.
        published: values to compare with.
        primary: (method, attack) of the comparisons that were named before the run: p-values and
            marks are of these alone. Without any they are of all.
        commands: that make these numbers again.
        environment: name → version or kind of what it ran on.
        labels: names of the classes, in order; without them, classes are shown as numbers.
        notes: what a reader must know besides, a sentence each.
        target: class that the attacks lead to; None for any wrong answer.
        exhibit: what is shown of single examples; of texts, what their records hold.
    """

    title: str
    protocol: Mapping[str, Any]
    protocol_hash: str
    data: str
    seed: int | None = None
    models: Sequence[ModelResult]
    published: Sequence[PublishedValue] = ()
    primary: Sequence[tuple[str, str]] = ()
    commands: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    labels: Sequence[str] = ()
    notes: Sequence[str] = ()
    target: int | None = None
    exhibit: Exhibit | None = None

    @property
    def of_images(self) -> bool:
        """Whether the examples are images, and not texts."""
        return any(model.of_images for model in self.models)

    @property
    def noun(self) -> str:
        """What one example is."""
        return "image" if self.of_images else "text"

    def methods(self) -> dict[str, list[ModelResult]]:
        """Name → its seeds, the baseline first."""
        names = dict.fromkeys(model.name for model in self.models)
        return {name: [model for model in self.models if model.name == name] for name in names}

    def label(self, number: int) -> str:
        """The name of a class."""
        return class_name(number, self.labels)


def class_name(number: int, names: Sequence[str]) -> str:
    """The name of a class, or its number; “no class” for logits that name none."""
    if number == NO_CLASS:
        return "no class"
    return names[number] if 0 <= number < len(names) else str(number)
