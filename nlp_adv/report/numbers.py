"""All numbers of a report, computed once; tables, page and files only show them."""

from __future__ import annotations

import math
import statistics as plain
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from nlp_adv.errors import UserError
from nlp_adv.report.content import ModelResult, Report
from nlp_adv.report.standing import (
    CLEAN,
    WORST,
    combined,
    records_under,
    share,
    standing,
)
from nlp_adv.report.unlike import check_same_texts, check_same_threat
from nlp_adv.robustness.answers import Answers
from nlp_adv.robustness.paired import holm, mcnemar
from nlp_adv.robustness.seeds import Interval, difference_over_seeds, mean_over_seeds
from nlp_adv.robustness.statistics import Share, Summary, summarise

MARKED_FROM = 3  # seeds on both sides: fewer do not show how much seeds differ
LEVEL = 0.05  # of the marks, for all of a table together


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (n − 1) over seeds; sd is nan for one seed."""

    mean: float
    sd: float

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
        p_holm: the same after Holm's correction over all p-values of the table.
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
        summaries: of each attack, one a seed.
    """

    name: str
    models: tuple[ModelResult, ...]
    answers: tuple[Answers, ...]
    scores: Mapping[str, Score]
    summaries: Mapping[str, tuple[Summary, ...]]

    def over_seeds(self, attack: str, value: Callable[[Summary], float]) -> Spread:
        """Mean and sd of one number of an attack."""
        return Spread.of([value(summary) for summary in self.summaries.get(attack, ())])


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
    attacks = tuple(dict.fromkeys(r.title for model in report.models for r in model.records))
    if not attacks:
        raise UserError("There are no records to report; attack at least one model first.")
    if taken := {CLEAN, WORST} & set(attacks):
        raise UserError(f"An attack cannot be called {taken.pop()!r}; give it another name.")
    check_same_texts(report.models)
    check_same_threat(report.models)
    together = combined(report.models)
    others = [attack for attack in attacks if attack not in together]
    measures = (CLEAN, *together, *([WORST] if len(together) > 1 else []), *others)
    seeds = report.methods()
    right = {
        (name, measure): [standing(model, measure, together) for model in models]
        for name, models in seeds.items()
        for measure in measures
    }
    baseline = next(iter(seeds))
    scores = {
        (name, measure): _score(
            one, None if name == baseline else right[baseline, measure], right[name, CLEAN]
        )
        for (name, measure), one in right.items()
        if all(one)
    }
    adjusted = holm({key: score.p for key, score in scores.items() if score.p is not None})
    scores |= {key: replace(scores[key], p_holm=p) for key, p in adjusted.items()}
    return Numbers(
        methods=tuple(
            MethodNumbers(
                name=name,
                models=tuple(models),
                answers=tuple(Answers.of_records(m.records) for m in models if m.records),
                scores={m: scores[name, m] for m in measures if (name, m) in scores},
                summaries=_summaries(models, attacks),
            )
            for name, models in seeds.items()
        ),
        attacks=attacks,
        measures=measures,
        together=tuple(together),
    )


def _summaries(
    models: Sequence[ModelResult], attacks: Sequence[str]
) -> dict[str, tuple[Summary, ...]]:
    under = {a: [(records_under(m.records, a), m.within) for m in models] for a in attacks}
    return {
        attack: tuple(summarise(records, within) for records, within in each)
        for attack, each in under.items()
        if all(records for records, _ in each)
    }


def _score(
    seeds: Sequence[Mapping[int, bool]],
    baseline: Sequence[Mapping[int, bool]] | None,
    clean: Sequence[Mapping[int, bool]],
) -> Score:
    shares = tuple(share(seed) for seed in seeds)
    if len(seeds) == 1:
        low, high = shares[0].interval()
    else:
        common = _on_common(seeds, seeds)
        low, high = mean_over_seeds(common) if common[0] else (math.nan, math.nan)
    same = [
        share({number: before[number] for number in seed}).value
        for seed, before in zip(seeds, clean, strict=True)
    ]
    over_seeds = Spread.of([share.value for share in shares])
    score = Score(shares=shares, over_seeds=over_seeds, low=low, high=high, clean=Spread.of(same))
    if baseline is None or not all(baseline) or not _common([*baseline, *seeds]):
        return score
    mine, theirs = _on_common(seeds, baseline), _on_common(baseline, seeds)
    found, fewest = difference_over_seeds(mine, theirs), min(len(seeds), len(baseline))
    alone = len(seeds) == len(baseline) == 1
    p = mcnemar(theirs[0], mine[0]) if alone else found.p
    return replace(score, difference=replace(found, p=p), seeds=fewest, p=p)


def _common(seeds: Sequence[Mapping[int, bool]]) -> set[int]:
    """The texts that every seed has."""
    return set.intersection(*map(set, seeds))


def _on_common(
    seeds: Sequence[Mapping[int, bool]], others: Sequence[Mapping[int, bool]]
) -> list[dict[int, bool]]:
    ids = _common([*seeds, *others])
    return [{number: seed[number] for number in ids} for seed in seeds]
