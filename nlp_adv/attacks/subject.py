"""A model, the labelled batches it is attacked on, and what an attack does to all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nlp_adv.attacks.entering import pixel_rows, site_rows
from nlp_adv.attacks.ladder import Ladder
from nlp_adv.attacks.measured import Measured
from nlp_adv.attacks.quiet import quiet
from nlp_adv.attacks.rows import Rows
from nlp_adv.errors import UserError
from nlp_adv.perturbation.evaluating import divergence_found
from nlp_adv.sites.embeddings import EmbeddingSite
from nlp_adv.sites.normalisation import Classifier
from nlp_adv.sites.site import Site

Batch = Mapping[str, Any] | tuple[Tensor, Tensor]
"""What a Hugging Face model takes, with "labels"; or images in [0, 1] and their right classes."""


@dataclass(frozen=True)
class Subject:
    """A model at a site, or of pixels.

    Args:
        model: a Hugging Face classifier for batches that are mappings; pixels → logits for images.
        site: where δ enters the model of a batch; images have none.
        special_ids: ids that are not perturbed.
    """

    model: Classifier | nn.Module
    site: Site = field(default_factory=EmbeddingSite)
    special_ids: Sequence[int] = ()

    @contextmanager
    def opened(self, batch: Batch) -> Iterator[None]:
        """The model quiet, and hooked where the batch is no pair of images and classes."""
        with quiet(self.model):
            if isinstance(batch, Mapping) and isinstance(self.model, nn.Module):
                with self.site.installed(self.model):
                    yield
            else:
                yield

    def rows(self, batch: Batch) -> Rows:
        """A batch, on the model's device; to be made inside `opened`.

        Raises:
            UserError: a batch that an attack could not work with.
        """
        device = device_of(self.model)
        if isinstance(batch, Mapping):
            moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
            if not isinstance(self.model, nn.Module):
                raise UserError("A batch is attacked inside its model, which must be a module.")
            if moved.get("labels") is None:
                raise UserError('Accuracy under attack needs the right classes, "labels" (B,).')
            return site_rows(self.model, moved, site=self.site, special_ids=self.special_ids)
        x, y = (one.to(device or one.device) if isinstance(one, Tensor) else one for one in batch)
        return pixel_rows(self.model, x, y).look()

    def measure(
        self,
        ladder: Ladder,
        batches: Iterable[Batch],
        *,
        target: int | None = None,
        factor: float = 1.0,
        after_each: Callable[[], object] = lambda: None,
    ) -> Measured:
        """Attack all batches.

        Args:
            ladder: the attack and its radii.
            batches: of labelled examples.
            target: class to lead them to; None for any wrong answer.
            factor: on the logits, which changes no answer.
            after_each: called after each batch, for a progress bar.

        Raises:
            UserError: there is nothing to attack, or what an attack could not work with; the
                model's weights are no numbers.
        """
        if isinstance(self.model, nn.Module) and (refusal := divergence_found(self.model)):
            raise UserError(refusal)
        parts = []
        for batch in batches:
            if _is_empty(batch):
                continue
            with self.opened(batch):
                rows = self.rows(batch)
                rows = rows if factor == 1 else rows.scaled(factor)
                parts.append(ladder.run(rows, target=target))
            after_each()
        if not parts:
            raise UserError("There is nothing to attack: the data is empty.")
        return type(parts[0]).joined(parts)


def device_of(model: Classifier | nn.Module) -> torch.device | None:
    """Where a model's parameters are; None of a function, or a model without any."""
    parameters = model.parameters() if isinstance(model, nn.Module) else iter(())
    return next((parameter.device for parameter in parameters), None)


def _is_empty(batch: Batch) -> bool:
    labels = batch.get("labels") if isinstance(batch, Mapping) else batch[1]
    return isinstance(labels, Tensor) and labels.ndim > 0 and not len(labels)
