"""What every attack on a point is: a frozen dataclass that is called with a model and examples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from nlp_adv.attacks.entering import pixel_rows, site_rows
from nlp_adv.attacks.quiet import quiet
from nlp_adv.attacks.result import AttackResult
from nlp_adv.attacks.rows import Rows
from nlp_adv.errors import UserError
from nlp_adv.perturbation.evaluating import divergence_found
from nlp_adv.sites.embeddings import EmbeddingSite
from nlp_adv.sites.normalisation import Classifier
from nlp_adv.sites.site import Site


class Attack(ABC):
    """An attack on images, word embeddings or any layer; its fields are its configuration.

        PGD(LInfBall(8 / 255), 2 / 255, 10)(Pixels(model, mean, std), x, y)
        PGD(L2Ball(0.02), 0.005, 10, unit="relative")(model, batch)
        PGD(L2Ball(0.02), 0.005, 10, unit="relative")(model, batch, site=LayerSite("bert.encoder"))

    It leaves nothing behind in the model, its gradients, BatchNorm's statistics and the random
    streams, also when it fails; the same attack object may be used on any number of models.
    """

    def __call__(
        self,
        model: Classifier | nn.Module,
        inputs: Tensor | Mapping[str, Any],
        y: Tensor | int | None = None,
        *,
        target: Tensor | int | None = None,
        mask: Tensor | None = None,
        site: Site | None = None,
    ) -> AttackResult:
        """Attack examples.

        Args:
            model: of images, pixels → logits, as a tensor or as an output with `.logits`; a model
                of normalised images goes in `Pixels(model, mean, std)`. Of a batch, a Hugging Face
                classifier.
            inputs: images (B, C, H, W) in [0, 1], or a batch, a mapping of what the forward takes.
            y: (B,), the right classes; a batch's own "labels" without; without either and target,
                what the model answers. With the right class as target, the attack makes the model
                surer of it.
            target: classes to reach, (B,) or one for all; y is then not used.
            mask: 1 where a pixel may change, broadcast against x; (B, T), 1 for tokens that may.
            site: where δ enters the model of a batch; the word embeddings without.

        Raises:
            UserError: inputs, labels or a mask that do not fit, no logits or no gradient.
        """
        with quiet(model):
            if not isinstance(inputs, Mapping):
                if site is not None:
                    raise UserError("A site is a place in the model of a batch: pass the batch.")
                return self.run(pixel_rows(model, inputs, y, target=target, mask=mask))
            if not isinstance(model, nn.Module):
                raise UserError("A batch is attacked inside its model, which must be a module.")
            if (refusal := divergence_found(model)) is not None:
                raise UserError(refusal)
            where: Site = EmbeddingSite() if site is None else site
            with where.installed(model):
                rows = site_rows(model, inputs, y, site=where, target=target, mask=mask)
                return self.run(rows)

    @property
    @abstractmethod
    def name(self) -> str:
        """What stands in tables."""

    @abstractmethod
    def run(self, rows: Rows) -> AttackResult:
        """The attack on examples, in a quiet model."""
