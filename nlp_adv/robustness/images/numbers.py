"""What records of image attacks come to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import torch

from nlp_adv.errors import UserError
from nlp_adv.perturbation import Ball
from nlp_adv.robustness.answers import Answers
from nlp_adv.robustness.images.records import ImageRecord
from nlp_adv.robustness.statistics import Share

_ROUNDING = 1e-6  # by which a δ on the surface of a ball may be longer than ε


@dataclass(frozen=True, kw_only=True)
class ImageSummary:
    """One attack on one model; norms are means over the fooled, nan without any.

    Args:
        attack: its name.
        examples: N, all of them.
        clean: right without attack.
        under_attack: right whatever the attack did in the ball.
        success: fallen in the ball, of those that were right without attack.
        fooled: fallen in the ball or outside, of the same.
        fooled_8_bit: those that are still fooled after rounding to 256 levels, of the same.
        l2, linf, l1, l0: of δ.
        gradient_passes: mean over attacked images.
        zero_gradients: whose first gradient was 0, of those attacked.
    """

    attack: str
    examples: int
    clean: Share
    under_attack: Share
    success: Share
    fooled: Share
    fooled_8_bit: Share
    l2: float
    linf: float
    l1: float
    l0: float
    gradient_passes: float
    zero_gradients: Share


def summarise_images(records: Sequence[ImageRecord], within: Ball | None = None) -> ImageSummary:
    """Count one attack's records, and check that Aua = Clean·(1 − Suc), exactly.

    Args:
        records: of one attack.
        within: the ball in which a success counts against the accuracy; any without.

    Raises:
        UserError: there are none, they are of several attacks, or an outcome contradicts the
            answers.
    """
    names = {record.attack for record in records}
    if len(names) != 1:
        raise UserError(f"Records of one attack are needed, not of {len(names)}.")
    attacked = [record for record in records if record.outcome != "skipped"]
    fooled = [record for record in records if record.outcome == "succeeded"]
    for record in attacked:
        if record.clean_answer != record.label:
            raise UserError(
                f"Image {record.id} of {record.attack} counts as attacked ({record.outcome}), but "
                f"was wrong without attack; such a record must be skipped."
            )
    standing = sum(stands(record, within) for record in records)
    found = ImageSummary(
        attack=names.pop(),
        examples=len(records),
        clean=Share(len(attacked), len(records)),
        under_attack=Share(standing, len(records)),
        success=Share(len(attacked) - standing, len(attacked)),
        fooled=Share(len(fooled), len(attacked)),
        fooled_8_bit=Share(sum(record.survives_8_bit for record in fooled), len(attacked)),
        l2=_mean([record.l2 for record in fooled]),
        linf=_mean([record.linf for record in fooled]),
        l1=_mean([record.l1 for record in fooled]),
        l0=_mean([record.l0 for record in fooled]),
        gradient_passes=_mean([record.gradient_passes for record in attacked]),
        zero_gradients=Share(sum(r.zero_gradient for r in attacked), len(attacked)),
    )
    success = Fraction(found.success.count, found.success.total) if attacked else Fraction(0)
    left = Fraction(found.clean.count, found.clean.total) * (1 - success)
    assert left == Fraction(found.under_attack.count, found.under_attack.total)
    return found


def stands(record: ImageRecord, within: Ball | None = None) -> bool:
    """Right without attack, and not led astray, or only by a δ outside the ball."""
    if record.outcome != "succeeded" or within is None:
        return record.outcome == "failed"
    length: float = getattr(record, type(within).__name__.removesuffix("Ball").lower())
    return length > radius_of(within) * (1 + _ROUNDING)


def radius_of(ball: Ball) -> float:
    """ε; the largest of several."""
    return float(torch.as_tensor(ball.epsilon, dtype=torch.float64).max())


@dataclass(frozen=True)
class ImageRobustness:
    """What some attacks did to the same images.

    Args:
        records: an image and attack each.
        within: the ball in which a success counts, so that attacks of any length can be put
            together; any success counts without.

    Raises:
        UserError: there are none, or the attacks were not run on the same images.
    """

    records: tuple[ImageRecord, ...]
    within: Ball | None = None
    summaries: Mapping[str, ImageSummary] = field(init=False)

    def __post_init__(self) -> None:
        names = dict.fromkeys(record.attack for record in self.records)
        if not names:
            raise UserError("There are no records; attack at least one image.")
        first = [record.id for record in self.of(next(iter(names)))]
        for name in names:
            if [record.id for record in self.of(name)] != first:
                raise UserError(
                    f"{next(iter(names))} and {name} were not run on the same images; finish both."
                )
        summaries = {name: summarise_images(self.of(name), self.within) for name in names}
        object.__setattr__(self, "summaries", summaries)

    def of(self, attack: str) -> list[ImageRecord]:
        """The records of one attack."""
        return [record for record in self.records if record.attack == attack]

    @property
    def attacks(self) -> tuple[str, ...]:
        """Names, in the order of the records."""
        return tuple(self.summaries)

    @property
    def examples(self) -> int:
        """N."""
        return len(self.records) // len(self.summaries)

    @property
    def clean(self) -> Share:
        """Right without attack."""
        return next(iter(self.summaries.values())).clean

    @property
    def worst_case(self) -> Share:
        """Right under every attack: at most the accuracy under any of them."""
        return Share(sum(self.standing().values()), self.examples)

    @property
    def answers(self) -> Answers:
        """The most frequent answer without attack, and the most frequent label."""
        images = self.of(self.attacks[0])
        return Answers.of([r.clean_answer for r in images], [r.label for r in images])

    @property
    def is_constant(self) -> bool:
        """Whether every answer without attack is the same: then nothing was learnt."""
        answers = {record.clean_answer for record in self.records}
        return self.examples > 1 and len(answers) == 1

    @property
    def unanswered(self) -> int:
        """Images whose logits without attack are no finite numbers, which count as wrong."""
        return len({one.id for one in self.records if math.isnan(one.clean_confidence)})

    def standing(self) -> dict[int, bool]:
        """Image id → whether the model stood every attack."""
        stood = {record.id: True for record in self.records}
        for record in self.records:
            stood[record.id] &= stands(record, self.within)
        return stood


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
