"""What a report says in words: its summary, what the checks come to, how to read the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nlp_adv.report.cells import Tone, percent, points
from nlp_adv.report.content import ModelResult, Report
from nlp_adv.report.numbers import MARKED_FROM, WORST, MethodNumbers, Numbers, Score
from nlp_adv.report.unlike import grows, median_tokens, share_of_a_token
from nlp_adv.robustness.check_result import Check
from nlp_adv.robustness.curve import NORMS
from nlp_adv.robustness.statistics import norm_of, radius_of

HASH = "Numbers of another hash were measured otherwise and do not compare."
PUBLISHED = (
    "Under the protocols of their papers, not under this one: compare orders and differences "
    "rather than values. “Unverified” ones are quoted from elsewhere or from memory."
)
QUERIES = "Read off one run: a text is fooled at the number of queries that its success took."
RADII = (
    "How long the smallest δ is that changes the answer, as an attack found it: the share of "
    "examples, of those that were right without attack, that a δ no longer than this fools."
)


def summary(report: Report, numbers: Numbers) -> str:
    """The report in one sentence: who stands best, by how much, and whether to believe it."""
    worst = WORST in numbers.measures
    measure = WORST if worst else numbers.attacks[0]
    under = f"the worst of {len(numbers.together)} attacks" if worst else measure
    scored = [method for method in numbers.methods if measure in method.scores]
    if not scored:
        return f"No method was measured under {under}."

    def accuracy(method: MethodNumbers) -> float:
        return method.scores[measure].over_seeds.mean

    best, first = max(scored, key=accuracy), numbers.baseline
    score = best.scores[measure]
    led = "" if report.target is None else f" and not led to “{report.label(report.target)}”"
    kept = (
        f"{percent(accuracy(best))} % of {score.shares[0].total} {report.noun}s right{led} under "
        f"{under} ({percent(score.clean.mean)} % without attack)"
    )
    if len(scored) == 1:
        said = f"{best.name} answers {kept}"
    elif best is first:
        said = f"The baseline, {best.name}, answers most, {kept}; no method is above it"
    else:
        said = f"Of {len(scored)} methods {best.name} answers most, {kept}"
        if score.difference is not None:
            said += f", {points(score.difference)} points over {first.name}{_doubt(score)}"
    if best.constant:
        said += (
            f"; but it gives every {report.noun} the same answer, so the number is the share of "
            f"one class"
        )
    elif best.failed:
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
        failed: models and words of each check that fails, once for all seeds of a method.
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
    failing = [(model, check) for model, check in checks if check.passed is False]
    undecided = sum(check.passed is None for _, check in checks)
    passed = len(checks) - len(failing) - undecided
    if failing:
        names = ", ".join(dict.fromkeys(model.name for model, _ in failing))
        return Verdict(
            f"✗ {len(failing)} of {len(checks)} checks failed: do not read the accuracy of {names} "
            f"as robustness. {passed} passed, {undecided} undecided.",
            "bad",
            _grouped(failing),
        )
    text = f"{passed} of {len(checks)} checks passed, {undecided} undecided."
    return Verdict(f"? {text}", "open") if undecided else Verdict(f"✓ {text}", "good")


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
    noun = report.noun
    alone = "Wilson's 95 % interval"
    several = f"mean ± sd over seeds [95 % t interval over seeds and {noun}s]"
    read = f"Share of right answers, {several if numbers.several_seeds else f'[{alone}]'}."
    if numbers.several_seeds and any(len(method.models) == 1 for method in numbers.methods):
        read += f" A method of one seed has {alone}, which is over {noun}s alone."
    read += (
        f" “clean” is without attack, on all attacked {noun}s; “of … clean”, on the {noun}s of "
        "that attack: what an attack leaves says nothing without it. “largest answer”: how often "
        "the most frequent answer is given without attack; at 100 an accuracy under attack is the "
        "share of one class."
    )
    if WORST in numbers.measures:
        one = f"an {noun}" if report.of_images else f"a {noun}"
        read += (
            f" “worst case” counts {one} as right only if the model is robust to every attack "
            f"on the {noun}" + (", from every start." if report.of_images else ".")
        )
    if report.target is not None:
        led = report.label(report.target)
        read += f" Right is also: not led to the target; {noun}s of “{led}” are left out."
    within = next((one.within for one in report.models if one.within is not None), None)
    if within is not None:
        read += (
            f" An attack counts where its δ has an {NORMS[norm_of(within)]} norm of at most "
            f"{_radius(radius_of(within), norm_of(within), levels=report.of_images)}."
        )
    if len(numbers.methods) > 1:
        read += (
            f" Below it the difference to {numbers.baseline.name} in points, on the {noun}s that "
            f"both have, with its 95 % interval, and p of no difference after Holm's correction "
            f"for all comparisons of the table. ▲ better, ▼ worse: p < 0.05, from at least "
            f"{MARKED_FROM} seeds of both; Δ all else."
        )
    scores = (score for method in numbers.methods for score in method.scores.values())
    if any(score.seeds == 1 for score in scores):
        read += (
            " Of one seed each, p is McNemar's exact test and p and interval are of these two "
            "models, not of others trained like them."
        )
    return read


def threat(numbers: Numbers) -> str:
    """What the radii of attacks on embeddings amount to; empty without one."""
    records = numbers.baseline.models[0].records
    shares = {attack: share_of_a_token(records, attack) for attack in numbers.attacks}
    known = {attack: share for attack, share in shares.items() if share is not None}
    if not known:
        return ""
    attack, share = max(known.items(), key=lambda item: item[1])
    told = (
        f"ε is a share of the norm of the embeddings, and all that it allows may go to one token: "
        f"{attack} may move a token by {100 * share:.2g} % of one token's norm in a text of "
        f"{median_tokens(records, attack):g} tokens, the median here."
    )
    if not grows(attack):
        return told
    return (
        f"{told} At the same ε a longer text is attacked harder: numbers of texts of other lengths "
        f"do not compare."
    )


def attack_legend(report: Report) -> str:
    """How to read the table of attacks."""
    if report.of_images:
        return (
            "“succeeds” is within the ball, “fooled” by a δ of any length, both of the images that "
            "were right without attack; the next column is what remains of it when the image is "
            "saved as a picture of 256 levels. Norms are means over the fooled, gradients and “no "
            "gradient” over all attacked."
        )
    return (
        "An attack succeeds when it turns a right answer into a wrong one; its share, and the "
        "queries, are of the texts attacked. Words changed: in its successes."
    )


def _radius(epsilon: float, norm: str, *, levels: bool) -> str:
    """ε as people write it; whole grey levels as such."""
    grey = 255 * epsilon
    whole = levels and norm == "linf" and epsilon > 0 and abs(grey - round(grey)) < 1e-6
    return f"{round(grey)}/255" if whole else f"{epsilon:.4g}"


def band(numbers: Numbers) -> str:
    """What a figure's bands are."""
    if not numbers.several_seeds:
        return "Bands: Wilson's 95 % interval."
    return "Bands: from the lowest to the highest seed; of one seed, Wilson's 95 % interval."
