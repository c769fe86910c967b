"""What every attack on images is: a frozen dataclass that is called with a model and images."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from nlp_adv.attacks.batch import ImageBatch, image_batch
from nlp_adv.attacks.quiet import quiet
from nlp_adv.attacks.result import AttackResult
from nlp_adv.sites.normalisation import Classifier


class Attack(ABC):
    """An attack on images in [0, 1]; its fields are its configuration.

    It leaves nothing behind in the model, its gradients, BatchNorm's statistics and the random
    streams, also when it fails; the same attack object may be used on any number of models.
    """

    def __call__(
        self,
        model: Classifier,
        x: Tensor,
        y: Tensor | int | None = None,
        *,
        target: Tensor | int | None = None,
        mask: Tensor | None = None,
    ) -> AttackResult:
        """Attack images.

        Args:
            model: pixels → logits, as a tensor or as an output with `.logits`; a model of
                normalised images goes in `Pixels(model, mean, std)`.
            x: (B, C, H, W) in [0, 1].
            y: (B,), the right classes; without y and target, what the model answers. With the
                right class as target, the attack makes the model surer of it.
            target: classes to reach, (B,) or one for all; y is then not used.
            mask: 1 where a pixel may change, broadcast against x.

        Raises:
            UserError: pixels outside [0, 1], labels or a mask that do not fit, no logits.
        """
        with quiet(model):
            return self.run(image_batch(model, x, y, target, mask))

    @property
    @abstractmethod
    def name(self) -> str:
        """What stands in tables."""

    @abstractmethod
    def run(self, batch: ImageBatch) -> AttackResult:
        """The attack on a batch, in a quiet model."""
