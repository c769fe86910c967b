"""Accuracy under projected gradient ascent on the word embeddings: the white-box measure.

    an example stands at ε  ⇔  no iterate δ with ‖δ‖ ≤ ε changed the model's right answer

The ascent maximises the logit margin max_{j≠y} z_j − z_y, never a softmax probability: a model
whose logits are scaled up saturates the softmax and looks robust, while its answers are the same.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from nlp_adv.errors import UserError
from nlp_adv.perturbation import (
    BALLS,
    Ball,
    ModelObjective,
    Output,
    Per,
    ScaledObjective,
    Unit,
    advance,
    unit_length,
)
from nlp_adv.text.embeddings import EmbeddingTap, find_embedding
from nlp_adv.text.objective import text_objective

STEP_RATIO = 2.5  # step size = 2.5·ε/steps: long enough to cross the ball, short enough to settle


@dataclass(frozen=True)
class EmbeddingPGD:
    """The attack and every number that belongs to it.

    Args:
        epsilons: the radii, in `unit`, any order; they are tried from the smallest up, and an
            example that fell at one is not tried at a larger one, whose ball holds the same δ.
        steps: K ascent steps from each start.
        restarts: starts; the first is the clean point, the others are uniform in the ball.
        norm, per, unit: the ball's.
        seed: of the random starts.

    Cost: at most K·restarts·radii passes of ⅔ of a training step, on the rows still standing.
    """

    epsilons: tuple[float, ...]
    steps: int = 20
    restarts: int = 1
    norm: str = "l2"
    per: Per = "example"
    unit: Unit = "relative"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            raise ValueError("steps and restarts must be ≥ 1.")
        if self.norm not in BALLS:
            raise ValueError(f"Unknown norm {self.norm!r}; choose from {', '.join(BALLS)}.")
        if not self.epsilons or not all(0 <= e < math.inf for e in self.epsilons):
            raise ValueError("epsilons needs at least one radius; all must be finite and ≥ 0.")


@dataclass(frozen=True)
class EmbeddingRobustness:
    """What the attack did, example by example, in the order of the data.

    Args:
        attack: the attack.
        broken_at: (N,) the smallest tried radius at which the example fell; 0 where the model was
            wrong without attack, inf where it stood at all of them.
        predictions: (N,) the answers without attack.
    """

    attack: EmbeddingPGD
    broken_at: Tensor
    predictions: Tensor

    @property
    def examples(self) -> int:
        """N."""
        return len(self.broken_at)

    @property
    def clean_accuracy(self) -> float:
        """Share of right answers without attack."""
        return self._share(self.broken_at > 0)

    @property
    def is_constant(self) -> bool:
        """Whether every answer without attack is the same: then nothing was learnt."""
        return self.examples > 1 and bool((self.predictions == self.predictions[0]).all())

    def accuracy(self, epsilon: float) -> float:
        """Share of right answers that stood at the tried radius ε."""
        return self._share(self.broken_at > epsilon) if epsilon > 0 else self.clean_accuracy

    def _share(self, standing: Tensor) -> float:
        return standing.double().mean().item()


def embedding_robustness(
    model: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    attack: EmbeddingPGD,
    *,
    embedding: str | None = None,
    special_ids: Sequence[int] = (),
    progress: str | None = None,
) -> EmbeddingRobustness:
    """Attack a classifier on every batch.

    The model is attacked in eval mode and left as it was: flags, gradients and random state.

    Args:
        model: a Hugging Face sequence classifier.
        batches: dicts of tensors with "input_ids" and "labels" (B,), e.g. a DataLoader.
        attack: the attack.
        embedding: the embedding module's name, for models that do not say.
        special_ids: ids that are not perturbed.
        progress: the title of a progress bar; none is shown without.

    Raises:
        UserError: no data, or a model or data that is not for single-label classification.
    """
    tap = EmbeddingTap(find_embedding(model, embedding))
    device = next(model.parameters()).device
    broken, predictions = [], []
    with (
        _evaluating(model),
        tap.installed(),
        tqdm(batches, desc=progress, disable=progress is None) as bar,
    ):
        for index, batch in enumerate(bar):
            batch = {key: value.to(device) for key, value in batch.items()}
            rows = _Rows(model, tap, batch, special_ids, attack.seed + index)
            for epsilon in sorted(attack.epsilons):
                rows.attack(attack, epsilon)
            broken.append(rows.broken_at.cpu())
            predictions.append(rows.predictions.cpu())
    if not broken:
        raise UserError("There is nothing to attack: the data is empty.")
    return EmbeddingRobustness(attack, torch.cat(broken), torch.cat(predictions))


class _Rows:
    """One batch under attack; rows that have fallen leave it."""

    def __init__(
        self,
        model: nn.Module,
        tap: EmbeddingTap,
        batch: dict[str, Tensor],
        special_ids: Sequence[int],
        seed: int,
    ) -> None:
        self._model, self._tap, self._special_ids, self._batch = model, tap, special_ids, batch
        # One stream for all restarts: each has a start of its own.
        self._generator = torch.Generator(next(model.parameters()).device).manual_seed(seed)
        labels = batch.get("labels")
        with torch.no_grad():
            logits = self._objective().forward().logits
        if (
            logits is None
            or labels is None
            or logits.ndim != 2
            or logits.shape[1] < 2
            or labels.is_floating_point()
        ):
            raise UserError("Accuracy under attack needs a classifier with one label an example.")
        self.predictions = logits.argmax(-1)
        # argmax takes nan for the largest: such a row is wrong, whatever its label.
        right = (self.predictions == labels) & torch.isfinite(logits).all(-1)
        self.broken_at = torch.zeros(len(labels), device=labels.device)
        self.broken_at[right] = torch.inf
        self._indices = torch.arange(len(labels), device=labels.device)
        self._keep(right)

    def attack(self, attack: EmbeddingPGD, epsilon: float) -> None:
        """Try radius ε on the rows that stand."""
        ball = BALLS[attack.norm](epsilon, attack.per)
        step_size = STEP_RATIO * epsilon / attack.steps
        for restart in range(attack.restarts):
            if not len(self._indices):
                return
            objective = self._measured(ball, attack.unit)
            delta = torch.zeros_like(objective.mask)
            if restart > 0:
                delta = ball.sample(objective.mask, self._generator)
            for _ in range(attack.steps):
                fallen = torch.zeros_like(self._indices, dtype=torch.bool)
                grad = objective.gradient(delta, self._margin(fallen))
                delta = advance(delta, grad, ball=ball, step_size=step_size)
                if fallen.any():
                    delta = delta[~fallen]
                    if not self._drop(fallen, epsilon):
                        return
                    objective = self._measured(ball, attack.unit)
            fallen = torch.zeros_like(self._indices, dtype=torch.bool)
            with torch.no_grad():
                self._margin(fallen)(objective.forward(delta))
            self._drop(fallen, epsilon)

    def _margin(self, fallen: Tensor) -> Callable[[Output], Tensor]:
        """The summed margin, marking in `fallen` the rows whose answer is no longer right."""
        labels = self._batch["labels"]

        def margin(output: Output) -> Tensor:
            assert output.logits is not None
            logits = output.logits
            right = logits.gather(1, labels[:, None]).squeeze(1)
            others = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
            fallen.logical_or_(~(right > others).detach())  # a nan margin has fallen
            return (others - right).sum()

        return margin

    def _drop(self, fallen: Tensor, epsilon: float) -> bool:
        """Write down the rows that fell at ε and go on without them, if any are left."""
        self.broken_at[self._indices[fallen]] = epsilon
        self._keep(~fallen)
        return len(self._indices) > 0

    def _keep(self, standing: Tensor) -> None:
        self._indices = self._indices[standing]
        self._batch = {key: value[standing] for key, value in self._batch.items()}

    def _measured(self, ball: Ball, unit: Unit) -> ScaledObjective:
        objective = self._objective()
        return ScaledObjective(objective, unit_length(objective, ball, unit))

    def _objective(self) -> ModelObjective:
        return text_objective(
            self._model,
            self._batch,
            tap=self._tap,
            seed=0,
            special_ids=self._special_ids,
        )


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
