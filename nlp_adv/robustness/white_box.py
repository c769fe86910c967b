"""The attack on word embeddings as a part of an evaluation: records, curve and masking checks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from nlp_adv.attacks.words.encoding import Splicer
from nlp_adv.attacks.words.engine import Text
from nlp_adv.attacks.words.victim import Victim
from nlp_adv.errors import UserError
from nlp_adv.perturbation.evaluating import answers
from nlp_adv.robustness.check_result import Check
from nlp_adv.robustness.checks import (
    check_records,
    check_transfer,
    embedding_checks,
    standing,
)
from nlp_adv.robustness.curve import Curve, curve_of
from nlp_adv.robustness.embedding import EmbeddingPGD, embedding_robustness
from nlp_adv.robustness.record import Record, Substitution
from nlp_adv.sites.any_model import answering

ROWS = 64  # a batch


@dataclass(frozen=True)
class WhiteBox:
    """What is tried on the embeddings.

    Args:
        attack: projected gradient ascent at some radii.
        examples: of the attacked texts, the first so many.
        checks: whether to run the masking checks as well, at the middle one of the radii.
        check_examples: with so many of them.

    Raises:
        UserError: no radius above 0, or two that are written alike.
    """

    attack: EmbeddingPGD
    examples: int = 200
    checks: bool = True
    check_examples: int = 100

    def __post_init__(self) -> None:
        if not any(epsilon > 0 for epsilon in self.attack.epsilons):
            raise UserError(
                f"The attack on embeddings needs a radius above 0, not only "
                f"{', '.join(f'{epsilon:g}' for epsilon in self.attack.epsilons)}."
            )
        if len(set(self.names())) < len(self.names()):
            raise UserError(f"Two radii are written alike: {', '.join(self.names())}.")

    @property
    def hash(self) -> str:
        """12 hexadecimal digits of SHA-256 over the attack's numbers."""
        numbers = json.dumps(asdict(self.attack), sort_keys=True)
        return hashlib.sha256(numbers.encode()).hexdigest()[:12]

    def names(self) -> list[str]:
        """Of its attacks in the records, one a radius."""
        return [f"{self.attack.title}@{epsilon:g}" for epsilon in sorted(self.attack.epsilons)]

    def records(
        self, victim: Victim, splicer: Splicer, texts: Sequence[Text], *, progress: bool
    ) -> tuple[list[Record], list[str]]:
        """Attack the texts; with the records comes what they must not be shown without."""
        chosen = _by_length(splicer, texts[: self.examples])
        title = f"Attacking with {self.attack.title}" if progress else None
        batches = list(_batches(victim, splicer, chosen))
        with answering(victim.model):
            found = embedding_robustness(
                victim.model, batches, self.attack, embedding=victim.embedding, progress=title
            )
        contexts = [text.context for text in chosen]
        records = found.records(
            [text.text for text in chosen],
            [text.label for text in chosen],
            contexts=None if None in contexts else [str(one) for one in contexts],
            ids=[text.id for text in chosen],
        )
        return records, found.doubts

    def curve(self, records: Iterable[Record]) -> Curve:
        """Accuracy by radius, from the records of all attacks."""
        tried = {float(epsilon) for epsilon in self.attack.epsilons}
        mine = (r for r in records if r.attack == self.attack.title and r.epsilon in tried)
        norm = {"l2": "L2", "linf": "L∞", "l1": "L1"}[self.attack.norm]
        unit = {"relative": "share of the embedding norm"}.get(self.attack.unit, self.attack.unit)
        return curve_of(
            mine,
            title=f"PGD-{self.attack.steps} (α = {self.attack.step_size:g}·ε) on the embeddings, "
            f"{norm} per {self.attack.per}",
            x_label=f"ε, {unit}",
        )

    def found_checks(
        self, victim: Victim, splicer: Splicer, texts: Sequence[Text], *, progress: bool
    ) -> list[Check]:
        """The masking checks at the middle radius."""
        chosen = _by_length(splicer, texts[: self.check_examples])
        radii = sorted(epsilon for epsilon in self.attack.epsilons if epsilon > 0)
        with answering(victim.model):
            return embedding_checks(
                victim.model,
                list(_batches(victim, splicer, chosen)),
                epsilon=radii[len(radii) // 2],
                steps=self.attack.steps,
                step_size=self.attack.step_size,
                norm=self.attack.norm,
                per=self.attack.per,
                unit=self.attack.unit,
                seed=self.attack.seed,
                embedding=victim.embedding,
                progress="Checking for masking" if progress else None,
            )


def record_checks(records: Sequence[Record], attacks: Iterable[str]) -> list[Check]:
    """What the records of each attack tell, under its name."""
    return [
        replace(check, name=f"{check.name} ({attack})")
        for attack in attacks
        for check in check_records(record for record in records if record.attack == attack)
    ]


def transfer_checks(
    victim: Victim, splicer: Splicer, records: Sequence[Record], other: Sequence[Record]
) -> list[Check]:
    """Whether another model's adversarial texts break this one more than its own attacks do.

    Args:
        victim, splicer: this model.
        records: of attacks on it.
        other: of attacks on the other model; those on embeddings have no texts to try.
    """
    checks = []
    for attack in dict.fromkeys(record.attack for record in records):
        theirs = [record for record in other if record.attack == attack]
        words = [one.found for one in theirs if isinstance(one.found, Substitution)]
        if not words:
            continue
        rows = splicer.whole([(one.adversarial, one.context) for one in words])
        said = answers(victim.logits(rows)).tolist()
        stood = {r.id: answer == r.label for r, answer in zip(theirs, said, strict=True)}
        direct = standing(record for record in records if record.attack == attack)
        check = check_transfer(direct, stood)
        checks.append(replace(check, name=f"{check.name} ({attack})"))
    return checks


def _by_length(splicer: Splicer, texts: Sequence[Text]) -> list[Text]:
    rows = splicer.whole([(text.text, text.context) for text in texts])
    order = sorted(range(len(texts)), key=lambda place: len(rows[place].ids))
    return [texts[place] for place in order]


def _batches(victim: Victim, splicer: Splicer, texts: Sequence[Text]) -> Iterable[dict[str, Any]]:
    for start in range(0, len(texts), ROWS):
        some = texts[start : start + ROWS]
        rows = splicer.whole([(text.text, text.context) for text in some])
        labels = torch.tensor([text.label for text in some], device=victim.device)
        yield victim.padded(rows) | {"labels": labels}
