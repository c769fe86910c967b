"""The report's tables, ready to show: page and Markdown print the same cells."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from nlp_adv.report.cells import (
    MISSING,
    Cell,
    Table,
    Tone,
    difference,
    interval,
    norm,
    number,
    p_value,
    percent,
    spread,
)
from nlp_adv.report.content import PublishedValue, Report
from nlp_adv.report.numbers import MethodNumbers, Numbers, Score, Spread
from nlp_adv.report.sentences import model_name
from nlp_adv.report.standing import CLEAN
from nlp_adv.report.unlike import share_of_a_token
from nlp_adv.robustness.seeds import mean_of_shares
from nlp_adv.robustness.statistics import Share, Summary


def accuracy_table(report: Report, numbers: Numbers) -> Table:
    """A row a method; columns clean, each attack, the worst case over all, the largest answer."""
    all_texts = any(
        model.clean is not None for method in numbers.methods for model in method.models
    )
    everywhere = [f"clean, all test {report.noun}s"] if all_texts else []
    columns = [_with_share(numbers, measure) for measure in numbers.measures]
    head = ("method", *everywhere, *columns, "largest answer")
    rows = []
    for method in numbers.methods:
        failed = sum(check.passed is False for model in method.models for check in model.checks)
        notes = [f"{len(method.models)} seeds"] if len(method.models) > 1 else []
        notes += _one_class(method, report)
        if failed:
            notes.append(f"⚠ {failed} failed {'check' if failed == 1 else 'checks'}")
        bad = failed or any(one.constant for one in method.answers)
        row = [Cell(method.name, tuple(notes), "bad" if bad else "")]
        if all_texts:
            row.append(_all_texts([model.clean for model in method.models]))
        row += [_score(method.scores.get(measure), measure) for measure in numbers.measures]
        rows.append((*row, _largest(method)))
    return Table(head, tuple(rows))


def _with_share(numbers: Numbers, measure: str) -> str:
    """The name of a column; of an attack on embeddings, what ε is of a token's norm."""
    of = [model.records for method in numbers.methods for model in method.models]
    records = next((some for some in of if any(r.title == measure for r in some)), ())
    share = share_of_a_token(records, measure) if records else None
    return measure if share is None else f"{measure} (up to {100 * share:.2g} % of a token)"


def _one_class(method: MethodNumbers, report: Report) -> list[str]:
    """A warning where a seed gives one answer to every text."""
    constant = {report.label(one.answer): None for one in method.answers if one.constant}
    if not constant:
        return []
    several = sum(one.constant for one in method.answers)
    who = f"{several} of {len(method.answers)} seeds say" if len(method.answers) > 1 else "says"
    return [f"⚠ {who} “{'”, “'.join(constant)}” to every {report.noun}: its share is no robustness"]


def _largest(method: MethodNumbers) -> Cell:
    """How often the most frequent answer is given, and how often the most frequent label comes."""
    shares = Spread.of([one.largest.value for one in method.answers])
    labels = Spread.of([one.label.value for one in method.answers])
    notes = (f"of the labels {percent(labels.mean)}",) if method.answers else ()
    tone: Tone = "bad" if any(one.constant for one in method.answers) else ""
    return Cell(spread(shares, percent), notes, tone)


def _all_texts(shares: Sequence[Share | None]) -> Cell:
    known = [share for share in shares if share is not None]
    notes = (interval(*mean_of_shares(known)),) if known else ()
    return Cell(spread(Spread.of([share.value for share in known]), percent), notes)


def _score(score: Score | None, measure: str) -> Cell:
    if score is None:
        return Cell(MISSING)
    notes = [] if measure == CLEAN else [f"of {percent(score.clean.mean)} clean"]
    notes.append(interval(score.low, score.high))
    if score.difference is not None:
        notes.append(difference(score))
    if score.p_holm is not None:
        notes.append(p_value(score.p_holm))
    return Cell(spread(score.over_seeds, percent), tuple(notes))


_DETAILS: dict[str, tuple[Callable[[Summary], float], Callable[[float], str]]] = {
    "attack succeeds, %": (lambda s: s.success.value, percent),
    "queries a text": (lambda s: s.queries, number),
    "words changed, %": (lambda s: s.words_changed, percent),
    "stopped by the budget, %": (lambda s: s.budget_stopped.value, percent),
}
_OF_IMAGES: dict[str, tuple[Callable[[Summary], float], Callable[[float], str]]] = {
    "attack succeeds, %": _DETAILS["attack succeeds, %"],
    "fooled, %": (lambda s: s.fooled.value, percent),
    "after rounding to 8 bits, %": (lambda s: s.fooled_8_bit.value, percent),
    "‖δ‖₂": (lambda s: s.l2, norm),
    "‖δ‖∞": (lambda s: s.linf, norm),
    "‖δ‖₁": (lambda s: s.l1, norm),
    "gradients an image": (lambda s: s.gradient_passes, number),
    "no gradient, %": (lambda s: s.zero_gradients.value, percent),
}


def attack_table(report: Report, numbers: Numbers) -> Table:
    """A row an attack and method: what the attack achieved, and what it took."""
    details = _OF_IMAGES if report.of_images else _DETAILS
    head = ("attack: method", "clean, %", "accuracy, %", *details, f"{report.noun}s")
    rows = []
    for attack in numbers.attacks:
        for method in numbers.methods:
            if attack not in method.summaries:
                continue
            texts = {summary.examples for summary in method.summaries[attack]}
            score = method.scores[attack]
            row = [Cell(f"{attack}: {method.name}"), Cell(spread(score.clean, percent))]
            row.append(Cell(spread(score.over_seeds, percent), (interval(score.low, score.high),)))
            for value, show in details.values():
                row.append(Cell(spread(method.over_seeds(attack, value), show)))
            row.append(Cell("–".join(str(number) for number in sorted({min(texts), max(texts)}))))
            rows.append(tuple(row))
    return Table(head, tuple(rows))


_VERDICTS: dict[bool | None, tuple[str, Tone]] = {
    False: ("✗ fails", "bad"),
    None: ("? undecided", "open"),
    True: ("✓ passes", "good"),
}


def check_table(report: Report, *verdicts: bool | None) -> Table:
    """A row a check with one of these verdicts, in this order of verdicts."""
    rows = []
    for verdict in verdicts:
        text, tone = _VERDICTS[verdict]
        for model in report.models:
            for check in model.checks:
                if check.passed is verdict:
                    row = [text, check.name, model_name(model), check.finding, check.meaning]
                    rows.append((Cell(row[0], (), tone), *map(Cell, row[1:])))
    return Table(("verdict", "check", "model", "finding", "what a failure means"), tuple(rows))


def cost_table(numbers: Numbers) -> Table:
    """A row a method: means over seeds, and their ratio to the baseline."""
    kinds = tuple(
        dict.fromkeys(kind for m in numbers.methods for one in m.models for kind in one.cost)
    )

    def mean(method: MethodNumbers, kind: str) -> float:
        return Spread.of([model.cost.get(kind, math.nan) for model in method.models]).mean

    rows = []
    for method in numbers.methods if kinds else ():
        row = [Cell(method.name)]
        for kind in kinds:
            value, first = mean(method, kind), mean(numbers.baseline, kind)
            ratio = value / first if first else math.nan
            shown = () if method is numbers.baseline or math.isnan(ratio) else (f"× {ratio:.2f}",)
            row.append(Cell(number(value), shown))
        rows.append(tuple(row))
    return Table(("method", *kinds), tuple(rows))


def published_table(report: Report, numbers: Numbers) -> Table:
    """A row a published value, with ours where this report has one."""
    methods = {method.name: method for method in numbers.methods}
    rows = []
    for one in report.published:
        show: Callable[[float], str] = number if one.metric == "queries" else "{:.1f}".format
        theirs = f"{one.value:,g}" + ("" if one.spread is None else f" ± {one.spread:g}")
        ours = ours_for(one, methods.get(one.method))
        apart = ours.mean - one.value
        gap = MISSING if math.isnan(apart) else f"{apart:+.1f}".replace("-", "−")
        read = Cell("read in the paper") if one.verified else Cell("unverified", (), "open")
        row = [Cell(one.method), Cell(one.attack or MISSING), Cell(one.metric), Cell(theirs)]
        mine = MISSING if math.isnan(ours.mean) else spread(ours, show)
        rows.append((*row, Cell(mine), Cell(gap), read, Cell(one.source)))
    head = ("method", "attack", "metric", "published", "here", "here − published", "", "source")
    return Table(head, tuple(rows))


def ours_for(one: PublishedValue, method: MethodNumbers | None) -> Spread:
    """Our value of what a published one measured, in its unit; nan where there is none."""
    if method is None:
        return Spread(math.nan, math.nan)
    everywhere = [model.clean.value for model in method.models if model.clean]
    if one.metric == "clean" and len(everywhere) == len(method.models):
        found = Spread.of(everywhere)  # papers test all texts and attack some
    elif one.metric in ("clean", "under attack"):
        score = method.scores.get(CLEAN if one.metric == "clean" else one.attack)
        found = score.over_seeds if score else Spread(math.nan, math.nan)
    else:
        values: dict[str, Callable[[Summary], float]] = {
            "success": lambda s: s.success.value,
            "words changed": lambda s: s.words_changed,
            "queries": lambda s: s.queries,
        }
        found = method.over_seeds(one.attack, values[one.metric])
    scale = 1 if one.metric == "queries" else 100
    return Spread(scale * found.mean, scale * found.sd)


def run_facts(report: Report, numbers: Numbers) -> dict[str, Any]:
    """Data, seeds and environment."""
    trained = {
        f"seeds of {method.name}": [m.seed for m in method.models if m.seed is not None]
        for method in numbers.methods
    }
    drawn = {} if report.seed is None else {"seed of the draw of texts": report.seed}
    known = {name: seeds for name, seeds in trained.items() if seeds}
    return {"data": report.data, **drawn, **known, **report.environment}
