"""Accuracy under attack on the word embeddings: the white-box measure.

    an example is robust at ε  ⇔  no δ with ‖δ‖ ≤ ε that was tried changed the model's right answer

The ascent maximises the logit margin max_{j≠y} z_j − z_y, never a softmax probability: a model
whose logits are scaled up saturates the softmax and looks robust, while its answers are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from nlp_adv.attacks import PGD, Ladder, Measured, ladder
from nlp_adv.attacks.losses import Loss
from nlp_adv.attacks.subject import Batch, Subject
from nlp_adv.errors import UserError
from nlp_adv.perturbation import BALLS, Per, Unit
from nlp_adv.sites.embeddings import EmbeddingSite
from nlp_adv.sites.site import Site

STEP_SIZE = 2.0  # of the first step, in shares of ε: it crosses the ball whatever its curvature


def embedding_pgd(
    epsilons: Sequence[float],
    steps: int = 20,
    restarts: int = 1,
    norm: str = "l2",
    per: Per = "example",
    unit: Unit = "relative",
    seed: int = 0,
    loss: Loss = "margin",
    step_size: float = STEP_SIZE,
) -> Ladder:
    """The attack on embeddings to report: PGD of shortening steps, at some radii.

    The margin is the loss to report. The cross entropy is there for comparison: its gradient is
    the margin's times 1 − p_y, and where the right answer's probability p_y rounds to 1 nothing
    is left of it. An attack that cannot see is then taken for a model that cannot be attacked
    (Carlini and Wagner, 2017, on defensive distillation).

    Args:
        epsilons: the radii, in `unit`, any order; they are tried from the smallest up, and an
            example that is fooled at one is not tried at a larger one, whose ball holds the same δ.
        steps: K ascent steps from each start.
        restarts: starts; the first is the clean point, the others are uniform in the ball.
        norm, per, unit: the ball's; a "relative" ε is a share of the L2 norm of the example's own
            embeddings (of one of its tokens with `per="token"`, in the root mean square), and
            of what vectors of that size measure in the other norms.
        seed: of the random starts.
        loss: what is ascended.
        step_size: α, the length of the first step, in shares of ε; see `PGD.shorten`.

    Raises:
        ValueError: a number that is none of these.

    Cost: at most K·restarts·radii passes of ⅔ of a training step, on examples not fooled yet.
    """
    if norm not in BALLS:
        raise ValueError(f"Unknown norm {norm!r}; choose from {', '.join(BALLS)}.")
    if steps < 1:
        raise ValueError("steps and restarts must be ≥ 1.")
    if not 0 < step_size < float("inf"):
        raise ValueError(f"step_size is a share of ε above 0, not {step_size}.")
    attack = PGD(
        BALLS[norm](1.0, per),
        step_size,
        steps,
        random_start=False,
        loss=loss,
        until_fooled=True,
        seed=seed,
        unit=unit,
        shorten=True,
    )
    if not isinstance(epsilons, int | float) and not len(epsilons):
        raise ValueError("epsilons needs at least one radius; all must be finite and ≥ 0.")
    kind = "embedding-pgd" if loss == "margin" else "embedding-pgd-ce"
    name = f"{kind}-{norm}" + ("-token" if per == "token" else "")
    name += "" if unit == "relative" else f"-{unit}"
    return ladder(attack, epsilons, restarts=restarts, name=name)


def embedding_robustness(
    model: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    attack: Ladder,
    *,
    embedding: str | None = None,
    site: Site | None = None,
    special_ids: Sequence[int] = (),
    progress: str | None = None,
) -> Measured:
    """Attack a classifier on every batch.

    The model is attacked in eval mode and left as it was: flags, gradients and random state.

    Args:
        model: a Hugging Face sequence classifier.
        batches: dicts of tensors with "input_ids" and "labels" (B,), e.g. a DataLoader.
        attack: the attack and its radii, such as `embedding_pgd((0.02, 0.05))`, or a `ladder` of
            any attack.
        embedding: the embedding module's name, for models that do not say.
        site: where δ enters instead, such as `LayerSite("bert.encoder.layer.3")`.
        special_ids: ids that are not perturbed.
        progress: the title of a progress bar; none is shown without.

    Raises:
        UserError: no data, a model or data that is not for single-label classification, or a
            model whose weights or answers are no finite numbers.
    """
    subject = Subject(model, site or EmbeddingSite(embedding), special_ids)
    return accuracies(subject, batches, attack, progress=progress)


def accuracies(
    subject: Subject,
    batches: Iterable[Batch],
    attack: Ladder,
    *,
    target: int | None = None,
    progress: str | None = None,
) -> Measured:
    """Accuracy under an attack at each of its radii, of whatever is attacked.

    Args:
        subject: a model, and where δ enters it.
        batches: of labelled examples.
        attack: at some radii.
        target: class to lead examples to; None for any wrong answer.
        progress: the title of a progress bar; none is shown without.

    Raises:
        UserError: as `embedding_robustness`.
    """
    with tqdm(batches, desc=progress, disable=progress is None, unit="batch") as bar:
        found = subject.measure(attack, bar, target=target)
    if not torch.isfinite(found.logits).all(-1).any():
        raise UserError(
            "The model cannot be evaluated: it answers every row with inf or nan. Its training "
            "has diverged, or its precision is too low: try float32."
        )
    return found
