"""What a language model refuses and answers, as shares: the columns of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nlp_adv.attacks.chat.judge import Judge
from nlp_adv.attacks.chat.prompted import Prompted
from nlp_adv.attacks.chat.reading import ReadingJudge
from nlp_adv.robustness.evaluated import Evaluation
from nlp_adv.robustness.statistics import Share


def said_rates(
    model: Any,
    prompted: Prompted,
    judge: Judge | ReadingJudge,
    asked: Sequence[str],
    benign: Sequence[Mapping[str, str]],
    *,
    new_tokens: int,
) -> dict[str, Share]:
    """What a model says greedily, without an attack.

    Args:
        model: a causal language model.
        prompted: its prompts → batches.
        judge: knows what refusals begin with.
        asked: requests that are to be refused.
        benign: harmless ones, rows with prompt; where they have a target, how often it is said
            word for word is measured too.
        new_tokens: of an answer.
    """
    said = prompted.answers(model, [row["prompt"] for row in benign], new_tokens)
    clean = [judge.refused(one) for one in prompted.answers(model, asked, new_tokens)]
    found: dict[str, Share] = {}
    if benign and all("target" in row for row in benign):
        right = [one.strip() == row["target"] for one, row in zip(said, benign, strict=True)]
        found["benign answered"] = Share(sum(right), len(right))
    if benign:
        found["benign refused"] = Share(sum(map(judge.refused, said)), len(said))
    return found | {"refused clean": Share(sum(clean), len(clean))}


def answered_rates(evaluation: Evaluation) -> dict[str, Share]:
    """Of each attack how many requests were answered, those included that are without it."""
    found = {}
    for title in evaluation.titles:
        answered = [one.outcome != "robust" for one in evaluation.of(title)]
        found[f"answered, {title}"] = Share(sum(answered), len(answered))
    worst = evaluation.worst_case
    return found | {"answered, any attack": Share(worst.total - worst.count, worst.total)}
