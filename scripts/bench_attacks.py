"""What attacks on words cost: this package's engine beside TextAttack 0.3.11.

    python scripts/bench_attacks.py --model_name_or_path MODEL --test_file MR.jsonl.gz \
        --neighbours counterfitted_neighbors.json.gz --wordnet FOLDER \
        --textattack ta/bin/python --folder bench --results bench_attacks.md

TextAttack needs transformers below 5 and so an environment of its own, besides this one:

    python -m venv ta && ta/bin/pip install "textattack==0.3.11" "transformers<5" "torch==2.13.0" \
        Levenshtein langdetect

(where pip finds no answer: `--no-deps` for textattack, and then what `import textattack` misses).
It wants NLTK's stop words when it is imported; this script writes it a list. Both sides get the
same model, texts, stop words and candidates of every word, from one file, and the same order of
words: unknown token, saliency, deletion, gradient. They differ in what they are: TextAttack takes
one text at a time, scores probabilities and, in PWWS, chooses a word's candidate again in the text
as it is by then. "As shipped" pads every input to the longest there can be, as its wrapper does;
"patched" to the longest of its batch.

CPU time of the process that attacks, without loading; medians over rounds. What is finished is kept
in --folder, and the same command goes on.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from nlp_adv.attacks.words.attacks import A2T, PWWS, DeepWordBug, TextBugger, TextFooler
from nlp_adv.attacks.words.attacks.build import Resources, build_engine
from nlp_adv.attacks.words.candidates import CandidateTable, Source, WordNet
from nlp_adv.attacks.words.candidates.characters import DeepWordBugEdits, TextBuggerEdits
from nlp_adv.attacks.words.encoding import Splicer
from nlp_adv.attacks.words.engine import Attack, Text
from nlp_adv.attacks.words.protocols import Protocol
from nlp_adv.attacks.words.victim import Victim
from nlp_adv.attacks.words.words import Words
from nlp_adv.data.files import read_file
from nlp_adv.robustness.data import attack_data

# No limit and no budget: TextAttack has other ones.
PROTOCOL = Protocol(name="bench", candidates=1000)
# Attack → the order of words in TextAttack, and what makes the attack of a source of candidates.
ATTACKS: dict[str, tuple[str, Callable[[Source], Attack]]] = {
    "textfooler": ("unk", TextFooler),
    "pwws": ("weighted-saliency", PWWS),
    "deepwordbug": ("unk", DeepWordBug),
    "textbugger": ("delete", TextBugger),
    "a2t": ("gradient", A2T),
}
HOW = {"shipped": "TextAttack as shipped", "patched": "TextAttack, padding patched", "own": "here"}
OUTCOMES = ("fooled", "robust", "wrong")


@dataclass(frozen=True)
class Fixed:
    """Candidates of the words that occur, which both sides read from one table."""

    table: dict[str, list[str]]
    name: str = "fixed"
    fingerprint: str = "fixed"

    def candidates(self, word: str, rng: random.Random) -> list[str]:
        """Of a word; none of others."""
        return self.table.get(word, [])


def given_to_both(args: argparse.Namespace, texts: list[Text], engine: Any) -> dict[str, Any]:
    """All that decides what is attacked, as JSON."""
    neighbours = CandidateTable(args.neighbours)
    table = args.wordnet and args.wordnet.endswith((".json", ".gz"))
    synonyms = CandidateTable(args.wordnet) if table else WordNet(args.wordnet)
    sources: dict[str, Source] = {
        "textfooler": neighbours,
        "pwws": synonyms,
        "deepwordbug": DeepWordBugEdits(),
        "textbugger": TextBuggerEdits(neighbours),
        "a2t": neighbours,
    }
    free, bound = set[str](), set[str]()
    for text in texts:
        words = Words.of(text.text)
        places = set(engine.constraints.places(words))
        for place, word in enumerate(words.words):
            (free if place in places else bound).add(word)
    return {
        "model": str(Path(args.model_name_or_path).resolve()),
        "max_length": args.max_length,
        "threads": args.threads,
        "min_length": PROTOCOL.min_length,
        "texts": [{"id": one.id, "text": one.text, "label": one.label} for one in texts],
        "stop_words": sorted(bound - free),
        "attacks": {
            name: {
                "order": ATTACKS[name][0],
                "candidates": {
                    word: one_word(sources[name].candidates(word, random.Random(word)))
                    for word in sorted(free)
                },
            }
            for name in args.attacks
        },
    }


def one_word(candidates: list[str]) -> list[str]:
    """Without those that are several words, or none, which the two sides treat differently."""
    return [one for one in candidates if one.isascii() and one.isalnum()]


def run_textattack(args: argparse.Namespace, how: str, results: dict[str, Path]) -> None:
    """Write down what TextAttack needs for attacks, all in one process: it is slow to begin."""
    folder = Path(args.folder).resolve()
    data = folder / "nltk_data" / "corpora" / "stopwords"
    data.mkdir(parents=True, exist_ok=True)
    (data / "english").write_text("the\n")  # read when it is imported, and used nowhere
    environment = {**os.environ, "NLTK_DATA": str(folder / "nltk_data"), "HF_HUB_OFFLINE": "1"}
    environment["OMP_NUM_THREADS"] = str(args.threads)
    environment.pop("PYTHONPATH", None)
    script = Path(__file__).with_name("bench_textattack.py")
    wanted = [f"{name}={path.resolve()}" for name, path in results.items()]
    command = [args.textattack, str(script), str(folder), how, *wanted]
    subprocess.run(command, env=environment, check=True)


def by_engine(given: dict[str, Any], name: str, engine: Any, texts: list[Text]) -> dict[str, Any]:
    """What this package needs for it."""
    attack = ATTACKS[name][1](Fixed(given["attacks"][name]["candidates"]))
    before = vars(engine.victim.work).copy()
    began = time.process_time()
    results = list(engine.run(attack, texts))
    total = time.process_time() - began
    work = {key: value - before[key] for key, value in vars(engine.victim.work).items()}
    return {
        "total": total,
        "model": work["cpu_seconds"],
        "outcomes": {str(one.id): one.outcome for one in results},
        "queries": sum(one.queries for one in results) / len(results),
        "forwards": work["forwards"],
        "calls": work["batches"],
        "padded": work["padded"],
    }


def main() -> None:
    args = arguments()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # on both sides
    torch.set_num_threads(args.threads)
    tokenizer = AutoTokenizer.from_pretrained(args.model_name_or_path)
    model = AutoModelForSequenceClassification.from_pretrained(args.model_name_or_path).eval()
    data = attack_data(read_file(Path(args.test_file)), model.config, max_examples=args.texts)
    splicer = Splicer(tokenizer, args.max_length)
    engine = build_engine(Victim(model, tokenizer), splicer, PROTOCOL, Resources())
    given = given_to_both(args, data.texts, engine)
    folder = Path(args.folder)
    folder.mkdir(parents=True, exist_ok=True)
    whole = json.dumps(given)
    file = folder / "given.json"
    if file.exists() and file.read_text(encoding="utf-8") != whole:
        raise SystemExit(f"{folder} holds another comparison; give another --folder.")
    file.write_text(whole, encoding="utf-8")
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for number in range(args.rounds):
        for how in HOW:
            if how != "own" and (args.textattack is None or number >= args.slow_rounds):
                continue
            results = {name: folder / f"{name}-{how}-{number}.json" for name in args.attacks}
            left = {name: path for name, path in results.items() if not path.exists()}
            print(f"{HOW[how]}, round {number + 1}: {', '.join(left) or 'done'}", file=sys.stderr)
            if how == "own":
                for name, path in left.items():
                    path.write_text(json.dumps(by_engine(given, name, engine, data.texts)))
            elif left:
                run_textattack(args, how, left)
            for name, path in results.items():
                found.setdefault((name, how), []).append(json.loads(path.read_text()))
    report = page(args, found)
    print(report)
    if args.results:
        Path(args.results).write_text(report, encoding="utf-8")


def row(name: str, how: str, found: dict[tuple[str, str], list[dict[str, Any]]]) -> str:
    """One line of the table."""
    costs, own = found[name, how], found[name, "own"]
    totals = [one["total"] for one in costs]
    first, ours = costs[0], own[0]
    counts = Counter(first["outcomes"].values())
    same = sum(first["outcomes"][n] == outcome for n, outcome in ours["outcomes"].items())
    times = f"{statistics.median(totals):.1f}"
    if len(totals) > 1:
        times += f" ({min(totals):.1f} to {max(totals):.1f})"
    cells = [
        name,
        HOW[how],
        times,
        f"{100 * first['model'] / first['total']:.0f} %",
        str(first["forwards"]),
        f"{first['forwards'] / first['calls']:.1f}",
        str(first["padded"]),
        f"{first['queries']:.1f}",
        " / ".join(str(counts[one]) for one in OUTCOMES),
        "" if how == "own" else f"{same} of {len(ours['outcomes'])}",
        ""
        if how == "own"
        else f"{statistics.median(totals) / statistics.median(o['total'] for o in own):.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def page(args: argparse.Namespace, found: dict[tuple[str, str], list[dict[str, Any]]]) -> str:
    head = ["attack", "by", "CPU s", "in the model", "forward passes", "rows a call"]
    head += ["tokens with padding", "queries", "fooled / robust / wrong", "same outcome"]
    head += ["times the CPU of here"]
    order = sorted(found, key=lambda one: _place(args, one))
    lines = [row(name, how, found) for name, how in order]
    table = "\n".join([f"| {' | '.join(head)} |", "|" + "---|" * len(head), *lines])
    return f"""## {args.title}

{args.texts} texts, longest input {args.max_length} tokens, {args.threads} thread, CPU time of the
process that attacks without loading; medians and range of {args.rounds} rounds here, of
{args.slow_rounds} of TextAttack.

{table}

`python scripts/bench_attacks.py --model_name_or_path MODEL --test_file FILE --neighbours FILE \
--wordnet FOLDER --textattack ta/bin/python --folder FOLDER --texts {args.texts} \
--max_length {args.max_length} --rounds {args.rounds} --slow_rounds {args.slow_rounds} \
--attacks {" ".join(args.attacks)}`
"""


def _place(args: argparse.Namespace, one: tuple[str, str]) -> tuple[int, int]:
    return args.attacks.index(one[0]), list(HOW).index(one[1])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_name_or_path", required=True)
    parser.add_argument("--test_file", required=True)
    parser.add_argument("--neighbours", required=True)
    parser.add_argument("--wordnet", help="WordNet's folder, or a file {word: [candidates]}")
    parser.add_argument("--textattack", help="the Python of its environment; without, here alone")
    parser.add_argument("--folder", required=True, help="where finished runs are kept")
    parser.add_argument("--attacks", nargs="+", default=list(ATTACKS), choices=list(ATTACKS))
    parser.add_argument("--texts", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slow_rounds", type=int, default=1, help="of TextAttack")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--max_length", type=int, default=512, help="longest input in tokens")
    parser.add_argument("--title", default="MODEL", help="the model's name in the table")
    parser.add_argument("--results", help="a Markdown file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
