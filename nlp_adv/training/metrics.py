"""Metrics that need no download, and the choice among them for a task."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import evaluate
import numpy as np
import torch
from datasets import Features, Value
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef, mean_squared_error

from nlp_adv.perturbation.evaluating import NO_CLASS, answers

if TYPE_CHECKING:
    from transformers import EvalPrediction

logger = logging.getLogger(__name__)


class _Metric(evaluate.Metric):  # type: ignore[misc]
    """An `evaluate.Metric` whose rows stay in memory, so that processes share no cache file."""

    dtype = "int64"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"keep_in_memory": True, **kwargs})

    def _info(self) -> evaluate.MetricInfo:
        features = Features({"predictions": Value(self.dtype), "references": Value(self.dtype)})
        return evaluate.MetricInfo(
            description=self.__doc__ or "",
            citation="",
            inputs_description="One prediction and one reference per row.",
            features=features,
        )


class Accuracy(_Metric):
    """The share of predicted classes that are right."""

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        return {"accuracy": float(accuracy_score(references, predictions))}


class F1(_Metric):
    """The F1 score of class 1; 0.0 where it is neither predicted nor present."""

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        found, present = np.equal(predictions, 1), np.equal(references, 1)
        return {"f1": float(f1_score(present, found, zero_division=0.0))}


class MacroF1(_Metric):
    """The mean F1 score of the classes that are predicted or present."""

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        classes = sorted({*predictions, *references} - {NO_CLASS})
        score = f1_score(
            references, predictions, labels=classes, average="macro", zero_division=0.0
        )
        return {"f1_macro": float(score)}


class MatthewsCorrelation(_Metric):
    """Matthews correlation; 0.0 where the predictions or the references are constant."""

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        if _is_constant(predictions) or _is_constant(references):
            return {"matthews_correlation": 0.0}
        return {"matthews_correlation": float(matthews_corrcoef(references, predictions))}


class Pearson(_Metric):
    """Pearson correlation; 0.0 where it is undefined (constant or non-finite values)."""

    dtype = "float64"

    def _compute(
        self, predictions: Sequence[float], references: Sequence[float]
    ) -> dict[str, float]:
        return {"pearson": _correlation(pearsonr, predictions, references)}


class Spearman(_Metric):
    """Spearman rank correlation; 0.0 where it is undefined (constant or non-finite values)."""

    dtype = "float64"

    def _compute(
        self, predictions: Sequence[float], references: Sequence[float]
    ) -> dict[str, float]:
        return {"spearmanr": _correlation(spearmanr, predictions, references)}


class MeanSquaredError(_Metric):
    """The mean squared error; infinite where a prediction is not finite."""

    dtype = "float64"

    def _compute(
        self, predictions: Sequence[float], references: Sequence[float]
    ) -> dict[str, float]:
        if not np.isfinite(predictions).all():
            return {"mse": float("inf")}
        return {"mse": float(mean_squared_error(references, predictions))}


_TASK_METRICS: dict[str, tuple[type[_Metric], ...]] = {
    "cola": (Accuracy, MatthewsCorrelation),
    "mrpc": (Accuracy, F1),
    "qqp": (Accuracy, F1),
    "sst2": (Accuracy,),
    "mnli": (Accuracy,),
    "qnli": (Accuracy,),
    "rte": (Accuracy,),
    "wnli": (Accuracy,),
}


def compute_metrics_for(
    task_name: str | None, label_names: Sequence[str] | None
) -> Callable[[EvalPrediction], dict[str, float]]:
    """Return what a Trainer takes as ``compute_metrics``.

    Args:
        task_name: A GLUE task, which gets the metrics of the benchmark; None or any other name
            gets accuracy and macro F1 (with two classes also F1 of class 1).
        label_names: The class names, or None for regression, which gets Pearson and Spearman
            correlation and the mean squared error, whatever the task.

    Returns:
        A function of predictions and labels. Of a tuple of predictions it takes the first. Rows
        whose logits hold NaN count as wrong, and a warning says how many they are.
    """
    chosen = _metrics_of(task_name, label_names)

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        output = prediction.predictions
        logits = np.asarray(output[0] if isinstance(output, tuple) else output)
        predicted = logits.reshape(-1) if label_names is None else _classes(logits)
        _warn_of_nan(logits)
        scores: dict[str, float] = {}
        for metric in chosen:
            scores |= metric().compute(predictions=predicted, references=prediction.label_ids)
        return scores

    return compute


def with_largest_answer(
    compute: Callable[[EvalPrediction], dict[str, float]],
) -> Callable[[EvalPrediction], dict[str, float]]:
    """Add the share of the most frequent answer, `largest_answer`, to a classifier's metrics.

    At 1 the model answers one class, and whatever is measured of it is the share of that class.
    """

    def computed(prediction: EvalPrediction) -> dict[str, float]:
        output = prediction.predictions
        answers = _classes(np.asarray(output[0] if isinstance(output, tuple) else output))
        counts = np.unique(answers, return_counts=True)[1]
        share = float(counts.max() / counts.sum()) if len(counts) else 0.0
        return compute(prediction) | {"largest_answer": share}

    return computed


def metric_names(task_name: str | None, label_names: Sequence[str] | None) -> list[str]:
    """Return the names under which `compute_metrics_for` reports its scores."""
    return [name for metric in _metrics_of(task_name, label_names) for name in _names_of(metric)]


def _names_of(metric: type[_Metric]) -> list[str]:
    return list(metric().compute(predictions=[0, 1], references=[0, 1]))


def _metrics_of(
    task_name: str | None, label_names: Sequence[str] | None
) -> tuple[type[_Metric], ...]:
    if label_names is None:
        return (Pearson, Spearman, MeanSquaredError)
    general = (Accuracy, MacroF1, F1) if len(label_names) == 2 else (Accuracy, MacroF1)
    return _TASK_METRICS.get(task_name or "", general)


def _classes(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = answers(torch.from_numpy(logits)).numpy()
    return found


def _warn_of_nan(logits: np.ndarray[Any, Any]) -> None:
    rows = int((~np.isfinite(logits)).reshape(len(logits), -1).any(axis=1).sum())
    if rows:
        logger.warning("%d of %d predictions are NaN or inf and count as wrong.", rows, len(logits))


def _is_constant(values: Sequence[float]) -> bool:
    return len(set(values)) < 2


def _correlation(
    measure: Callable[..., Any], predictions: Sequence[float], references: Sequence[float]
) -> float:
    if _is_constant(predictions) or _is_constant(references) or not np.isfinite(predictions).all():
        return 0.0
    with warnings.catch_warnings():
        # Nearly constant values make scipy warn at each evaluation; the value says enough.
        warnings.simplefilter("ignore")
        value = float(measure(predictions, references)[0])
    return value if np.isfinite(value) else 0.0
