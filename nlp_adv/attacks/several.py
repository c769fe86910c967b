"""Examples with several answers each: tags of words, yes-or-no labels, the next words of a text.

One δ an example attacks all its answers at once. What is climbed is

    1/T · Σ_t min(0, m_t),   m_t = max_{j≠y_t} z_tj − z_ty_t

so that an answer that is wrong already pulls no more, and an attack ends where all are wrong. For
an attack such an example is one of two classes whose logits are 0 and that mean, the right one
being the first; so every attack on one answer works on several.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from nlp_adv.attacks.rows import Rows
from nlp_adv.attacks.views import SiteView
from nlp_adv.errors import UserError
from nlp_adv.perturbation import Ball
from nlp_adv.perturbation.evaluating import logit_margin
from nlp_adv.perturbation.running import unwrapped
from nlp_adv.sites.objective import predicts_the_next

NONE = -100  # the label of what has no right answer, as in transformers


@dataclass(frozen=True)
class SeveralView:
    """A batch at a site whose examples have several answers each; a point is δ.

    Attributes:
        view: the model at the site.
        labels: right classes (b, T), −100 where there is none, or yes-or-no labels (b, L), 0.0 or
            1.0, as the model's own loss takes them.
    """

    view: SiteView
    labels: Tensor

    @property
    def x(self) -> Tensor:
        """What the model computes there without attack."""
        return self.view.x

    @property
    def frozen(self) -> bool:
        """Always."""
        return True

    @property
    def tokens(self) -> Tensor:
        """Of what the examples consist of."""
        return self.view.tokens

    @property
    def pictures(self) -> bool:
        """No."""
        return False

    @property
    def several(self) -> bool:
        """Yes."""
        return True

    @property
    def dtype(self) -> torch.dtype:
        """Of the model's parameters."""
        return self.view.dtype

    def each(self, point: Tensor) -> Tensor:
        """The logits of each answer, (b, T, C), with δ added; of yes-or-no labels 0 and z.

        Raises:
            UserError: the model's logits do not belong to the labels.
        """
        logits, labels = self.view.outputs(point), self.labels
        if logits is not None and labels.is_floating_point() and logits.shape == labels.shape:
            return torch.stack([torch.zeros_like(logits), logits], -1)
        if logits is None or logits.ndim != 3 or logits.shape[:2] != labels.shape:
            shape = None if logits is None else tuple(logits.shape)
            raise UserError(
                f"Labels of shape {tuple(labels.shape)} ask for logits with one more dimension, or "
                f"of their own shape where they are yes-or-no labels, and the model gives {shape}."
            )
        return logits[:, :-1] if self._shifts else logits

    @property
    def right(self) -> Tensor:
        """The right class of each answer, (b, T), −100 where there is none."""
        labels = self.labels.long()
        return labels[:, 1:] if self._shifts else labels

    @property
    def _shifts(self) -> bool:
        """A language model's answer to a token is the next one."""
        whole = not self.labels.is_floating_point()
        return whole and predicts_the_next(unwrapped(self.view.model))

    def logits(self, point: Tensor) -> Tensor:
        """(b, 2): 0, and the mean of min(0, m_t); a tie where all answers are wrong."""
        each, right = self.each(point), self.right
        there = right != NONE
        margins = logit_margin(each.flatten(0, 1), right.clamp_min(0).flatten()).view(right.shape)
        short = torch.where(there, margins.clamp_max(0), 0.0).sum(1) / there.sum(1).clamp_min(1)
        return torch.stack([torch.zeros_like(short), short], 1)

    def contents(self) -> Iterable[bytes]:
        """The name of each example's content, without padding and what may not move."""
        return self.view.contents()

    def within(self, ball: Ball) -> Ball:
        """One ball for each of several modules."""
        return self.view.within(ball)

    def erasing(self, rows: Rows, ball: Ball) -> Tensor:
        """‖x‖: δ can cancel all of it that may move."""
        return self.view.erasing(rows, ball)

    def rows(self, kept: Tensor) -> SeveralView:
        """Some of the examples."""
        return SeveralView(self.view.rows(kept), self.labels[kept])


def check_several(view: SeveralView) -> None:
    """Refuse labels that are none of the model's.

    Raises:
        UserError: with what is wrong.
    """
    labels, right = view.labels, view.right
    if labels.is_floating_point() and not ((labels == 0) | (labels == 1)).all():
        raise UserError("Yes-or-no labels are 0 or 1 each; scores have no accuracy under attack.")
    with torch.no_grad():
        classes = view.each(torch.zeros_like(view.x)).shape[-1]
    there = right[right != NONE]
    if not len(there):
        raise UserError("No example of a batch has a label, so that there is nothing to attack.")
    low, high = int(there.min()), int(there.max())
    if low < 0 or high >= classes:
        raise UserError(f"Labels are from {low} to {high}, and the model has {classes} classes.")
