"""What an attack on the word embeddings did, example by example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nlp_adv.attacks.words.result import Outcome
from nlp_adv.robustness.embedding_attacks import EmbeddingAttack
from nlp_adv.robustness.record import Point, Record, digits_of_text


@dataclass(frozen=True)
class EmbeddingRobustness:
    """What the attack did to N examples at R radii, in the order of the data.

    Args:
        attack: the attack.
        broken_at: (N,) the smallest tried radius at which the example fell; 0 where the model was
            wrong without attack, inf where it stood at all of them.
        predictions: (N,) the answers without attack.
        logits: (N, C) without attack.
        answers: (N, R) the last answer seen at each radius, from the smallest up; of a fallen
            example the one with which it fell.
        confidences: (N, R) the softmax probability of that answer.
        forwards: (N, R) forward passes that the example took up to and with that radius, the one
            without attack included.
        gradient_passes: (N,) passes among them in which ∇δ was computed.
        gradient_norms: (N,) ‖∇δ loss‖₂ at the clean point, δ in the attack's unit; 0 only where
            the gradient is exactly 0, nan where none was taken.
        tokens: (N,) without padding.
        unit_lengths: (N,) how long the attack's unit is in each example, in absolute terms.
        embedding_lengths: (N,) the same of the unit "relative": the norm of its embeddings.
        repeatable: the pass of the first gradient, which is at δ = 0, said what the one without
            attack did; True where none was taken.
    """

    attack: EmbeddingAttack
    broken_at: Tensor
    predictions: Tensor
    logits: Tensor
    answers: Tensor
    confidences: Tensor
    forwards: Tensor
    gradient_passes: Tensor
    gradient_norms: Tensor
    tokens: Tensor
    unit_lengths: Tensor
    embedding_lengths: Tensor
    repeatable: bool = True

    @property
    def examples(self) -> int:
        """N."""
        return len(self.broken_at)

    @property
    def radii(self) -> tuple[float, ...]:
        """The R radii, from the smallest up."""
        return tuple(sorted(self.attack.epsilons))

    @property
    def passes(self) -> int:
        """Gradient passes × rows, the work of the attack."""
        return int(self.gradient_passes.sum())

    @property
    def clean_accuracy(self) -> float:
        """Share of right answers without attack."""
        return self._share(self.standing(0.0))

    @property
    def clean_confidences(self) -> Tensor:
        """(N,) softmax probability of the answers without attack."""
        return self.logits.softmax(-1).amax(-1)

    @property
    def is_constant(self) -> bool:
        """Whether every answer without attack is the same: then nothing was learnt."""
        return self.examples > 1 and bool((self.predictions == self.predictions[0]).all())

    @property
    def doubts(self) -> list[str]:
        """What the accuracies must not be shown without, a sentence each; mostly nothing."""
        found = []
        if not self.repeatable:
            found.append(
                "answers at random: twice the same rows got different logits, and the longer an "
                "attack looks, the more wrong answers it sees."
            )
        unknown = int((~torch.isfinite(self.logits).all(-1)).sum())
        if unknown:
            found.append(
                f"answers {unknown} of {self.examples} rows with inf or nan, which count as wrong."
            )
        seen = self.gradient_norms[~self.gradient_norms.isnan()]
        if len(seen) and not seen.any():
            found.append(
                "shows an attack no gradient of its embeddings: nothing was tried, and the "
                "accuracy under attack says nothing."
            )
        return found

    def accuracy(self, epsilon: float) -> float:
        """Share of right answers that stood at the tried radius ε."""
        return self._share(self.standing(epsilon))

    def standing(self, epsilon: float) -> Tensor:
        """(N,) whether the answer is right and stood at the tried radius ε."""
        return self.broken_at > max(epsilon, 0.0)

    def absolute(self, epsilon: float) -> float:
        """A radius of the attack as the embeddings measure it, in the mean over the examples."""
        return epsilon * self.unit_lengths.double().mean().item()

    def relative(self, epsilon: float) -> float:
        """The same radius as a share of the embedding norm, in the mean over the examples."""
        shares = self.unit_lengths.double() / self.embedding_lengths.double()
        return epsilon * shares.mean().item()

    def records(
        self,
        texts: Sequence[str],
        labels: Sequence[int],
        *,
        contexts: Sequence[str] | None = None,
        ids: Sequence[int] | None = None,
        first_id: int = 0,
    ) -> list[Record]:
        """One record an example and radius, all examples of the smallest radius first.

        `forwards` are the passes up to and with that radius, `gradient_passes` those of all radii.
        Of an example that the model is robust to, the adversarial prediction and confidence are
        those of the last iterate.

        Args:
            texts, labels: of the N examples, in the order in which they were attacked.
            contexts: their other texts, of pairs.
            ids: their numbers in the data, where they were attacked in another order.
            first_id: the number of the first one, where they were not.

        Raises:
            ValueError: not N of them.
        """
        ids = range(first_id, first_id + self.examples) if ids is None else ids
        shown = [None] * self.examples if contexts is None else list(contexts)
        if any(len(one) != self.examples for one in (texts, labels, ids, shown)):
            raise ValueError(f"texts, labels, contexts and ids must be {self.examples} each.")
        clean = self.clean_confidences.tolist()
        records = []
        for place, epsilon in enumerate(self.radii):
            stood = self.standing(epsilon)
            for row in range(self.examples):
                forwards = int(self.forwards[row, place])
                records.append(
                    Record(
                        id=ids[row],
                        attack=self.attack.title,
                        epsilon=epsilon,
                        label=int(labels[row]),
                        prediction=int(self.predictions[row]),
                        adversarial_prediction=int(self.answers[row, place]),
                        outcome=_outcome(self.broken_at[row], stood[row]),
                        example=digits_of_text(texts[row], shown[row]),
                        forwards=forwards,
                        confidence=clean[row],
                        adversarial_confidence=float(self.confidences[row, place]),
                        found=Point(
                            text=texts[row],
                            context=shown[row],
                            gradient_passes=int(self.gradient_passes[row]),
                            first_gradient=float(self.gradient_norms[row]),
                            tokens=forwards * int(self.tokens[row]),
                        ),
                    )
                )
        return records

    def _share(self, standing: Tensor) -> float:
        return standing.double().mean().item()


def _outcome(broken_at: Tensor, stood: Tensor) -> Outcome:
    if broken_at == 0:
        return "wrong"
    return "robust" if bool(stood) else "fooled"


def joined(
    attack: EmbeddingAttack, batches: Sequence[dict[str, Tensor]], *, repeatable: bool
) -> EmbeddingRobustness:
    """The result of an attack whose batches were measured one by one."""
    columns = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    return EmbeddingRobustness(attack, **columns, repeatable=repeatable)
