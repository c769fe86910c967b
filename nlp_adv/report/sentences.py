"""What a report says in words: its summary, what the checks come to, how to read the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nlp_adv.report.cells import Tone, percent, points
from nlp_adv.report.content import ModelResult, Report
from nlp_adv.report.numbers import MARKED_FROM, MethodNumbers, Numbers, Score
from nlp_adv.report.standing import WORST, combined
from nlp_adv.report.unlike import grows, median_tokens, share_of_a_token


def summary(numbers: Numbers) -> str:
    """The report in one sentence: who stands best, by how much, and whether to believe it."""
    measure = WORST if WORST in numbers.measures else numbers.attacks[0]
    several = f"the worst of {len(combined(numbers.attacks))} attacks"
    under = several if measure == WORST else measure
    scored = [method for method in numbers.methods if measure in method.scores]
    if not scored:
        return f"No method was measured under {under}."

    def accuracy(method: MethodNumbers) -> float:
        return method.scores[measure].over_seeds.mean

    best, first = max(scored, key=accuracy), numbers.baseline
    score = best.scores[measure]
    kept = (
        f"{percent(accuracy(best))} % of {score.shares[0].total} texts right under {under} "
        f"({percent(score.clean.mean)} % without attack)"
    )
    if len(scored) == 1:
        said = f"{best.name} answers {kept}"
    elif best is first:
        said = f"The baseline, {best.name}, answers most, {kept}; no method stands above it"
    else:
        said = f"Of {len(scored)} methods {best.name} answers most, {kept}"
        if score.difference is not None:
            said += f", {points(score.difference)} points over {first.name}{_doubt(score)}"
    if any(one.constant for one in best.answers):
        said += "; but it gives every text the same answer, so the number is the share of one class"
    elif _fails(best.models):
        said += "; but it fails a check, so the number may not be robustness"
    return f"{said}."


def _doubt(score: Score) -> str:
    """What keeps a difference from being told."""
    if score.told:
        return ""
    if score.seeds < MARKED_FROM:
        seeds = "one seed" if score.seeds == 1 else f"{score.seeds} seeds"
        return f", by {seeds}: too few to tell it from 0"
    return ", a difference not told from 0"


@dataclass(frozen=True)
class Verdict:
    """What all checks come to.

    Args:
        text: a sentence or two.
        tone: of the worst of them.
        failed: model and words of each check that fails.
    """

    text: str
    tone: Tone
    failed: tuple[tuple[str, str], ...] = ()


def verdict(report: Report) -> Verdict:
    """How many checks fail, and which."""
    checks = [(model, check) for model in report.models for check in model.checks]
    if not checks:
        return Verdict(
            "? No checks were run: a model that only hides its gradients or confuses the attack "
            "would look robust here.",
            "open",
        )
    failed = tuple(
        (model_name(model), _sentences(check.name, check.finding, check.meaning))
        for model, check in checks
        if check.passed is False
    )
    undecided = sum(check.passed is None for _, check in checks)
    passed = len(checks) - len(failed) - undecided
    if failed:
        names = ", ".join(name for name, seeds in report.methods().items() if _fails(seeds))
        return Verdict(
            f"✗ {len(failed)} of {len(checks)} checks failed: do not read the accuracy of {names} "
            f"as robustness. {passed} passed, {undecided} undecided.",
            "bad",
            failed,
        )
    text = f"{passed} of {len(checks)} checks passed, {undecided} undecided."
    return Verdict(f"? {text}", "open") if undecided else Verdict(f"✓ {text}", "good")


def legend(numbers: Numbers) -> str:
    """How to read the table of accuracies."""
    alone = "Wilson's 95 % interval"
    several = "mean ± sd over seeds [95 % t interval over seeds and texts]"
    read = f"Share of right answers, {several if numbers.several_seeds else f'[{alone}]'}."
    if numbers.several_seeds and any(len(method.models) == 1 for method in numbers.methods):
        read += f" A method of one seed has {alone}, which is over texts alone."
    read += (
        " “clean” is without attack, on all attacked texts; “of … clean”, on the texts of that "
        "attack: what an attack leaves says nothing without it. “largest answer”: how often the "
        "most frequent answer is given without attack; at 100 an accuracy under attack is the "
        "share of one class."
    )
    if WORST in numbers.measures:
        read += (
            " “worst case” counts a text as right only if it stands under every attack on the text."
        )
    if len(numbers.methods) > 1:
        read += (
            f" Below it the difference to {numbers.baseline.name} in points, on the texts that "
            f"both have, with its 95 % interval, and p of no difference after Holm's correction "
            f"for all comparisons of the table. ▲ better, ▼ worse: p < 0.05, from at least "
            f"{MARKED_FROM} seeds of both; Δ all else."
        )
        alone_p = any(
            score.seeds == 1
            for method in numbers.methods
            for score in method.scores.values()
            if score.difference is not None
        )
        if alone_p:
            read += (
                " Of one seed each, p is McNemar's exact test and p and interval are of these two "
                "models, not of others trained like them."
            )
    return read


def threat(numbers: Numbers) -> str:
    """What the radii of attacks on embeddings amount to; empty without one."""
    first = numbers.baseline.models[0]
    shares = {
        a: share_of_a_token(first.records, a)
        for a in numbers.attacks
        if any(record.title == a for record in first.records)
    }
    known = {attack: share for attack, share in shares.items() if share is not None}
    if not known:
        return ""
    attack, share = max(known.items(), key=lambda item: item[1])
    tokens = median_tokens(first.records, attack)
    return (
        f"ε is a share of the norm of the embeddings, and all that it allows may go to one token: "
        f"{attack} may move a token by {100 * share:.2g} % of one token's norm in a text of "
        f"{tokens:g} tokens, the median here."
        + (
            " At the same ε a longer text is attacked harder: numbers of texts of other lengths "
            "do not compare."
            if grows(attack)
            else ""
        )
    )


ATTACK_LEGEND = (
    "An attack succeeds when it turns a right answer into a wrong one; its share, and the queries, "
    "are of the texts attacked. Words changed: in its successes."
)


def band(numbers: Numbers) -> str:
    """What a figure's bands are."""
    if not numbers.several_seeds:
        return "Bands: Wilson's 95 % interval."
    return "Bands: from the lowest to the highest seed; of one seed, Wilson's 95 % interval."


def model_name(model: ModelResult) -> str:
    """The method, and the seed where there is one."""
    return model.name if model.seed is None else f"{model.name}, seed {model.seed}"


def _fails(seeds: Sequence[ModelResult]) -> bool:
    return any(check.passed is False for model in seeds for check in model.checks)


def _sentences(*parts: str) -> str:
    """Each ends with one full stop."""
    return " ".join(f"{part.rstrip('. ')}." for part in parts if part)
