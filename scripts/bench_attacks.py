"""What a word-substitution attack costs: this package's engine beside one text at a time.

    python scripts/bench_attacks.py --model_name_or_path MODEL --test_file MR.jsonl.gz \
        --neighbours counterfitted_neighbors.json.gz

Both run the same attack on the same texts with the same model, and their outcomes are compared.
The naive loop does what evaluators of this field do: one text after the other, every variant
tokenized whole and padded to the longest input, a batch for each word. CPU time of this process,
in rounds, medians; `--results` writes the table.
"""

import argparse
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from nlp_adv.attacks.words.attacks import DeepWordBug, TextFooler
from nlp_adv.attacks.words.attacks.build import Resources, build_engine
from nlp_adv.attacks.words.candidates import CandidateTable, Source
from nlp_adv.attacks.words.constraints import Constraints
from nlp_adv.attacks.words.encoding import Splicer
from nlp_adv.attacks.words.engine import Attack, Engine, Text
from nlp_adv.attacks.words.protocols import protocol_named
from nlp_adv.attacks.words.result import WordResult
from nlp_adv.attacks.words.victim import Victim
from nlp_adv.attacks.words.words import Words
from nlp_adv.data.files import read_file
from nlp_adv.robustness.data import attack_data

BATCH = 32  # the usual batch size of evaluators; a word has fewer candidates


@dataclass
class Cost:
    """CPU seconds of one run."""

    total: float
    model: float
    outcomes: dict[int, str]
    queries: float
    forwards: int
    padded: int


class Naive:
    """The same greedy attack, one text at a time, on strings, padded to the longest input."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        source: Source,
        constraints: Constraints,
        random_of: Callable[[Text], random.Random],
    ) -> None:
        self.model, self.tokenizer, self.max_length = model, tokenizer, max_length
        self.source, self.constraints = source, constraints
        self.random_of = random_of
        self.model_seconds, self.forwards, self.padded, self.queries = 0.0, 0, 0, 0

    @torch.no_grad()
    def margins(self, texts: Sequence[str], label: int) -> list[float]:
        """Of each text, in batches padded to the longest input."""
        margins: list[float] = []
        self.queries += len(texts)
        for start in range(0, len(texts), BATCH):
            batch = self.tokenizer(
                list(texts[start : start + BATCH]),
                padding="max_length",
                truncation=True,
                max_length=self.max_length,
                return_tensors="pt",
            )
            began = time.process_time()
            logits = self.model(**batch).logits
            self.model_seconds += time.process_time() - began
            self.forwards += len(logits)
            self.padded += batch["input_ids"].numel()
            for row in logits:
                others = torch.cat([row[:label], row[label + 1 :]])
                margins.append(float(others.max() - row[label]))
        return margins

    def attack(self, text: Text) -> str:
        """The outcome for one text."""
        rng = self.random_of(text)
        original = Words.of(text.text)
        protocol = self.constraints.protocol
        self.queries, budget = 0, protocol.budget(len(original))
        (score,) = self.margins([text.text], text.label)
        if score > 0:
            return "wrong"
        places = self.constraints.places(original)
        unknown = self.tokenizer.unk_token
        room = int(min(len(places), budget - self.queries))
        gains = self.margins(
            [original.replaced({p: unknown}).text for p in places[:room]], text.label
        )
        gains += [-torch.inf] * (len(places) - room)
        order = sorted(range(len(places)), key=lambda n: (-gains[n], places[n]))
        words = original
        for place in (places[n] for n in order):
            if self.queries >= budget or len(original.changed(words)) >= protocol.changes(
                len(original)
            ):
                break
            candidates = self.source.candidates(original.words[place], rng)
            allowed = self.constraints.allowed(original, words, place, candidates)
            allowed = allowed[: int(min(len(allowed), budget - self.queries))]
            if not allowed:
                continue
            variants = [words.replaced({place: candidate}) for candidate in allowed]
            scores = self.margins([variant.text for variant in variants], text.label)
            best = max(range(len(scores)), key=lambda n: (scores[n], -n))
            if scores[best] > score:
                score, words = scores[best], variants[best]
            if score > 0:
                return "fooled"
        return "robust"


def naive_cost(naive: Naive, texts: Sequence[Text]) -> Cost:
    began, queries, outcomes = time.process_time(), 0, {}
    for text in texts:
        outcomes[text.id] = naive.attack(text)
        queries += naive.queries
    total = time.process_time() - began
    return Cost(
        total, naive.model_seconds, outcomes, queries / len(texts), naive.forwards, naive.padded
    )


def engine_cost(engine: Engine, attack: Attack, texts: Sequence[Text]) -> Cost:
    began = time.process_time()
    records: list[WordResult] = list(engine.run(attack, texts))
    total = time.process_time() - began
    work = engine.victim.work
    queries = sum(record.queries for record in records) / len(records)
    outcomes = {record.id: record.outcome for record in records}
    return Cost(total, work.cpu_seconds, outcomes, queries, work.forwards, work.padded)


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    tokenizer = AutoTokenizer.from_pretrained(args.model_name_or_path)
    model = AutoModelForSequenceClassification.from_pretrained(args.model_name_or_path).eval()
    dataset: Dataset = read_file(Path(args.test_file))
    data = attack_data(dataset, model.config, max_examples=args.texts)
    protocol = protocol_named("default")
    resources = Resources(neighbours=CandidateTable(args.neighbours))
    attacks: list[tuple[Attack, Source]] = [
        (DeepWordBug(), DeepWordBug().edits),
        (TextFooler(resources.neighbours), resources.neighbours),
    ]
    lines = []
    for attack, source in attacks:
        for max_length in args.max_length:
            slow, fast = [], []
            for number in range(args.rounds):
                title = f"{attack.name}, inputs of {max_length}, round {number + 1}"
                print(f"{title} of {args.rounds}", file=sys.stderr)
                victim, splicer = Victim(model, tokenizer), Splicer(tokenizer, max_length)
                engine = build_engine(victim, splicer, protocol, resources)
                fast.append(engine_cost(engine, attack, data.texts))
                naive = Naive(
                    model,
                    tokenizer,
                    max_length,
                    source,
                    Constraints(protocol),
                    lambda text, e=engine, a=attack: random.Random(e.seed_of(a, text)),
                )
                slow.append(naive_cost(naive, data.texts))
            lines += rows(f"{attack.name}, {max_length}", slow, fast)
    report = page(args, lines)
    print(report)
    if args.results:
        Path(args.results).write_text(report, encoding="utf-8")


def rows(name: str, slow: list[Cost], fast: list[Cost]) -> list[str]:
    ratios = [one.total / other.total for one, other in zip(slow, fast, strict=True)]
    same = sum(slow[0].outcomes[n] == outcome for n, outcome in fast[0].outcomes.items())
    lines = []
    for title, costs in (("one text at a time, padded to that", slow), ("engine", fast)):
        total = statistics.median(cost.total for cost in costs)
        share = statistics.median(cost.model / cost.total for cost in costs)
        counts = Counter(costs[0].outcomes.values())
        outcomes = " / ".join(str(counts[o]) for o in ("fooled", "robust", "wrong"))
        ratio = ""
        if title == "engine":
            ratio = f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})"
        lines.append(
            f"| {name} | {title} | {total:.1f} | {100 * share:.0f} % | {costs[0].forwards} | "
            f"{costs[0].padded} | {costs[0].queries:.1f} | {outcomes} | {ratio} |"
        )
    print(f"{name}: {same} of {len(fast[0].outcomes)} outcomes agree", file=sys.stderr)
    if same < 0.99 * len(fast[0].outcomes):
        raise SystemExit(f"{name}: the two do not run the same attack.")
    return lines


def page(args: argparse.Namespace, lines: list[str]) -> str:
    head = [
        "attack, longest input",
        "how",
        "CPU s",
        "in the model",
        "forward passes",
        "tokens with padding",
        "queries",
        "fooled / robust / wrong",
        "times less CPU",
    ]
    table = "\n".join([f"| {' | '.join(head)} |", "|" + "---|" * len(head), *lines])
    return f"""# Cost of attacks on words

{args.texts} texts, {args.rounds} rounds, {args.threads} thread, protocol default, {args.title}.
CPU time of the process; medians, the range of the ratio in brackets. The naive loop pads to the
longest input: 128 tokens, or the 512 that BERT's tokenizer names.

{table}

`python scripts/bench_attacks.py --model_name_or_path MODEL --test_file FILE --neighbours FILE \
--texts {args.texts} --rounds {args.rounds}`
"""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_name_or_path", required=True)
    parser.add_argument("--test_file", required=True)
    parser.add_argument("--neighbours", required=True)
    parser.add_argument("--texts", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--max_length", type=int, nargs="+", default=[128, 512], help="what the naive loop pads to"
    )
    parser.add_argument("--title", default="MODEL", help="the model's name in the table")
    parser.add_argument("--results", help="a Markdown file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
