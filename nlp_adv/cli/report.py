"""What a training run shows at its end: a table, and the same as JSON beside the model."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding, PreTrainedModel, PreTrainedTokenizerBase

from nlp_adv.cli.arguments import ReportArguments
from nlp_adv.folders import write_whole
from nlp_adv.methods import WarmUp
from nlp_adv.perturbation.units import token_share
from nlp_adv.robustness.answers import one_answer
from nlp_adv.robustness.embedding import EmbeddingPGD, EmbeddingRobustness, embedding_robustness

REPORT_NAME = "nlp_adv_report.json"


@dataclass
class RunResult:
    """One trained model and what was measured of it.

    Args:
        schedule: how it was trained.
        description: the same with its numbers, as it is saved beside the model.
        seed: of the training.
        model, tokenizer: what was trained.
        seconds: wall-clock time of the training alone; None for one that was resumed.
        split: the split that the table is about.
        metrics: scores of all evaluated splits, as the Trainer names them.
        labels: of the rows of that split.
        robustness: accuracy under attack on that split, once measured.
    """

    schedule: WarmUp
    description: dict[str, Any]
    seed: int
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    seconds: float | None
    split: str | None
    metrics: dict[str, float]
    labels: list[Any]
    robustness: EmbeddingRobustness | None = None

    @property
    def name(self) -> str:
        """The row's name in the table."""
        return "plain" if self.schedule.method.name == "none" else self.schedule.method.name

    @property
    def one_class(self) -> bool:
        """Whether the model gives one answer to every row, or nearly, in whose labels are more."""
        largest = self.metrics.get(f"{self.split}_largest_answer")
        if largest is None or not self.labels:
            return False
        return one_answer(largest, Counter(self.labels).most_common(1)[0][1] / len(self.labels))


def measure(
    result: RunResult, rows: Dataset, attack: EmbeddingPGD, *, embedding: str | None
) -> None:
    """Attack the trained model on the given rows."""
    progress = f"Attacking {result.name}"
    result.robustness = attacked(
        result.model, result.tokenizer, rows, attack, embedding=embedding, progress=progress
    )


def attacked(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    attack: EmbeddingPGD,
    *,
    embedding: str | None,
    progress: str | None,
) -> EmbeddingRobustness:
    """What the attack does on tokenized rows."""
    batches = attack_batches(rows, tokenizer)
    return embedding_robustness(model, batches, attack, embedding=embedding, progress=progress)


def attack_batches(rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> DataLoader[Any]:
    """Tokenized rows as batches, like lengths together to spare padding."""
    lengths = [len(ids) for ids in rows["input_ids"]]
    rows = rows.select(sorted(range(len(rows)), key=lengths.__getitem__))
    collate = DataCollatorWithPadding(tokenizer)
    return DataLoader(rows.with_format("torch"), batch_size=64, collate_fn=collate)


def print_report(results: list[RunResult], report: ReportArguments, *, demo: bool) -> None:
    """The table, with what its numbers mean below it."""
    split = results[-1].split
    rows = [_header(results[-1], report), *(_row(result, results[0]) for result in results)]
    if len(results) == 1:  # nothing to compare with
        rows = [row[:-1] for row in rows]
    print()
    print(table(rows))
    print(_legend(results[-1], split, demo))
    for result in results:
        if result.one_class:
            largest = result.metrics[f"{result.split}_largest_answer"]
            print(
                f"Warning: † {result.name} gives {100 * largest:.4g} % of the rows the same "
                f"answer: its training collapsed, or has hardly begun. Its accuracy is the share "
                f"of one class, under attack as well, and no robustness."
            )
        for doubt in [] if result.robustness is None else result.robustness.doubts:
            print(f"Warning: {result.name} {doubt}")


def table(rows: list[list[str]]) -> str:
    """Rows below the first, which names the columns: the first to the left, the others right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        first, *cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append(first.strip().ljust(widths[0]) + "  " + "  ".join(cells))
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def write_report(
    folder: str | None, results: list[RunResult], report: ReportArguments, *, demo: bool
) -> None:
    """The same numbers as JSON."""
    runs: list[dict[str, Any]] = []
    for result in results:
        run: dict[str, Any] = {
            **result.description,
            "seed": result.seed,
            "train_seconds": result.seconds,
            "metrics": result.metrics,
        }
        if result.robustness is not None:
            run["attacked_examples"] = result.robustness.examples
            run["accuracy_without_attack"] = result.robustness.clean_accuracy
            run["share_of_a_token"] = {
                str(epsilon): share_of_a_token(result.robustness, epsilon)
                for epsilon in report.attack_epsilons
            }
            run["accuracy_under_attack"] = {
                str(epsilon): result.robustness.accuracy(epsilon)
                for epsilon in report.attack_epsilons
            }
        runs.append(run)
    content = {
        "synthetic_data": demo,
        "split": results[-1].split,
        "attack": {
            "kind": "embedding PGD on the logit margin",
            "norm": "l2",
            "per": "example",
            "unit": "relative",
            "steps": report.attack_steps,
            "step_size": EmbeddingPGD.step_size,
            "epsilons": report.attack_epsilons,
        },
        "runs": runs,
    }
    write_whole(Path(str(folder)) / REPORT_NAME, json.dumps(content, indent=2) + "\n")


def share_of_a_token(found: EmbeddingRobustness, epsilon: float) -> float:
    """What a relative ε is of one token's norm in a row of median length."""
    tokens = float(found.tokens.double().median())
    return token_share(epsilon, tokens, norm=found.attack.norm, per=found.attack.per)


def _header(result: RunResult, report: ReportArguments) -> list[str]:
    scores = [name.removeprefix(f"{result.split}_") for name in _scores(result)]
    scores = ["largest answer" if name == "largest_answer" else name for name in scores]
    attacks = []
    if result.robustness is not None:
        attacks = [f"clean, first {result.robustness.examples}"]
        attacks += [f"PGD-{report.attack_steps} ε={e:g}" for e in sorted(report.attack_epsilons)]
    return ["training", *scores, *attacks, "seconds", "time ÷ plain"]


def _row(result: RunResult, first: RunResult) -> list[str]:
    scores = [f"{value:.4f}" for value in _scores(result).values()]
    attacks = []
    if result.robustness is not None:
        found = result.robustness
        under = [found.accuracy(epsilon) for epsilon in sorted(found.attack.epsilons)]
        mark = " †" if result.one_class else ""
        attacks = [f"{found.clean_accuracy:.4f}", *(f"{one:.4f}{mark}" for one in under)]
    if result.seconds is None or first.seconds is None:
        return [result.name, *scores, *attacks, "resumed", ""]
    cost = result.seconds / first.seconds
    return [result.name, *scores, *attacks, f"{result.seconds:.1f}", f"{cost:.2f}"]


def _scores(result: RunResult) -> dict[str, float]:
    """The quality measures of the table's split, without the Trainer's timings."""
    timings = ("_runtime", "_per_second", "_loss", "_time", "_model_preparation_time")
    return {
        name: value
        for name, value in result.metrics.items()
        if name.startswith(f"{result.split}_") and not name.endswith(timings)
    }


def _shares(found: EmbeddingRobustness) -> str:
    shown = (f"{100 * share_of_a_token(found, e):.2g} %" for e in sorted(found.attack.epsilons))
    return ", ".join(shown)


def _legend(result: RunResult, split: str | None, demo: bool) -> str:
    lines = []
    if split is not None:
        lines.append(
            f"Scores are of all {len(result.labels)} rows of the {split} split; “largest answer” "
            f"is how often the most frequent answer is given."
        )
    if result.robustness is not None:
        lines.append(
            f"PGD: accuracy on its first {result.robustness.examples} rows, to be read beside the "
            f"clean one of these rows, under projected gradient ascent on the word embeddings, in "
            f"steps from {EmbeddingPGD.step_size:g}·ε down; ε "
            f"is the L2 norm of the perturbation of one sentence, as a share of its embeddings' "
            f"norm. One token may get all of it: {_shares(result.robustness)} of one token's norm "
            f"in a row of {float(result.robustness.tokens.double().median()):g} tokens, the "
            f"median; in longer texts the same ε is more."
        )
    if demo:
        lines.append(
            "The sentences are synthetic, made by this package; the numbers show the tool at "
            "work and say nothing about real text."
        )
    return "\n" + "\n".join(lines) if lines else ""
