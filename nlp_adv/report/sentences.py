"""The facts of what a report says in words; the words are in sentences.j2."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from nlp_adv.report.cells import Tone, percent, points
from nlp_adv.report.content import ModelResult, Report
from nlp_adv.report.matched import Matched
from nlp_adv.report.numbers import MARKED_FROM, WORST, MethodNumbers, Numbers
from nlp_adv.report.unlike import grows, median_tokens, share_of_a_token
from nlp_adv.robustness.check_result import Check
from nlp_adv.robustness.curve import NORMS
from nlp_adv.robustness.statistics import norm_of, radius_of


def said(paragraph: str, **facts: Any) -> str:
    """The paragraph of that name, as one line."""
    written = str(getattr(_paragraphs(), paragraph)(**facts))
    return re.sub(r"[ \n]+", " ", written).strip(" ")


@cache
def _paragraphs() -> Any:
    loader = PackageLoader("nlp_adv.report", ".")
    environment = Environment(
        loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": percent, "points": points}
    environment.globals |= {"WORST": WORST, "MARKED_FROM": MARKED_FROM}
    return environment.get_template("sentences.j2").module


def summary(report: Report, numbers: Numbers, equal: Sequence[Matched] = ()) -> str:
    """The report in one sentence: who stands best, by how much, and whether to believe it.

    Best is who adds most to plain training at its own clean accuracy, where that is known: under
    attack alone an early-stopped model may stand highest.
    """
    measure = numbers.main
    for one in (one for one in equal if one.measure == measure):
        others = [name for name in one.outcomes if name not in one.plain]
        gains = {name: gain for name in others if (gain := one.gain(name)) is not None}
        if gains:
            name = max(gains, key=lambda name: gains[name][0].difference)
            (leader,) = (method for method in numbers.methods if method.name == name)
            value, seeds = gains[name]
            told = {"measure": measure, "scored": len(gains), "best": leader, "gain": value}
            return said("above", report=report, numbers=numbers, seeds=seeds, **told)
    scored = [method for method in numbers.methods if measure in method.scores]

    def accuracy(method: MethodNumbers) -> float:
        return method.scores[measure].over_seeds.mean

    best = max(scored, key=accuracy, default=None)
    facts = {"measure": measure, "scored": len(scored), "best": best}
    return said("summary", report=report, numbers=numbers, **facts)


@dataclass(frozen=True)
class Verdict:
    """What all checks come to.

    Args:
        text: a sentence or two.
        tone: of the worst of them.
        failed: models and words of each check that fails, once for all seeds of a method.
    """

    text: str
    tone: Tone
    failed: tuple[tuple[str, str], ...]


def verdict(report: Report) -> Verdict:
    """How many checks fail, and which."""
    checks = [(model, check) for model in report.models for check in model.checks]
    failing = [(model, check) for model, check in checks if check.passed is False]
    passed = sum(check.passed is True for _, check in checks)
    undecided = len(checks) - len(failing) - passed
    counts = {"total": len(checks), "passed": passed, "undecided": undecided}
    tone: Tone = "bad" if failing else "good" if checks and not undecided else "open"
    return Verdict(said("verdict", failing=failing, **counts), tone, _grouped(failing))


def _grouped(failing: Sequence[tuple[ModelResult, Check]]) -> tuple[tuple[str, str], ...]:
    """One entry a method and check; of several seeds the first one's finding."""
    groups: dict[tuple[str, str], list[tuple[ModelResult, Check]]] = {}
    for model, check in failing:
        groups.setdefault((model.name, check.name), []).append((model, check))
    found = []
    for (name, _), same in groups.items():
        model, check = same[0]
        parts = (check.name, check.finding, check.meaning)
        words = " ".join(f"{part.rstrip('. ')}." for part in parts if part)
        if len(same) > 1:
            seeds = ", ".join(str(one.seed) for one, _ in same)
            words += f" So with seed {seeds}; the numbers are those of seed {model.seed}."
        found.append((model.title if len(same) == 1 else name, words))
    return tuple(found)


def legend(report: Report, numbers: Numbers) -> str:
    """How to read the table of accuracies."""
    ball = next((one.within for one in report.models if one.within is not None), None)
    within = ""
    if ball is not None:
        norm, radius = norm_of(ball), radius_of(ball)
        within = f"{NORMS[norm]} norm of at most {_radius(radius, norm, levels=report.of_images)}"
    scores = [score for method in numbers.methods for score in method.scores.values()]
    return said(
        "legend",
        report=report,
        numbers=numbers,
        within=within,
        some_alone=any(len(method.models) == 1 for method in numbers.methods),
        one_each=any(score.seeds == 1 for score in scores),
        measured=lambda name, measure: any(
            method.name == name and measure in method.scores for method in numbers.methods
        ),
    )


def threat(numbers: Numbers) -> str:
    """What the radii of attacks on embeddings amount to; empty without one."""
    records = numbers.baseline.models[0].records
    shares = {attack: share_of_a_token(records, attack) for attack in numbers.attacks}
    known = {attack: share for attack, share in shares.items() if share is not None}
    if not known:
        return ""
    attack, share = max(known.items(), key=lambda item: item[1])
    tokens = median_tokens(records, attack)
    return said("threat", attack=attack, share=share, tokens=tokens, grows=grows(attack))


def _radius(epsilon: float, norm: str, *, levels: bool) -> str:
    """ε as people write it; whole grey levels as such."""
    grey = 255 * epsilon
    whole = levels and norm == "linf" and epsilon > 0 and abs(grey - round(grey)) < 1e-6
    return f"{round(grey)}/255" if whole else f"{epsilon:.4g}"
