"""Robust accuracy while the model is still training."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

logger = logging.getLogger(__name__)

# What measures a model: "clean_accuracy", "robust_accuracy", and what else it likes; a
# "constant_answer" above 0 says that all texts got the same one.
Evaluator = Callable[[nn.Module], Mapping[str, float]]

COLLAPSE = 0.2  # of robust accuracy lost since its best
STILL_FINE = 0.1  # of clean accuracy, below its best, within which it counts as fine


class RobustnessCallback(TrainerCallback):
    """Measures robustness at every evaluation, and warns when it collapses.

        trainer.add_callback(RobustnessCallback(trainer, evaluator))

    The scores are logged as `eval_robust_accuracy` and so on, and stand among the metrics of the
    evaluation: `metric_for_best_model="robust_accuracy"` with `load_best_model_at_end=True` keeps
    the most robust checkpoint. Fast single-step training can lose all robustness within an epoch
    while clean accuracy goes on rising (catastrophic overfitting: Wong et al., ICLR 2020), so a
    fall of more than 0.2 below the best is said aloud.

    Args:
        trainer: whose model is measured and whose log is written.
        evaluator: model → scores by name, such as `nlp_adv.robustness.embedding_evaluator` makes.
            It must leave the model as it was. Every process runs it on the same texts.
        prefix: of the evaluations that it belongs to.

    Raises:
        ValueError: a score is missing from what the evaluator returns.

    Cost: the evaluator's, at every evaluation.
    """

    def __init__(self, trainer: Trainer, evaluator: Evaluator, *, prefix: str = "eval") -> None:
        self._trainer = trainer
        self._evaluator = evaluator
        self._prefix = prefix
        self._best: dict[str, float] = {}

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Measure, log, and put the scores among the evaluation's metrics."""
        metrics: dict[str, float] = kwargs.get("metrics") or {}
        if not any(name.startswith(f"{self._prefix}_") for name in metrics):
            return  # the evaluation of another split
        scores = self._evaluator(kwargs["model"])
        for name in ("clean_accuracy", "robust_accuracy"):
            if name not in scores:
                raise ValueError(f"The evaluator returned no {name!r}, only {', '.join(scores)}.")
        named = {f"{self._prefix}_{name}": value for name, value in scores.items()}
        metrics.update(named)  # the Trainer's own: the best model is chosen by it
        self._trainer.log(named)
        constant = scores.get("constant_answer", 0.0) > 0
        if args.process_index == 0:
            self._warn(scores, state, constant=constant)
        if constant:
            return  # no attack changes such an answer: its accuracy is nothing to compare with
        for name, value in scores.items():
            self._best[name] = max(value, self._best.get(name, value))

    def _warn(self, scores: Mapping[str, float], state: TrainerState, *, constant: bool) -> None:
        if constant:
            logger.warning(
                "At step %d the model gives every text the same answer, which no attack changes: "
                "accuracy under attack, %.3f, says nothing of robustness.",
                state.global_step,
                scores["robust_accuracy"],
            )
            return
        best = {**scores, **self._best}
        lost = best["robust_accuracy"] - scores["robust_accuracy"]
        fine = scores["clean_accuracy"] >= best["clean_accuracy"] - STILL_FINE
        if lost > COLLAPSE and fine:
            logger.warning(
                "Robustness has collapsed: at step %d accuracy under attack is %.3f, %.3f below "
                "its best, while clean accuracy is %.3f. Use a smaller epsilon, more steps or a "
                "random start, or go back to the best checkpoint.",
                state.global_step,
                scores["robust_accuracy"],
                lost,
                scores["clean_accuracy"],
            )
