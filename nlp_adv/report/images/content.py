"""What a report of image attacks is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nlp_adv.attacks import AttackResult
from nlp_adv.perturbation.evaluating import NO_CLASS
from nlp_adv.robustness.check_result import Check
from nlp_adv.robustness.curve import EpsilonSweep
from nlp_adv.robustness.evaluated import Evaluation

NORMS = {"linf": "L∞", "l2": "L2", "l1": "L1"}


@dataclass(frozen=True, kw_only=True)
class ImageReport:
    """One model of images under some attacks.

    Args:
        title: of the page.
        model: its name.
        data: which images were attacked.
        found: accuracies and records.
        checks: what may speak against them.
        sweeps: accuracy over ε, by attack.
        norm: of ε: "linf", "l2" or "l1".
        exhibits: the same few images under each attack, to be drawn.
        target: class that the attacks lead to.
        labels: names of the classes.
        settings: what was asked for, by name.
        environment: versions and hardware.
        commands: that make these numbers again.
        notes: what a reader must know besides, a sentence each.
    """

    title: str
    model: str
    data: str
    found: Evaluation
    checks: Sequence[Check] = ()
    sweeps: Mapping[str, EpsilonSweep] = field(default_factory=dict)
    norm: str = "linf"
    exhibits: Mapping[str, AttackResult] = field(default_factory=dict)
    target: int | None = None
    labels: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    commands: Sequence[str] = ()
    notes: Sequence[str] = ()

    def label(self, number: int) -> str:
        """The name of a class, or its number; “no class” for logits that name none."""
        if number == NO_CLASS:
            return "no class"
        return self.labels[number] if 0 <= number < len(self.labels) else str(number)
