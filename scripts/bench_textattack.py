"""The part of `bench_attacks.py` that runs in TextAttack's own environment; see there.

    python scripts/bench_textattack.py FOLDER shipped|patched ATTACK=RESULT.json …

It reads texts, candidates and stop words from FOLDER, and writes what each attack cost as JSON.
Patched means that inputs are padded to the longest of their batch, not to the longest there can be.
"""

import json
import sys
import time
from pathlib import Path

import torch
from textattack import Attack
from textattack.attack_results import FailedAttackResult, SkippedAttackResult
from textattack.constraints.pre_transformation import (
    MinWordLength,
    RepeatModification,
    StopwordModification,
)
from textattack.goal_functions import UntargetedClassification
from textattack.models.wrappers import HuggingFaceModelWrapper
from textattack.search_methods import GreedyWordSwapWIR
from textattack.transformations import WordSwap
from transformers import AutoModelForSequenceClassification, AutoTokenizer


class Table(WordSwap):
    """Replaces a word by what a table has for it."""

    def __init__(self, table: dict[str, list[str]]) -> None:
        super().__init__()
        self.table = table

    def _get_replacement_words(self, word: str) -> list[str]:
        return self.table.get(word, [])


class Padded:
    """A tokenizer that pads to the longest of a batch, whatever it is asked for."""

    def __init__(self, tokenizer) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str):
        return getattr(self._tokenizer, name)

    def __call__(self, *args, **more):
        """As the tokenizer does it, padded otherwise."""
        return self._tokenizer(*args, **more | {"padding": True})


class Counter:
    """Counts what goes through a model, and its CPU time."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.forwards, self.calls, self.padded, self.seconds = 0, 0, 0, 0.0
        self._forward, model.forward = model.forward, self

    def __call__(self, input_ids=None, **more):
        """What the model says."""
        began = time.process_time()
        found = self._forward(input_ids=input_ids, **more)
        self.seconds += time.process_time() - began
        self.forwards += len(input_ids)
        self.calls += 1
        self.padded += input_ids.numel()
        return found


def cost(given: dict, name: str, how: str) -> dict:
    """Of one attack on all texts."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(given["model"])
    tokenizer.model_max_length = given["max_length"]
    model = AutoModelForSequenceClassification.from_pretrained(given["model"]).eval()
    wrapper = HuggingFaceModelWrapper(model, tokenizer)
    if how == "patched":
        wrapper.tokenizer = Padded(tokenizer)
    one = given["attacks"][name]
    constraints = [
        RepeatModification(),
        StopwordModification(stopwords=given["stop_words"]),
        MinWordLength(given["min_length"]),
    ]
    search = GreedyWordSwapWIR(wir_method=one["order"])
    goal = UntargetedClassification(wrapper)
    attack = Attack(goal, constraints, Table(one["candidates"]), search)
    counter, outcomes, queries = Counter(model), {}, 0
    began = time.process_time()
    for text in given["texts"]:
        result = attack.attack(text["text"], text["label"])
        wrong, robust = (isinstance(result, k) for k in (SkippedAttackResult, FailedAttackResult))
        outcomes[text["id"]] = "wrong" if wrong else "robust" if robust else "fooled"
        queries += result.num_queries
    return {
        "total": time.process_time() - began,
        "model": counter.seconds,
        "outcomes": outcomes,
        "queries": queries / len(given["texts"]),
        "forwards": counter.forwards,
        "calls": counter.calls,
        "padded": counter.padded,
    }


def main() -> None:
    folder, how = Path(sys.argv[1]), sys.argv[2]
    given = json.loads((folder / "given.json").read_text(encoding="utf-8"))
    torch.set_num_threads(given["threads"])
    for one in sys.argv[3:]:
        name, _, result = one.partition("=")
        found = json.dumps(cost(given, name, how))
        Path(result).write_text(found, encoding="utf-8")


if __name__ == "__main__":
    main()
