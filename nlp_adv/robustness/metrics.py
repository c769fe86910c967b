"""Robustness as `evaluate` metrics: accuracy under attack, success rate, calibration.

They need no download, keep their rows in memory, and work alone, in a Trainer's `compute_metrics`
and in `evaluate.combine`. `predictions` are the answers under attack in both of the first two, so
that a combination means one thing by them:

    both = evaluate.combine([RobustAccuracy(), AttackSuccessRate()])
    both.compute(predictions=attacked, clean_predictions=clean, references=labels)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import evaluate
import numpy as np
import torch
from datasets import Features, Value
from datasets import Sequence as ListOf
from numpy.typing import NDArray

from nlp_adv.errors import UserError
from nlp_adv.perturbation.evaluating import answers

BINS = 15  # Guo et al.'s M


class _Metric(evaluate.Metric):  # type: ignore[misc]
    """An `evaluate.Metric` whose rows stay in memory, so that processes share no cache file."""

    inputs = ""
    citation = ""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"keep_in_memory": True, **kwargs})

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__ or "",
            citation=self.citation,
            inputs_description=self.inputs,
            features=Features(self._features()),
        )

    def _features(self) -> dict[str, Any]:
        return {"predictions": Value("int64"), "references": Value("int64")}


class RobustAccuracy(_Metric):
    """The share of examples that are right under attack, of all examples.

    `predictions` are the classes under attack (of an example that was wrong without it, any wrong
    class), `references` the right ones. The result is `robust_accuracy`; 0.0 of no examples.
    """

    inputs = "Per row: the class predicted under attack, and the right class."

    def _compute(
        self,
        predictions: Sequence[int],
        references: Sequence[int],
        clean_predictions: object = None,
    ) -> dict[str, float]:
        del clean_predictions  # handed to every metric of a combination
        right = np.equal(predictions, references)
        return {"robust_accuracy": float(right.mean()) if len(right) else 0.0}


class AttackSuccessRate(_Metric):
    """The share of wrong answers under attack, of the examples that were right without it.

    `predictions` are the classes under attack, `clean_predictions` those without, `references` the
    right ones. The result is `attack_success_rate`; 0.0 where no example was right without attack,
    so that robust accuracy = clean accuracy · (1 − success rate) always holds.
    """

    inputs = "Per row: the class predicted under attack, that without attack, the right class."

    def _features(self) -> dict[str, Any]:
        return {**super()._features(), "clean_predictions": Value("int64")}

    def _compute(
        self,
        predictions: Sequence[int],
        references: Sequence[int],
        clean_predictions: Sequence[int],
    ) -> dict[str, float]:
        attacked = np.equal(clean_predictions, references)
        fooled = attacked & np.not_equal(predictions, references)
        rate = fooled.sum() / attacked.sum() if attacked.any() else 0.0
        return {"attack_success_rate": float(rate)}


class CalibrationError(_Metric):
    """Expected calibration error: how far confidence is from accuracy, over bins of confidence.

        ECE = Σₘ |Bₘ|/N · |acc(Bₘ) − conf(Bₘ)|

    Bₘ holds the rows whose largest probability is in ((m − 1)/M, m/M]. Naeini et al., AAAI 2015;
    Guo et al., ICML 2017, eq. (3). `predictions` are the probabilities (or logits) of all classes,
    `references` the right classes; the result is `calibration_error`, 0.0 of no rows. A row that
    holds a nan or an inf counts as wrong with confidence 1, and one whose largest numbers are equal
    as wrong with theirs.

    Args:
        bins: M, of equal width.
        logits: whether `predictions` are logits, to which a softmax is applied.

    Raises:
        UserError: of rows that should be probabilities and are not.
    """

    inputs = "Per row: the probabilities or logits of all classes, and the right class."
    citation = "Guo et al., On Calibration of Modern Neural Networks, ICML 2017"

    def __init__(self, *, bins: int = BINS, logits: bool = False, **kwargs: Any) -> None:
        if bins < 1:
            raise UserError(f"bins is {bins}; give at least 1.")
        self.bins, self.logits = bins, logits
        super().__init__(**kwargs)

    def _features(self) -> dict[str, Any]:
        return {"predictions": ListOf(Value("float64")), "references": Value("int64")}

    def _compute(
        self, predictions: Sequence[Sequence[float]], references: Sequence[int]
    ) -> dict[str, float]:
        if not len(references):
            return {"calibration_error": 0.0}
        rows = np.asarray(predictions, dtype=np.float64)
        unknown = ~np.isfinite(rows).all(1)
        probabilities = _softmax(rows) if self.logits else rows
        if not self.logits:
            _check_probabilities(rows[~unknown])
        confidence = np.where(unknown, 1.0, probabilities.max(1))
        right = answers(torch.from_numpy(rows)).numpy() == np.asarray(references)
        # The edges as fractions m/M: the same numbers that a bin's definition compares with.
        edges = np.arange(1, self.bins) / self.bins
        places = np.digitize(confidence, edges, right=True)
        gaps = np.bincount(places, weights=right - confidence, minlength=self.bins)
        return {"calibration_error": float(np.abs(gaps).sum() / len(rows))}


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):  # inf − inf, of rows that count as wrong anyway
        powers = np.exp(logits - logits.max(1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(1, keepdims=True)
    return shares


def _check_probabilities(rows: NDArray[np.float64]) -> None:
    sums = rows.sum(1)
    if (rows < 0).any() or (np.abs(sums - 1) > 1e-2).any():
        raise UserError(
            "CalibrationError was given rows that are no probabilities (they are negative, or do "
            "not sum to 1); for logits make it CalibrationError(logits=True)."
        )
