"""The images of a run of attacks, and those among them that are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nlp_adv.attacks import Attack, AttackResult
from nlp_adv.data.images import Images
from nlp_adv.report.exhibit_pictures import exhibit_ids, exhibits
from nlp_adv.robustness.evaluated import Evaluation
from nlp_adv.sites.normalisation import Pixels


@dataclass(frozen=True)
class AttackedImages:
    """The images of a run.

    Attributes:
        images: in the order in which they were drawn.
        ids: their numbers in the split.
        target: class that attacks lead to; no image is of it.
        description: for people.
    """

    images: Images
    ids: list[int]
    target: int | None
    description: str

    @property
    def channels(self) -> int:
        """Of a picture."""
        return len(self.images[0][0])

    def drawn(
        self, found: Evaluation, model: Pixels, attacks: Mapping[str, Attack]
    ) -> dict[str, AttackResult]:
        """A few of them under each attack once more; none where they cannot be drawn."""
        ids = exhibit_ids(found)
        if self.channels not in (1, 3) or not ids:
            return {}
        places = [self.ids.index(number) for number in ids]
        ((x, y),) = self.images.select(places).batches(len(places))
        return exhibits(model, x, y, attacks, target=self.target)
