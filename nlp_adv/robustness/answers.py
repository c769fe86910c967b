"""What a model answers without attack: whether it tells the classes apart at all.

A model that gives every example the same answer cannot be attacked, and its accuracy under every
attack is the share of one class: it looks as robust as can be, and has learnt nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nlp_adv.robustness.check_result import Check
from nlp_adv.robustness.checks_paired import LEVEL, percent
from nlp_adv.robustness.record import Record
from nlp_adv.robustness.statistics import Share

NEARLY_ALL = 0.95  # of the answers, and
APART = 0.1  # more than the largest class has of the labels: then the others hardly ever come
FEWEST = 5  # examples of other classes, below which a good model may have missed them by chance
NAME = "answers"  # of the check


@dataclass(frozen=True)
class Answers:
    """The most frequent answer without attack, beside the most frequent label.

    Args:
        answer: the class.
        largest: how often it is given.
        label: how often the most frequent label comes.
        right: how often answer and label agree.
    """

    answer: int
    largest: Share
    label: Share
    right: Share

    @classmethod
    def of(cls, answers: Sequence[int], labels: Sequence[int]) -> Answers:
        """Count them; the two are of the same examples, at least one."""
        total = len(answers)
        (answer, often), (_, usual) = (Counter(x).most_common(1)[0] for x in (answers, labels))
        right = sum(one == other for one, other in zip(answers, labels, strict=True))
        return cls(answer, Share(often, total), Share(usual, total), Share(right, total))

    @classmethod
    def of_records(cls, records: Iterable[Record]) -> Answers:
        """Of all texts in the records, each counted once however many attacks it saw."""
        texts = {record.id: (record.prediction, record.label) for record in records}
        return cls.of(*zip(*texts.values(), strict=True))

    @property
    def constant(self) -> bool:
        """Whether one answer is given to all examples, or nearly all, and their labels differ."""
        return one_answer(self.largest.value, self.label.value)


def one_answer(largest: float, label: float) -> bool:
    """The same of shares alone.

    Args:
        largest: share of the most frequent answer.
        label: share of the most frequent label; where it is 1, nothing can be told.
    """
    nearly = largest >= NEARLY_ALL and largest >= label + APART
    return label < 1 and (largest == 1 or nearly)


def check_answers(found: Answers) -> Check:
    """The model tells the classes apart: it gives not one answer to every example.

    Undecided where its accuracy is no higher, beyond chance, than that of a model which always
    says the most frequent class, and where the examples have one class only, or nearly so.
    """
    from scipy.stats import binomtest  # half a second that no --help should take

    one_class = found.label.value
    finding = (
        f"The most frequent answer without attack is class {found.answer}, given to "
        f"{found.largest.count} of {found.largest.total} ({percent(found.largest.value)}); the "
        f"largest class has {percent(one_class)} of the labels, and {percent(found.right.value)} "
        f"of the answers are right."
    )
    others = found.label.total - found.label.count
    learnt = bool(
        binomtest(found.right.count, found.right.total, one_class, alternative="greater").pvalue
        < LEVEL
    )
    passed: bool | None = True if learnt else None
    if others >= FEWEST and found.constant:
        passed = False
    return Check(
        name=NAME,
        passed=passed,
        finding=finding,
        meaning="The model has learnt to say one class, or hardly more than that: its accuracy "
        "under attack is the share of that class and no robustness.",
    )
