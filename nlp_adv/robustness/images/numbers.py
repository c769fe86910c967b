"""What records of image attacks come to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from nlp_adv.errors import UserError
from nlp_adv.robustness.images.records import ImageRecord, stood
from nlp_adv.robustness.statistics import Share


@dataclass(frozen=True, kw_only=True)
class ImageSummary:
    """One attack on one model; norms are means over the images that fell, nan without any.

    Args:
        attack: its name.
        examples: N, all of them.
        clean: right without attack.
        under_attack: right whatever the attack did.
        success: fallen, of those that were right without attack.
        success_8_bit: fallen also after rounding to 256 levels, of the same.
        l2, linf, l1, l0: of δ.
        gradient_passes: mean over attacked images.
        zero_gradients: whose first gradient was 0, of those attacked.
    """

    attack: str
    examples: int
    clean: Share
    under_attack: Share
    success: Share
    success_8_bit: Share
    l2: float
    linf: float
    l1: float
    l0: float
    gradient_passes: float
    zero_gradients: Share


def summarise_images(records: Sequence[ImageRecord]) -> ImageSummary:
    """Count one attack's records, and check that Aua = Clean·(1 − Suc), exactly.

    Raises:
        UserError: there are none, they are of several attacks, or an outcome contradicts the
            answers.
    """
    names = {record.attack for record in records}
    if len(names) != 1:
        raise UserError(f"Records of one attack are needed, not of {len(names)}.")
    attacked = [record for record in records if record.outcome != "skipped"]
    fallen = [record for record in records if record.outcome == "succeeded"]
    for record in attacked:
        if record.clean_answer != record.label:
            raise UserError(
                f"Image {record.id} of {record.attack} counts as attacked ({record.outcome}), but "
                f"was wrong without attack; such a record must be skipped."
            )
    found = ImageSummary(
        attack=names.pop(),
        examples=len(records),
        clean=Share(len(attacked), len(records)),
        under_attack=Share(sum(stood(records)), len(records)),
        success=Share(len(fallen), len(attacked)),
        success_8_bit=Share(sum(record.survives_8_bit for record in fallen), len(attacked)),
        l2=_mean([record.l2 for record in fallen]),
        linf=_mean([record.linf for record in fallen]),
        l1=_mean([record.l1 for record in fallen]),
        l0=_mean([record.l0 for record in fallen]),
        gradient_passes=_mean([record.gradient_passes for record in attacked]),
        zero_gradients=Share(sum(r.zero_gradient for r in attacked), len(attacked)),
    )
    fell = Fraction(len(fallen), len(attacked)) if attacked else Fraction(0)
    standing = Fraction(found.clean.count, found.clean.total) * (1 - fell)
    assert standing == Fraction(found.under_attack.count, found.under_attack.total)
    return found


@dataclass(frozen=True)
class ImageRobustness:
    """What some attacks did to the same images.

    Args:
        records: an image and attack each.

    Raises:
        UserError: there are none, or the attacks were not run on the same images.
    """

    records: tuple[ImageRecord, ...]
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
        summaries = {name: summarise_images(self.of(name)) for name in names}
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
    def is_constant(self) -> bool:
        """Whether every answer without attack is the same: then nothing was learnt."""
        answers = {record.clean_answer for record in self.records}
        return self.examples > 1 and len(answers) == 1

    def standing(self) -> dict[int, bool]:
        """Image id → whether the model stood every attack."""
        under = [stood(self.of(name)) for name in self.attacks]
        ids = [record.id for record in self.of(self.attacks[0])]
        return dict(zip(ids, map(all, zip(*under, strict=True)), strict=True))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
