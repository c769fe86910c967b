"""All numbers of a report, computed once; tables, page and files only show them."""

from __future__ import annotations

import math
import statistics as plain
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from nlp_adv.errors import UserError
from nlp_adv.report.content import ModelResult, Report
from nlp_adv.report.unlike import check_same_texts, check_same_threat
from nlp_adv.robustness.answers import Answers
from nlp_adv.robustness.paired import holm, mcnemar
from nlp_adv.robustness.seeds import Interval, difference_over_seeds, mean_over_seeds
from nlp_adv.robustness.statistics import Share, Summary, is_robust, worst_case

CLEAN, WORST = "clean", "worst case"
MARKED_FROM = 3  # seeds on both sides: fewer do not show how much seeds differ
LEVEL = 0.05  # of the marks, for all of a table together

Right = Mapping[int, bool]  # id → whether the answer is right


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (n − 1) over seeds; sd is nan for one seed."""

    mean: float
    sd: float = math.nan

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Seeds without a value are left out; none at all give nan."""
        known = [value for value in values if not math.isnan(value)]
        mean = plain.fmean(known) if known else math.nan
        return cls(mean, plain.stdev(known) if len(known) > 1 else math.nan)


@dataclass(frozen=True, kw_only=True)
class Score:
    """How many texts one method answers rightly: without attack, under one, or under all.

    Args:
        shares: one a seed.
        over_seeds: of their values.
        low, high: 95 %, over texts for one seed, over seeds and texts for several.
        clean: of the same texts without attack.
        difference: to the baseline, on the texts that both have; None for the baseline itself.
        seeds: the fewer of the seeds on its two sides.
        p: of the difference: exact McNemar where both have one seed, otherwise the interval's.
        p_holm: the same after Holm's correction over the primary comparisons, or over all of the
            table where none were named; None of the others.
    """

    shares: tuple[Share, ...]
    over_seeds: Spread
    low: float
    high: float
    clean: Spread
    difference: Interval | None = None
    seeds: int = 0
    p: float | None = None
    p_holm: float | None = None

    @property
    def told(self) -> bool:
        """Whether the difference is told from 0: enough seeds, and a small p after correction."""
        return self.seeds >= MARKED_FROM and self.p_holm is not None and self.p_holm < LEVEL


@dataclass(frozen=True, kw_only=True)
class MethodNumbers:
    """One method over its seeds.

    Args:
        name: of the method.
        models: its seeds.
        answers: what each of them answers without attack.
        scores: by measure: `CLEAN`, the attacks, `WORST`; one that is missing was not measured.
    """

    name: str
    models: tuple[ModelResult, ...]
    answers: tuple[Answers, ...]
    scores: Mapping[str, Score]

    @property
    def constant(self) -> list[Answers]:
        """Those of the seeds that give one answer to every text, or nearly."""
        return [one for one in self.answers if one.constant]

    @property
    def failed(self) -> int:
        """How many checks of its models fail."""
        return sum(check.passed is False for model in self.models for check in model.checks)

    def over_seeds(self, attack: str, name: str) -> Spread:
        """Mean and sd of one field of an attack's `Summary`; nan where a seed did not see it."""
        known = self.models if attack in self.scores else ()
        return Spread.of([value_of(model.summaries[attack], name) for model in known])


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """All methods, the baseline first; attacks and measures in the order of the columns.

    Args:
        methods: with their numbers.
        attacks: their titles.
        measures: without attack, under each attack, and the worst case.
        together: the attacks that the worst case is over.
    """

    methods: tuple[MethodNumbers, ...]
    attacks: tuple[str, ...]
    measures: tuple[str, ...]
    together: tuple[str, ...]

    @property
    def main(self) -> str:
        """The measure that a report is told by in one sentence."""
        return WORST if WORST in self.measures else self.attacks[0]

    @property
    def baseline(self) -> MethodNumbers:
        """What the others are compared with."""
        return self.methods[0]

    @property
    def several_seeds(self) -> bool:
        """Whether any method has more than one."""
        return any(len(method.models) > 1 for method in self.methods)


def numbers_of(report: Report) -> Numbers:
    """Compute all that the report shows.

    Raises:
        UserError: there is nothing to report, an attack has the name of another column, or the
            models were not attacked on the same texts, or not with the same ε.
    """
    records = [record for model in report.models for record in model.records]
    attacks = tuple(dict.fromkeys(record.title for record in records))
    if not attacks:
        raise UserError("There are no records to report; attack at least one model first.")
    if taken := {CLEAN, WORST} & set(attacks):
        raise UserError(f"An attack cannot be called {taken.pop()!r}; give it another name.")
    check_same_texts(report.models)
    check_same_threat(report.models)
    # Words or pixels. Texts and embeddings are not put together: any radius large enough would
    # decide the worst case.
    moved = (one.title for one in records if one.changes_text or one.text is None)
    together = tuple(dict.fromkeys(moved))
    others = [attack for attack in attacks if attack not in together]
    measures = (CLEAN, *together, *([WORST] if len(together) > 1 else []), *others)
    methods = report.methods()
    right = {
        (name, measure): [right_answers(model, measure, together) for model in models]
        for name, models in methods.items()
        for measure in measures
    }
    baseline = next(iter(methods))
    scores = {
        (name, measure): _score(
            seeds, None if name == baseline else right[baseline, measure], right[name, CLEAN]
        )
        for (name, measure), seeds in right.items()
        if all(seeds)
    }
    tested = {key: score.p for key, score in scores.items() if score.p is not None}
    adjusted = holm({key: p for key, p in tested.items() if is_tested(report, *key)})
    scores |= {key: replace(scores[key], p_holm=p) for key, p in adjusted.items()}
    return Numbers(
        methods=tuple(
            MethodNumbers(
                name=name,
                models=tuple(models),
                answers=tuple(Answers.of_records(one.records) for one in models if one.records),
                scores={one: scores[name, one] for one in measures if (name, one) in scores},
            )
            for name, models in methods.items()
        ),
        attacks=attacks,
        measures=measures,
        together=together,
    )


def is_tested(report: Report, method: str, measure: str) -> bool:
    """Whether a comparison with the baseline is one of those that p-values and marks are of."""
    return not report.primary or (method, measure) in report.primary


def right_answers(model: ModelResult, measure: str, together: Sequence[str]) -> Right:
    """Which examples a model answers rightly; empty where that was not measured.

    Args:
        model: with its records.
        measure: `CLEAN`, `WORST` or an attack's title.
        together: the attacks that the worst case is over.
    """
    if measure == CLEAN:
        return {record.id: record.attacked for record in model.records}
    if measure != WORST:
        return {one.id: is_robust(one, model.within) for one in model.under(measure)}
    # An example that one attack never saw has no worst case; a model that one never saw, neither.
    ids = [{record.id for record in model.under(attack)} for attack in together]
    common = set.intersection(*ids) if ids else set()
    chosen = [one for one in model.records if one.id in common and one.title in together]
    return worst_case(chosen, model.within) if common else {}


def value_of(summary: Summary, name: str) -> float:
    """One field of a summary, a share as its value."""
    value = getattr(summary, name)
    return float(value.value if isinstance(value, Share) else value)


def share(right: Right) -> Share:
    """So many of them."""
    return Share(sum(right.values()), len(right))


def _score(
    seeds: Sequence[Right], baseline: Sequence[Right] | None, clean: Sequence[Right]
) -> Score:
    shares = tuple(share(seed) for seed in seeds)
    if len(seeds) == 1:
        low, high = shares[0].interval()
    else:
        common = _on_common(seeds)
        low, high = mean_over_seeds(common) if common[0] else (math.nan, math.nan)
    same = [
        share({number: before[number] for number in seed}).value
        for seed, before in zip(seeds, clean, strict=True)
    ]
    over_seeds = Spread.of([share.value for share in shares])
    score = Score(shares=shares, over_seeds=over_seeds, low=low, high=high, clean=Spread.of(same))
    if baseline is None or not all(baseline):
        return score
    compared = _on_common([*seeds, *baseline])
    if not compared[0]:
        return score
    mine, theirs = compared[: len(seeds)], compared[len(seeds) :]
    found = difference_over_seeds(mine, theirs)
    p = mcnemar(theirs[0], mine[0]) if len(compared) == 2 else found.p
    fewest = min(len(mine), len(theirs))
    return replace(score, difference=replace(found, p=p), seeds=fewest, p=p)


def _on_common(seeds: Sequence[Right]) -> list[dict[int, bool]]:
    """The answers to those texts that every seed has."""
    ids = set.intersection(*map(set, seeds))
    return [{number: seed[number] for number in ids} for seed in seeds]
