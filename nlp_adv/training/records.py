"""What an adversarial run says of itself: logged averages, alarms, the file beside the model."""

import inspect
import json
import logging
import re
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard
from torch import Tensor

from nlp_adv.folders import write_whole
from nlp_adv.methods import Method, NoAttack, Schedule, StepReport, bare, describe, floor_cost
from nlp_adv.perturbation import L2Ball, ModelObjective, Per, Segments, unit_length
from nlp_adv.perturbation.slices import slice_values

logger = logging.getLogger(__name__)

CONFIG_NAME = "adversarial_config.json"
REPORT_NAME = "nlp_adv_report.json"  # what `nlp-adv train` measured, written last of all
_CONSTANT_AFTER = 256  # examples with one and the same answer before the alarm


class StepLog:
    """Sums over the steps since the last log, on the device: no host waits for an inner step."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._batches = 0
        self._steps = 0
        self._step = -1

    def add(
        self,
        step: int,
        report: StepReport,
        scale: Tensor,
        objective: ModelObjective,
        method: Method,
    ) -> None:
        """Take in one micro-batch.

        Args:
            step: the optimizer step it belongs to.
            report: the method's losses.
            scale: what the Trainer multiplied the loss by (1 / accumulation steps, or 1).
            objective: for the last δ and the non-finite flag.
            method: for the norm in which δ is measured.
        """
        self._batches += 1
        self._steps += step != self._step
        self._step = step
        self._sum("nonfinite_share", objective.nonfinite)
        if report.adversarial is not None:
            self._sum("adv_loss", report.adversarial * scale)
        if report.clean is not None:
            self._sum("clean_loss", report.clean * scale)
        if report.divergence is not None:
            self._sum("adv_divergence", report.divergence / objective.share)
        for name, loss in (report.groups or {}).items():
            self._sum(f"{name}_loss", loss * scale)
        ball = getattr(method, "ball", None)
        if ball is not None and objective.delta is not None:
            ball, each = objective.within(ball), objective.within(L2Ball(1.0)).per
            norm = ball.norm(objective.delta)
            unit = unit_length(objective, ball, "relative")
            relative = torch.where(norm > 0, norm / unit, 0.0)  # no free token: no unit either
            for key, value in (("delta_norm", norm), ("delta_relative", relative)):
                self._sum(key, _mean(value, objective.mask, each))

    def averages(self) -> dict[str, Tensor]:
        """Losses per optimizer step, all else per micro-batch; then start anew."""
        averages = {
            key: total / (self._steps if key.endswith("_loss") else self._batches)
            for key, total in self._sums.items()
        }
        self._clear()
        return averages

    def _sum(self, key: str, value: Tensor) -> None:
        value = value.detach().float()
        self._sums[key] = self._sums[key] + value if key in self._sums else value


def _mean(values: Tensor, mask: Tensor, per: Per) -> Tensor:
    """Of the largest value of each example, or of each segment that δ can move in."""
    largest = slice_values(values, per)
    if not isinstance(per, Segments):
        return largest.mean()
    there = slice_values(mask.amax(-1, keepdim=True), per) > 0
    return (largest * there).sum() / there.sum().clamp_min(1)


class ConstantPredictionAlarm:
    """Warns when a classifier has given the same answer for hundreds of training examples.

    That is how training on too large an ε ends; the loss alone does not show it.
    """

    def __init__(self) -> None:
        self._predicted: Tensor | None = None
        self._labelled: Tensor | None = None
        self.raised = False

    def add(self, logits: Any, labels: Any) -> None:
        """Count one batch's answers: logits (B, C), labels (B,); anything else is passed over."""
        if not isinstance(logits, Tensor) or not isinstance(labels, Tensor):
            return
        if logits.ndim != 2 or logits.shape[1] < 2 or labels.shape != logits.shape[:1]:
            return
        if labels.is_floating_point():
            return
        # Sums of one-hot rows, not bincount, which would wait for the device.
        classes = torch.arange(logits.shape[1], device=logits.device)
        answers = (logits.detach().argmax(-1, keepdim=True) == classes).sum(0)
        truths = (labels[:, None] == classes).sum(0)  # ignored labels (-100) match none
        self._predicted = answers if self._predicted is None else self._predicted + answers
        self._labelled = truths if self._labelled is None else self._labelled + truths

    def check(self) -> None:
        """Warn, once; called when the host waits for the numbers anyway."""
        if self._predicted is None or self._labelled is None or self.raised:
            return
        seen, answers = int(self._predicted.sum()), int((self._predicted > 0).sum())
        classes = int((self._labelled > 0).sum())
        if answers > 1:  # not constant: count afresh
            self._predicted = self._labelled = None
        elif seen >= _CONSTANT_AFTER and classes > 1:
            self.raised = True
            logger.warning(
                "The model answered class %d for each of the last %d training examples, whose "
                "labels hold %d classes: training has collapsed. Lower --adv_epsilon, begin the "
                "attack later (--adv_start_step, --adv_ramp_steps), or lower the learning rate.",
                int(self._predicted.argmax()),
                seen,
                classes,
            )


def warn_if_below_resolution(relative: float, dtype: torch.dtype) -> bool:
    """Warn when most of δ is lost as it is added to embeddings of this dtype.

    A coordinate of x keeps steps of about eps·|x|; a δ of relative size below eps/2 rounds away.
    """
    resolution = torch.finfo(dtype).eps / 2
    if not 0 < relative < resolution:
        return False
    logger.warning(
        "δ is %.1e of the embeddings, which are %s and cannot show less than %.1e: most of the "
        "perturbation is rounded away. Raise --adv_epsilon or keep the embeddings in float32.",
        relative,
        str(dtype).removeprefix("torch."),
        resolution,
    )
    return True


def run_description(
    schedule: Schedule,
    exclude_special_tokens: bool,
    site: str | None = None,
    data: Any = None,
    span: str | None = None,
) -> dict[str, Any]:
    """The method with its numbers, its schedule, mask, site and span, as JSON holds it.

    Training data whose words are attacked (`AttackedTexts`) say with what.
    """
    from nlp_adv import __version__

    words = data.description() if hasattr(data, "attack_with") else None
    return (
        describe(schedule.method)
        | ({"site": site} if site else {})
        | ({"span": span} if span else {})
        | ({"words": words} if words else {})
        | schedule.settings()
        | {
            "exclude_special_tokens": exclude_special_tokens,
            "nlp_adv_version": __version__,
        }
    )


def in_words(method: Method) -> str:
    """`--adv NAME (its numbers): what a step costs`, for the line with which a run begins."""
    numbers = {key: value for key, value in describe(method).items() if key != "method"}
    shown = ", ".join(f"{key} {value}" for key, value in numbers.items())
    return (
        f"--adv {method.name}{f' ({shown})' if shown else ''}: a step costs at least "
        f"{floor_cost(method):.3g} ordinary ones"
    )


def write_config(folder: str | Path, description: dict[str, Any]) -> None:
    """`adversarial_config.json` beside the weights."""
    path = Path(folder) / CONFIG_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(description, indent=2) + "\n")


def complete_model_card(path: str | Path, description: dict[str, Any], method: Method) -> None:
    """Add to the Trainer's model card what was adversarial in the training.

    The metadata gets the tags `nlp_adv`, `adversarial-training` and the method's name; the text
    gets a section with the method's numbers, its papers, and where its settings are kept. Training
    measures no robustness: `nlp-adv evaluate --hub_dataset_id …` writes accuracy under attack, with
    the protocol's hash, to `.eval_results`.

    Args:
        path: of the card, a README.md with metadata.
        description: see `run_description`.
        method: that the run was trained with.

    Raises:
        ValueError: the card's metadata is not what the Hub reads.
    """
    card = ModelCard.load(path)
    ours = ["nlp_adv", "adversarial-training", method.name]
    if method.name == NoAttack.name:
        ours = ["nlp_adv"]
    card.data.tags = [*dict.fromkeys([*(card.data.tags or ()), *ours])]
    write_whole(Path(path), str(card).rstrip() + "\n" + model_card_section(description, method))


def model_card_section(description: dict[str, Any], method: Method) -> str:
    """The section of a model card on adversarial training: numbers, papers, and a way to repeat."""
    rows = "\n".join(f"- {key}: {value}" for key, value in description.items())
    papers = "\n".join(f"- {one}" for one in _papers(method))
    cited = f"\nThe method is from\n\n{papers}\n" if papers else ""
    return (
        f"\n### Adversarial training\n\nTrained with nlp_adv:\n\n{rows}\n{cited}\n"
        f"These settings are also in `{CONFIG_NAME}` beside the weights, and the arguments of the "
        f"Trainer in `training_args.bin`. Robustness is not measured by training: see "
        f"`.eval_results`, if there is such a folder, or run `nlp-adv evaluate`.\n"
    )


def _papers(method: Method) -> list[str]:
    """The addresses of papers in the docstring of the method's file."""
    text = inspect.getdoc(inspect.getmodule(type(bare(method)))) or ""
    return [*dict.fromkeys(re.findall(r"https://arxiv\.org/abs/[\w.]*\w", text))]
