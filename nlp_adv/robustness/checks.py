"""Checks against masking: may an accuracy under attack be called robustness?

A number is the model's only if the attack could see. `embedding_checks` runs what is needed to
tell on word embeddings; `check_records`, `check_transfer` and `check_overlap` judge attacks on the
text by what they wrote down.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from nlp_adv.errors import UserError
from nlp_adv.perturbation import Per, Unit
from nlp_adv.robustness.answers import Answers, check_answers
from nlp_adv.robustness.check_result import Check
from nlp_adv.robustness.checks_embedding import (
    LARGE,
    check_cross_entropy,
    check_large_radius,
    check_margin_scale,
    check_noise,
    check_radii,
    check_restarts,
    check_softmax_scale,
    check_step_size,
    check_steps,
    check_zero_gradients,
)
from nlp_adv.robustness.checks_records import (
    check_budget,
    check_confidence,
    check_overlap,
    check_records,
    check_transfer,
    standing,
)
from nlp_adv.robustness.embedding import (
    EmbeddingAttack,
    EmbeddingNoise,
    EmbeddingPGD,
    EmbeddingRobustness,
    attack_batches,
    embedding_robustness,
)
from nlp_adv.robustness.repeatable import check_repeatable, repeats
from nlp_adv.robustness.scaled_logits import scaled_logits, softening_factor

__all__ = [
    "Check",
    "check_budget",
    "check_confidence",
    "check_cross_entropy",
    "check_large_radius",
    "check_margin_scale",
    "check_noise",
    "check_overlap",
    "check_radii",
    "check_records",
    "check_repeatable",
    "check_restarts",
    "check_softmax_scale",
    "check_step_size",
    "check_steps",
    "check_transfer",
    "check_zero_gradients",
    "embedding_checks",
    "standing",
]

FACTORS = (0.01, 30.0)  # on logits: 30 lets a usual model pass for robust, 0.01 takes that back
SOFT = 0.9  # mean confidence of calibrated logits: far from saturation, whatever the accuracy
CREEPING = 2.5  # ε/K: steps so short that they stop close behind the border of an answer
_RUNS = 14  # of `embedding_checks`; one less where the logits need no calibration


def embedding_checks(
    model: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    *,
    epsilon: float,
    steps: int = 20,
    step_size: float = EmbeddingPGD.step_size,
    restarts: int = 2,
    draws: int = 10,
    norm: str = "l2",
    per: Per = "example",
    unit: Unit = "relative",
    seed: int = 0,
    embedding: str | None = None,
    special_ids: Sequence[int] = (),
    progress: str | None = None,
) -> list[Check]:
    """Checks (a) to (e), (g) and (h) of PGD at one radius.

    One run of the attack serves all of them; each adds the runs it compares it with. The
    confidence is that of the wrong answers at the moment of falling, under short steps: long ones
    end far behind the border. Where the model answers at random, no two accuracies can be
    compared, and that is all that is said.

    Args:
        model: a Hugging Face sequence classifier.
        batches: dicts of tensors with "input_ids" and "labels" (B,). A hundred examples show a
            masked model; to decide differences of one or two points it takes a thousand.
        epsilon: the radius of the numbers to be checked, > 0.
        steps, step_size: K of the attack to be checked, and the length of its first step.
        restarts: starts of the run that is compared with one start, ≥ 2.
        draws: of random noise.
        norm, per, unit: what ε means.
        seed: of random starts and noise.
        embedding: the embedding module's name, for models that do not say.
        special_ids: ids that are not perturbed.
        progress: the title of a progress bar; none is shown without.

    Raises:
        UserError: no data, ε = 0, a single start, or no single-label classifier.

    Cost: about 11 + restarts times the attack's own, and `draws` forward passes.
    """
    if not 0 < epsilon < math.inf or restarts < 2:
        raise UserError(
            "The checks need a finite radius above 0 and at least 2 restarts to compare."
        )
    data = [dict(batch) for batch in batches]
    attack = EmbeddingPGD(
        (epsilon,), steps=steps, norm=norm, per=per, unit=unit, seed=seed, step_size=step_size
    )
    noise = EmbeddingNoise((epsilon,), draws=draws, norm=norm, per=per, unit=unit, seed=seed)
    ascending = replace(attack, loss="cross_entropy")
    device = next(model.parameters()).device

    with (
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        tqdm(total=_RUNS * len(data), desc=progress, disable=progress is None) as bar,
    ):

        def counted() -> Iterator[dict[str, Any]]:
            for batch in data:
                yield batch
                bar.update()

        def run(attack: EmbeddingAttack, factor: float = 1.0) -> EmbeddingRobustness:
            # Each run leaves the random streams as they were; a model that draws in eval mode is to
            # draw something else in the next.
            torch.rand(2)
            torch.rand(2, device=device)
            with nullcontext() if factor == 1 else scaled_logits(model, factor):
                measured = embedding_robustness if factor == 1 else attack_batches
                return measured(
                    model, counted(), attack, embedding=embedding, special_ids=special_ids
                )

        given, softmax = run(attack), run(ascending)
        blind = [check_zero_gradients(given), check_zero_gradients(softmax)]
        large = max(LARGE / given.relative(1.0), 2 * epsilon)
        at_large = run(replace(attack, epsilons=(large,)))
        at_half = run(replace(attack, epsilons=(epsilon / 2,)))
        halved = run(replace(attack, steps=max(1, steps // 2)))
        creeping = run(replace(attack, step_size=CREEPING / steps))
        doubled = run(replace(attack, step_size=2 * step_size))
        stepping = {CREEPING / steps / step_size: creeping, 2.0: doubled}
        several, random = run(replace(attack, restarts=restarts)), run(noise)
        compared = [softmax, at_large, at_half, halved, creeping, doubled, several, random]
        again = next((one for one in compared if not repeats(given.logits, one.logits)), softmax)
        repeatable = check_repeatable(given.logits, again.logits)
        if not (given.repeatable and repeatable.passed):
            bar.total = bar.n
            return [replace(repeatable, passed=False), *blind]
        soft = softening_factor(given.logits, SOFT)
        factors = (*FACTORS, soft) if soft < 1 else FACTORS
        bar.total -= (soft >= 1) * len(data)
        labels = torch.cat([torch.as_tensor(batch["labels"]).flatten() for batch in data])
        return [
            check_answers(Answers.of(given.predictions.tolist(), labels.tolist())),
            repeatable,
            check_large_radius(at_large),
            check_radii([at_half, given, at_large]),
            check_steps(halved, given),
            check_step_size(given, stepping),
            check_restarts(given, several),
            check_noise(given, random),
            check_cross_entropy(given, softmax),
            check_softmax_scale(softmax, {one: run(ascending, one) for one in factors}),
            check_margin_scale(given, {one: run(attack, one) for one in FACTORS}),
            *blind,
            check_confidence(given.clean_confidences.tolist(), _wrong_confidences(creeping)),
        ]


def _wrong_confidences(result: EmbeddingRobustness) -> list[float]:
    """Of the examples that fell at the largest radius, at the moment of falling."""
    fallen = result.standing(0.0) & ~result.standing(result.radii[-1])
    confidences: list[float] = result.confidences[fallen, -1].tolist()
    return confidences
