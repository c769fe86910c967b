"""How long ε is beside the embeddings it perturbs, so that its user sees whether it fits."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nlp_adv.methods import FGMMatrix, Method, describe, unit_of
from nlp_adv.perturbation import Ball, ModelObjective, Unit, unit_length
from nlp_adv.perturbation.units import token_share
from nlp_adv.sites.objective import objective
from nlp_adv.training.inputs import module_site

_ROWS = 64
_SMALLEST, _LARGEST = 1e-4, 0.3  # as shares of the embedding norm: what attacks use, amply
_WARM_UP = "take a smaller --adv_epsilon, or warm up (--adv_start_step, --adv_ramp_steps)"


def radius_in_words(
    method: Method,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    training: Any,
    collate: Callable[[list[Any]], Mapping[str, Any]],
) -> str | None:
    """What ε amounts to on the first training rows; None for a method without one.

    Args:
        method: the method at full strength.
        model, tokenizer: to be trained; neither they nor the random state change.
        rows: the tokenized training rows.
        training: the arguments, for the embedding and what is left unmoved.
        collate: rows → batch.
    """
    ball: Ball | None = getattr(method, "ball", None)
    if ball is None and not isinstance(method, FGMMatrix):
        return None
    if ball is not None and not math.isfinite(ball.epsilon):
        return "ε = inf: there is no ball; how far δ goes is up to the steps."
    first = [rows[index] for index in range(min(_ROWS, len(rows)))]
    device = next(model.parameters()).device
    entered = objective(
        model,
        {key: value.to(device) for key, value in collate(first).items()},
        module_site(training),
        seed=0,
        special_ids=tokenizer.all_special_ids if training.adv_exclude_special_tokens else (),
    )
    if isinstance(method, FGMMatrix):
        return _of_matrix(method, entered)
    assert ball is not None
    return _of_ball(method, ball, entered)


def _of_ball(method: Method, ball: Ball, objective: ModelObjective) -> str:
    unit: Unit = unit_of(method)
    norm = describe(method)["norm"]
    # In the unit in which ε is a share: the root-mean-square embedding norm, in every norm.
    whole = _median(unit_length(objective, ball, "relative"))
    epsilon = float(ball.epsilon)
    absolute = epsilon * _median(unit_length(objective, ball, unit))
    share = epsilon if unit == "relative" else absolute / whole
    what = "a token's" if ball.per == "token" else "a sentence's"
    of = f"{what} embedding norm"
    if norm == "linf":
        of = f"the root mean square of {what} embedding coordinates"
    given = f"{unit.replace('_', ' ')} = {absolute:.3g} absolute" if unit != "absolute" else unit
    text = (
        f"ε = {epsilon:g} {given} ({norm}, per {ball.per}): {_percent(share)} of {of}, about "
        f"{whole:.3g} here."
    )
    if ball.per == "example":
        tokens = float((objective.mask != 0).any(-1).sum(-1).double().median())
        of_one = token_share(share, tokens, norm=norm)
        text += (
            f" One token may get all of it: {_percent(of_one)} of its norm, of {tokens:g} tokens."
        )
    if share > _LARGEST:
        return f"{text} That is so much that training may collapse: {_WARM_UP}."
    if share < _SMALLEST:
        return f"{text} That is so little that training hardly differs from the ordinary one."
    return text


def _of_matrix(method: FGMMatrix, objective: ModelObjective) -> str | None:
    if objective.table is None:
        return None
    norm = torch.linalg.vector_norm(objective.table.detach(), dtype=torch.float32).item()
    return (
        f"ε = {method.epsilon:g} absolute (Frobenius, the whole embedding matrix): "
        f"{_percent(method.epsilon / norm)} of the matrix's norm, about {norm:.3g} here."
    )


def _median(length: torch.Tensor | float) -> float:
    return float(torch.as_tensor(length).median())


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 1 else f"{100 * share:.2g} %"
