"""What an attack was called with, as rows: pixels, or a batch of a Hugging Face model at a site."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from nlp_adv.attacks.region import length_of
from nlp_adv.attacks.rows import Rows
from nlp_adv.errors import UserError
from nlp_adv.perturbation import Ball
from nlp_adv.perturbation.balls import segmented
from nlp_adv.sites.normalisation import Classifier, logits_of
from nlp_adv.sites.site import Entry

NO_CLASSES = "Accuracy under attack needs a classifier with one label an example."


@dataclass(frozen=True)
class PixelView:
    """Images in [0, 1] and a classifier of them; a point is x′.

    Attributes:
        model: pixels → logits.
        x: (b, …), float32 or wider.
    """

    model: Classifier
    x: Tensor
    pictures: ClassVar[bool] = True
    several: ClassVar[bool] = False

    @property
    def tokens(self) -> Tensor:
        """None."""
        return torch.zeros(len(self.x), dtype=torch.long, device=self.x.device)

    @property
    def frozen(self) -> bool:
        """A module's are; nobody knows those of a plain function."""
        return isinstance(self.model, nn.Module)

    @property
    def dtype(self) -> torch.dtype:
        """Of the model's parameters."""
        return _model_dtype(self.model, self.x)

    def logits(self, point: Tensor) -> Tensor:
        """Logits of other images in the place of x; a model in half precision takes its own type.

        Raises:
            UserError: the model returns no logits.
        """
        return logits_of(self.model(point.to(_model_dtype(self.model, point))))

    def contents(self) -> Iterator[bytes]:
        """The bytes of each image."""
        for row in self.x:
            yield row.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()

    def within(self, ball: Ball) -> Ball:
        """One ball an image."""
        return ball

    def erasing(self, rows: Rows, ball: Ball) -> Tensor:
        """½·‖1‖: every pixel that may change can become ½, whatever it was."""
        return 0.5 * _column(ball.norm(rows.mask), rows)

    def rows(self, kept: Tensor) -> PixelView:
        """Some of the images."""
        return PixelView(self.model, self.x[kept])


@dataclass(frozen=True)
class SiteView:
    """A batch at a site of a model, such as its word embeddings; a point is δ.

    Attributes:
        model: a Hugging Face model, or one like it.
        entry: the batch, where δ enters.
    """

    model: nn.Module
    entry: Entry
    pictures: ClassVar[bool] = False
    several: ClassVar[bool] = False

    @property
    def x(self) -> Tensor:
        """What the model computes there without attack."""
        return self.entry.x

    @property
    def tokens(self) -> Tensor:
        """Of what the examples consist of."""
        real = self.entry.real
        if real is None:
            return torch.zeros(len(self.x), dtype=torch.long, device=self.x.device)
        return (real != 0).sum(1).to(self.x.device)

    @property
    def frozen(self) -> bool:
        """Always."""
        return True

    @property
    def dtype(self) -> torch.dtype:
        """Of the model's parameters."""
        return _model_dtype(self.model, self.entry.x)

    def logits(self, point: Tensor) -> Tensor:
        """Logits with δ added.

        Raises:
            UserError: the model returns no logits (b, C) of classes.
        """
        logits = self.outputs(point)
        if logits is None or logits.ndim != 2 or logits.shape[1] < 2:
            raise UserError(NO_CLASSES)
        return logits

    def outputs(self, point: Tensor) -> Tensor | None:
        """Logits of any shape with δ added, float32 or wider; None of a model without."""
        logits = self.entry.run(self.model, point).logits
        if logits is None:
            return None
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def contents(self) -> Iterator[bytes]:
        """The name of each example's content, without padding and what may not move."""
        for name in self.entry.names():
            yield name.encode()

    def within(self, ball: Ball) -> Ball:
        """One ball for each of several modules."""
        segments = self.entry.segments
        return ball if segments is None else segmented(ball, segments)

    def erasing(self, rows: Rows, ball: Ball) -> Tensor:
        """‖x‖: δ can cancel all of it that may move."""
        return _column(torch.as_tensor(length_of(rows, ball, "relative")), rows)

    def rows(self, kept: Tensor) -> SiteView:
        """Some of the examples."""
        return SiteView(self.model, self.entry.rows(kept))


def _model_dtype(model: Classifier | nn.Module, x: Tensor) -> torch.dtype:
    """A model in half precision, or in double, takes images of its own type."""
    if not isinstance(model, nn.Module):
        return x.dtype
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), x.dtype)


def _column(lengths: Tensor, rows: Rows) -> Tensor:
    """(b,): the largest of each example."""
    ones = torch.ones_like(rows.clean.flatten(1)[:, :1])
    return (lengths.flatten(1) * ones).amax(1)
