"""Robust accuracy at equal clean accuracy: what a method adds to plain training.

Robust accuracy grows where clean accuracy falls: an under-trained model, and one that always gives
the same answer, are fooled seldom. A method has to be compared with plain training *at its own
clean accuracy c*. Plain training has a curve there. Let (c_k, r_k) be clean and robust accuracy of
plain models: checkpoints of a run, label smoothing, another learning rate, a constant answer. Who
asks model k with probability p_k has, on average, Σ p_k·c_k and Σ p_k·r_k, so that plain training
reaches every point on and below the upper concave hull of its models:

    H(c) = max { Σ p_k·r_k :  Σ p_k·c_k ≥ c,  p ≥ 0,  Σ p_k = 1 },        gain = r − H(c)

Where c is above every c_k, H(c) is the robust accuracy of the most accurate plain model: the method
gets no credit for what it is more accurate. The hull of "ROC convex hulls" (Provost and Fawcett,
Machine Learning 42, 2001), with other axes.

Both accuracies are of the same texts, and c is a sample's too. So the interval of the gain is that
of the mean over texts of

    (r_i − h_i) + λ·(c_i − g_i),      h_i = Σ p_k·r_ki,  g_i = Σ p_k·c_ki,  λ = −H′(c)

whose mean is r − H(c), and which carries the chance of c along the hull; seeds are paired.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nlp_adv.errors import UserError
from nlp_adv.robustness.seeds import Answers, Interval, difference_of_tables


@dataclass(frozen=True)
class Outcome:
    """One model on N texts.

    Args:
        right: (N,), 1 where the answer without attack is right.
        robust: (N,), 1 where it is right and the attack does not change it.

    Raises:
        UserError: the two are of different texts, there are none, or a text is robust and wrong.
    """

    right: Answers
    robust: Answers

    def __post_init__(self) -> None:
        right, robust = (np.asarray(one, dtype=np.float64) for one in (self.right, self.robust))
        if right.ndim != 1 or right.shape != robust.shape or not len(right):
            raise UserError("Clean and robust answers must be of the same texts, and of some.")
        if (robust > right).any():
            raise UserError("A text is robust only where the answer without attack is right.")
        object.__setattr__(self, "right", right)
        object.__setattr__(self, "robust", robust)

    @property
    def clean_accuracy(self) -> float:
        """c."""
        return float(self.right.mean())

    @property
    def robust_accuracy(self) -> float:
        """r."""
        return float(self.robust.mean())


def constant_answers(labels: Sequence[int]) -> list[Outcome]:
    """The models that always answer one class: nothing fools them."""
    known = np.asarray(labels)
    return [Outcome(known == one, known == one) for one in np.unique(known)]


def hull(plain: Sequence[Outcome]) -> list[Outcome]:
    """Those models whose mixtures nothing else reaches, from the most robust to the most accurate.

    Raises:
        UserError: there is no model, or they are of different numbers of texts.
    """
    if not plain or len({len(one.right) for one in plain}) > 1:
        raise UserError("The plain curve needs at least one model, and all on the same texts.")
    kept: list[Outcome] = []
    # By growing clean accuracy; of equal ones the more robust comes last and removes the others.
    for one in sorted(plain, key=lambda o: (o.clean_accuracy, o.robust_accuracy)):
        while kept and one.robust_accuracy >= kept[-1].robust_accuracy:
            kept.pop()
        while len(kept) > 1 and _above(kept[-2], one, kept[-1]):
            kept.pop()
        kept.append(one)
    return kept


def _above(left: Outcome, right: Outcome, middle: Outcome) -> bool:
    """Whether mixing `left` and `right` gives no less than `middle`."""
    across = right.clean_accuracy - left.clean_accuracy
    share = (middle.clean_accuracy - left.clean_accuracy) / across
    mixed = (1 - share) * left.robust_accuracy + share * right.robust_accuracy
    return mixed >= middle.robust_accuracy


@dataclass(frozen=True)
class Mixture:
    """The plain models that do best at a clean accuracy.

    Args:
        right, robust: (N,), how probable each is for each text.
        price: λ, robust accuracy given up for a unit of clean accuracy; 0 at the ends.
    """

    right: Answers
    robust: Answers
    price: float


def plain_at(clean_accuracy: float, plain: Sequence[Outcome]) -> Mixture:
    """H(c), as the mixture that reaches it."""
    corners = hull(plain)
    beyond = [at for at, one in enumerate(corners) if one.clean_accuracy > clean_accuracy]
    if not beyond:
        return Mixture(corners[-1].right, corners[-1].robust, 0.0)
    if beyond[0] == 0:
        return Mixture(corners[0].right, corners[0].robust, 0.0)
    left, right = corners[beyond[0] - 1], corners[beyond[0]]
    across = right.clean_accuracy - left.clean_accuracy
    share = (clean_accuracy - left.clean_accuracy) / across
    return Mixture(
        (1 - share) * left.right + share * right.right,
        (1 - share) * left.robust + share * right.robust,
        (left.robust_accuracy - right.robust_accuracy) / across,
    )


def gain_at_equal_accuracy(
    method: Sequence[Outcome], plain: Sequence[Sequence[Outcome]], *, confidence: float = 0.95
) -> Interval:
    """Robust accuracy of a method minus what plain training reaches at the same clean accuracy.

    Args:
        method: one model a seed.
        plain: of each of these seeds, the plain models that draw its curve, on the same texts.
        confidence: of the interval, which is a t interval over the seeds with the texts' variance.

    Raises:
        UserError: no seed, curves for another number of seeds, or other texts.

    Deviations: H is the hull of measured points, of which the highest are so by chance as well, so
    that the gain errs to the method's disadvantage.
    """
    return of_paired(gains(method, plain), confidence=confidence)


def gains(method: Sequence[Outcome], plain: Sequence[Sequence[Outcome]]) -> Answers:
    """(seeds, texts), each text's part in r − H(c); see `gain_at_equal_accuracy`."""
    if not method or len(method) != len(plain):
        raise UserError("Each seed of a method needs the plain models of that seed.")
    if len({len(one.right) for one in (*method, *(one for seed in plain for one in seed))}) > 1:
        raise UserError("A method and plain training must be compared on the same texts.")
    pairs = zip(method, plain, strict=True)
    return np.stack([_gained(one, plain_at(one.clean_accuracy, seed)) for one, seed in pairs])


def of_paired(differences: Answers, *, confidence: float = 0.95) -> Interval:
    """The mean of a table (seeds, texts) of differences within seeds, and its interval."""
    return difference_of_tables(differences, np.zeros_like(differences), confidence=confidence)


def _gained(one: Outcome, mixture: Mixture) -> Answers:
    """(N,)."""
    priced = mixture.price * (one.right - mixture.right)
    gained: Answers = (one.robust - mixture.robust) + priced
    return gained
