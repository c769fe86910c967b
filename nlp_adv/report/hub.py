"""Results as the Hub shows them on a model's page: `.eval_results/*.yaml`.

The format is the Hub's (https://huggingface.co/docs/hub/eval-results); `huggingface_hub` writes it.
"""

from __future__ import annotations

import re
from datetime import datetime, timezone

import yaml

from nlp_adv import __version__
from nlp_adv.errors import UserError
from nlp_adv.report.cells import percent
from nlp_adv.report.leaderboard import checked
from nlp_adv.robustness.evaluated import Evaluation

FILE = ".eval_results/nlp_adv.yaml"  # in a model's repository


def eval_results(evaluation: Evaluation, dataset_id: str) -> str:
    """Clean accuracy, and accuracy under each attack, in percent, as YAML.

    Each entry's notes hold what a number must not be read without: the clean accuracy of the same
    examples, the interval, the protocol and its hash, and the checks.

    Args:
        evaluation: of one model.
        dataset_id: of the benchmark on the Hub, OWNER/NAME.

    Raises:
        UserError: that is no such name, or the installed `huggingface_hub` does not know the
            format.
    """
    if not is_hub_name(dataset_id):
        raise UserError(f"A data set on the Hub is OWNER/NAME, not {dataset_id!r}.")
    try:
        from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
    except ImportError as error:
        raise UserError(
            "The installed huggingface_hub cannot write .eval_results: install a newer one."
        ) from error
    date = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    rules = "" if evaluation.protocol is None else f"protocol {evaluation.protocol.name}, "
    entries = []
    for title, summary in evaluation.summaries.items():
        low, high = summary.under_attack.interval()
        attack = next(one.attack for one in evaluation.of(title))
        notes = (
            f"{percent(summary.under_attack.value)} % [{percent(low)}, {percent(high)}] of "
            f"{summary.examples} examples under {title}, {percent(summary.clean.value)} % without; "
            f"{rules}hash {evaluation.hashes.get(attack, 'unknown')}; {checked(evaluation)}; "
            f"nlp_adv {__version__}"
        )
        value = round(100 * summary.under_attack.value, 2)
        entries.append(EvalResultEntry(dataset_id, _task(title), value, date=date, notes=notes))
    clean = evaluation.clean
    notes = f"without attack, {clean.total} examples; nlp_adv {__version__}"
    value = round(100 * clean.value, 2)
    entries.insert(0, EvalResultEntry(dataset_id, "clean", value, date=date, notes=notes))
    return str(yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, width=1000))


def is_hub_name(name: str) -> bool:
    """Whether a name has the form OWNER/NAME."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name) is not None


def _task(title: str) -> str:
    """An attack's title as an identifier."""
    return re.sub(r"[^\w.-]+", "-", title.replace("@", "-eps-")).strip("-")
