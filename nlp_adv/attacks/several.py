"""Examples with several answers each: tags of words, yes-or-no labels, the next words of a text.

One δ an example attacks all its answers at once, to make as many wrong as it can. What is climbed
is a smooth share of wrong answers, less 1,

    1/T · Σ_t φ(m_t / τ) − 1,   φ(u) = 0.9·eᵘ below 0,  1 − 0.1·e⁻⁹ᵘ above

with m_t = max_{j≠y_t} z_tj − z_ty_t of the T answers of an example, and τ = ¼ · the mean of |m_t|
over those that are right without attack. An answer far from being wrong pulls little, and one that
is wrong is let go soon: a radius that does not suffice for all answers is spent on those that it
suffices for. (Of the words of a small random tagger PGD-20 left 88 % right by the sum of
min(0, m_t), which pulls at all of them alike, 77 by the logistic function and 70 by φ.) In units of
τ nothing changes where logits are multiplied.

For an attack such an example is one of two classes whose logits are 0 and that number, the right
one being the first, and a tie where all answers are wrong; so every attack on one answer works on
several.
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
from nlp_adv.sites.span import predicts_the_next

NONE = -100  # the label of what has no right answer, as in transformers
SHARE = 0.25  # τ as a share of the mean margin
CREST = 0.9  # φ(0)


@dataclass(frozen=True)
class SeveralView:
    """A batch at a site whose examples have several answers each; a point is δ.

    Attributes:
        view: the model at the site.
        labels: right classes (b, T), −100 where there is none, or yes-or-no labels (b, L), 0.0 or
            1.0, as the model's own loss takes them.
        scale: τ, (b, 1), from `scaled`; 1 before.
    """

    view: SiteView
    labels: Tensor
    scale: Tensor | float = 1.0

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

    def margins(self, point: Tensor) -> Tensor:
        """m_t, (b, T): above 0 where an answer is wrong, ∞ where there is no right one."""
        each, right = self.each(point), self.right
        margins = logit_margin(each.flatten(0, 1), right.clamp_min(0).flatten()).view(right.shape)
        return torch.where(right != NONE, margins, torch.inf)

    def scaled(self) -> SeveralView:
        """With τ of these examples.

        Cost: one forward pass.
        """
        with torch.no_grad():
            margins = self.margins(torch.zeros_like(self.x))
        right = margins < 0
        mean = torch.where(right, -margins, 0.0).sum(1) / right.sum(1).clamp_min(1)
        tau = torch.where(mean > 0, SHARE * mean, 1.0)
        return SeveralView(self.view, self.labels, tau[:, None])

    def logits(self, point: Tensor) -> Tensor:
        """(b, 2): 0, and the smooth share less 1; a tie where all answers are wrong."""
        margins, there = self.margins(point), self.right != NONE
        soft = torch.where(there, _wrong(margins / self.scale), 0.0)
        share = soft.sum(1) / there.sum(1).clamp_min(1) - 1
        # An answer that is right by a hair has a share that rounds to 1: it must not be a tie.
        short = share.clamp_max(-torch.finfo(share.dtype).eps)
        short = torch.where((margins < 0).any(1), short, 0.0 * share)
        short = torch.where(torch.isnan(margins).any(1), torch.nan, short)
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
        scale = self.scale[kept] if isinstance(self.scale, Tensor) else self.scale
        return SeveralView(self.view.rows(kept), self.labels[kept], scale)


def _wrong(u: Tensor) -> Tensor:
    """φ(u): continuous, as is its slope, which is steepest at 0 and dies away faster above."""
    below = CREST * u.clamp_max(0).exp()
    above = 1 - (1 - CREST) * (-u.clamp_min(0) * CREST / (1 - CREST)).exp()
    return torch.where(u < 0, below, above)


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
