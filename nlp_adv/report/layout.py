"""The report's tables, ready to show: page and Markdown print the same cells."""

from __future__ import annotations

import math
from collections.abc import Callable
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
    signed,
    spread,
)
from nlp_adv.report.content import PublishedValue, Report
from nlp_adv.report.numbers import CLEAN, MethodNumbers, Numbers, Score, Spread
from nlp_adv.report.unlike import share_of_a_token
from nlp_adv.robustness.seeds import mean_of_shares


def accuracy_table(report: Report, numbers: Numbers) -> Table:
    """A row a method; columns clean, each attack, the worst case over all."""
    columns = [_with_share(report, measure) for measure in numbers.measures]
    rows = []
    for method in numbers.methods:
        clean = method.scores.get(CLEAN)
        cells = [_score(method.scores.get(measure), clean) for measure in numbers.measures]
        rows.append((_method(method, report), *cells))
    return Table.of(("method", *columns), *rows)


def clean_table(report: Report, numbers: Numbers) -> Table:
    """A row a method: accuracy on all test examples where it is known, and the largest answer."""
    all_texts = any(model.clean is not None for model in report.models)
    everywhere = [f"clean, all test {report.noun}s"] if all_texts else []
    rows: list[tuple[Cell | str, ...]] = [
        (method.name, *([_all_texts(method)] if all_texts else []), _largest(method))
        for method in numbers.methods
    ]
    return Table.of(("method", *everywhere, "largest answer"), *rows)


def _with_share(report: Report, measure: str) -> str:
    """The name of a column; of an attack on embeddings, what ε is of a token's norm."""
    shares = (share_of_a_token(model.records, measure) for model in report.models)
    share = next((share for share in shares if share is not None), None)
    return measure if share is None else f"{measure} (up to {100 * share:.2g} % of a token)"


def _method(method: MethodNumbers, report: Report) -> Cell:
    """Its name, with warnings where a seed gives one answer to every text or fails a check."""
    seeds = len(method.models)
    notes = [f"{seeds} seeds"] if seeds > 1 else []
    if method.constant:
        several = f"{len(method.constant)} of {len(method.answers)} seeds say"
        who = several if len(method.answers) > 1 else "says"
        answers = "”, “".join(dict.fromkeys(report.label(one.answer) for one in method.constant))
        notes.append(f"⚠ {who} “{answers}” to every {report.noun}: its share is no robustness")
    if method.failed:
        notes.append(f"⚠ {method.failed} failed {'check' if method.failed == 1 else 'checks'}")
    return Cell(method.name, tuple(notes), "bad" if method.failed or method.constant else "")


def _largest(method: MethodNumbers) -> Cell:
    """How often the most frequent answer is given, and how often the most frequent label comes."""
    shares = Spread.of([one.largest.value for one in method.answers])
    labels = Spread.of([one.label.value for one in method.answers])
    notes = (f"of the labels {percent(labels.mean)}",) if method.answers else ()
    return Cell(spread(shares, percent), notes, "bad" if method.constant else "")


def _all_texts(method: MethodNumbers) -> Cell:
    known = [model.clean for model in method.models if model.clean is not None]
    notes = (interval(*mean_of_shares(known)),) if known else ()
    return Cell(spread(Spread.of([share.value for share in known]), percent), notes)


def _score(score: Score | None, clean: Score | None) -> Cell:
    """An accuracy; of an attack on other texts than the column "clean" is of, what it was there."""
    if score is None:
        return Cell(MISSING)
    notes = [interval(score.low, score.high)]
    of = percent(score.clean.mean)
    if clean is None or of != percent(clean.over_seeds.mean):
        notes.insert(0, f"of {of} clean")
    if score.difference is not None:
        notes.append(difference(score))
    if score.p_holm is not None:
        notes.append(p_value(score.p_holm))
    return Cell(spread(score.over_seeds, percent), tuple(notes))


# Column → field of a `Summary`, and how it is shown.
_Columns = dict[str, tuple[str, Callable[[float], str]]]
_DETAILS: _Columns = {
    "attack succeeds, %": ("success", percent),
    "queries a text": ("queries", number),
    "words changed, %": ("words_changed", percent),
    "stopped by the budget, %": ("budget_stopped", percent),
}
_OF_IMAGES: _Columns = {
    "attack succeeds, %": ("success", percent),
    "fooled, %": ("fooled", percent),
    "after rounding to 8 bits, %": ("fooled_8_bit", percent),
    "‖δ‖₂": ("l2", norm),
    "‖δ‖∞": ("linf", norm),
    "‖δ‖₁": ("l1", norm),
    "gradients an image": ("gradient_passes", number),
    "no gradient, %": ("zero_gradients", percent),
}


def attack_table(report: Report, numbers: Numbers) -> Table:
    """A row an attack and method: what the attack achieved, and what it took."""
    details = _OF_IMAGES if report.of_images else _DETAILS
    head = ("attack: method", "clean, %", "accuracy, %", *details, f"{report.noun}s")
    rows: list[tuple[Cell | str, ...]] = []
    for attack in numbers.attacks:
        for method in (one for one in numbers.methods if attack in one.scores):
            score = method.scores[attack]
            texts = {model.summaries[attack].examples for model in method.models}
            left = Cell(spread(score.over_seeds, percent), (interval(score.low, score.high),))
            shown = [
                spread(method.over_seeds(attack, name), show) for name, show in details.values()
            ]
            counts = "–".join(str(count) for count in sorted({min(texts), max(texts)}))
            named = f"{attack}: {method.name}", spread(score.clean, percent)
            rows.append((*named, left, *shown, counts))
    return Table.of(head, *rows)


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
            for check in (one for one in model.checks if one.passed is verdict):
                shown = check.name, model.title, check.finding, check.meaning
                rows.append((Cell(text, (), tone), *shown))
    return Table.of(("verdict", "check", "model", "finding", "what a failure means"), *rows)


def passed_table(report: Report) -> Table:
    """A row a kind of check: how many models passed it."""
    counts: dict[str, list[bool]] = {}
    for model in report.models:
        for check in model.checks:
            counts.setdefault(check.name, []).append(check.passed is True)
    rows = [(name, f"{sum(passed)} of {len(passed)}") for name, passed in counts.items()]
    return Table.of(("check", "models that passed"), *(row for row in rows if row[1][0] != "0"))


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
        rows.append(row)
    return Table.of(("method", *kinds), *rows)


def published_table(report: Report, numbers: Numbers) -> Table:
    """A row a published value, with ours where this report has one."""
    methods = {method.name: method for method in numbers.methods}
    rows: list[tuple[Cell | str, ...]] = []
    for one in report.published:
        theirs = f"{one.value:,g}" + ("" if one.spread is None else f" ± {one.spread:g}")
        scale, show = (1, number) if one.metric == "queries" else (100, "{:.1f}".format)
        found = ours_for(one, methods.get(one.method))
        ours = Spread(scale * found.mean, scale * found.sd)
        known = not math.isnan(ours.mean)
        mine, gap = (spread(ours, show), signed(ours.mean - one.value)) if known else [MISSING] * 2
        read = Cell("read in the paper") if one.verified else Cell("unverified", (), "open")
        named = one.method, one.attack or MISSING, one.metric
        rows.append((*named, theirs, mine, gap, read, one.source))
    head = ("method", "attack", "metric", "published", "here", "here − published", "", "source")
    return Table.of(head, *rows)


_METRICS = {"success": "success", "words changed": "words_changed", "queries": "queries"}


def ours_for(one: PublishedValue, method: MethodNumbers | None) -> Spread:
    """Our share or number of queries for a published value; nan where there is none."""
    if method is None:
        return Spread(math.nan)
    if one.metric in _METRICS:
        return method.over_seeds(one.attack, _METRICS[one.metric])
    everywhere = [model.clean.value for model in method.models if model.clean]
    if one.metric == "clean" and len(everywhere) == len(method.models):
        return Spread.of(everywhere)  # papers test all texts and attack some
    score = method.scores.get(CLEAN if one.metric == "clean" else one.attack)
    return score.over_seeds if score else Spread(math.nan)


def run_facts(report: Report, numbers: Numbers) -> dict[str, Any]:
    """Data, seeds and environment."""
    trained = {
        f"seeds of {method.name}": [m.seed for m in method.models if m.seed is not None]
        for method in numbers.methods
    }
    drawn = {} if report.seed is None else {"seed of the draw of texts": report.seed}
    known = {name: seeds for name, seeds in trained.items() if seeds}
    return {"data": report.data, **drawn, **known, **report.environment}
