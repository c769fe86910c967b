"""Robust accuracy against what training costs, at equal clean accuracy: SST-2 and AG News.

    python recipes/frontier.py --model_name_or_path MODEL --data sst2=FOLDER ag_news=FOLDER

Every point of the frontier (a method, its share of the rows, its radius) trains a fresh head on the
same encoder, once a seed, by `AdversarialTrainer`. Each model is attacked on its word embeddings by
APGD on the margin, and by APGD-T from a random start on what that left. Plain training is attacked
at quarters of its way as well, which draws the curve that a method has to lie above. A folder holds
train and test files with the columns `text` and `label`.

A finished cell (data × point × seed) is written to `recipes/results/frontier/cells.json` at once
and is not run again, so that a stopped recipe goes on where it was, on another machine too, and
several processes with the same command share the work. `--table_only` makes the page and the figure
of what there is.
"""

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from filelock import FileLock, Timeout
from frontier_report import RESULTS, write_results
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    TrainerCallback,
    set_seed,
)

from nlp_adv import AdversarialTrainer, AdversarialTrainingArguments
from nlp_adv.attacks import APGD, APGDT, Ladder
from nlp_adv.data.files import read_file
from nlp_adv.folders import write_whole
from nlp_adv.perturbation import L2Ball
from nlp_adv.robustness import embedding_robustness

EPSILON = 0.04  # of the attack, a share of the norm of a text's embeddings
ATTACK_STEPS = 20  # of either attack
CELLS = RESULTS / "cells.json"

# A fresh head that meets full-size attacks can end in a constant answer, so all begin alike.
START = {"adv_start_step": 0.1, "adv_ramp_steps": 0.3}


def attacked(name: str, epsilon: float, **more: Any) -> dict[str, Any]:
    """Flags of a method on the word embeddings; the radius is a share of their norm."""
    given = {"adv": name, "adv_epsilon": epsilon, "adv_unit": "relative", **START, **more}
    return {k if k.startswith("adv") else f"adv_{k}": value for k, value in given.items()}


# By what a step costs. The controls (no attack in them) come first.
POINTS: dict[str, dict[str, Any]] = {
    "plain": {"adv": "none"},
    "plain, labels smoothed by 0.1": {"adv": "none", "label_smoothing_factor": 0.1},
    "plain, half the learning rate": {"adv": "none", "learning_rate": 5e-5},
    "noise on ½, ε 0.08": attacked("noise", 0.08, share=0.5),
    "fgm remembered by word, ε 0.04": attacked("fgm_remembered", 0.04, by="word"),
    "fgm remembered by label and word, ε 0.04": attacked("fgm_remembered", 0.04),
    "fgm remembered by label and word on ½, ε 0.04": attacked("fgm_remembered", 0.04, share=0.5),
    "fgm on ¼, ε 0.04": attacked("fgm", 0.04, share=0.25),
    "fgm on ¼, ε 0.08": attacked("fgm", 0.08, share=0.25),
    "fgm on ½, ε 0.02": attacked("fgm", 0.02, share=0.5),
    "fgm on ½, ε 0.04": attacked("fgm", 0.04, share=0.5),
    "fgm on ½, ε 0.08": attacked("fgm", 0.08, share=0.5),
    "fgm on ½, ε 0.04, inner passes without dropout": attacked(
        "fgm", 0.04, share=0.5, inner_dropout=False
    ),
    "fgm on ½, ε 0.08, inner passes without dropout": attacked(
        "fgm", 0.08, share=0.5, inner_dropout=False
    ),
    "fgm on ¾, ε 0.04": attacked("fgm", 0.04, share=0.75),
    "fgm on ¾, ε 0.08": attacked("fgm", 0.08, share=0.75),
    "fgm on all, no clean loss, ε 0.08": attacked("fgm", 0.08, clean_weight=0.0),
    "pgd-2 on ½, ε 0.04": attacked("pgd", 0.04, share=0.5, steps=2),
    "pgd-2 on ½, ε 0.08": attacked("pgd", 0.08, share=0.5, steps=2),
    "fgm, ε 0.04": attacked("fgm", 0.04),
    "fgm, ε 0.08": attacked("fgm", 0.08),
    "pgd-3 on ½, ε 0.04": attacked("pgd", 0.04, share=0.5, steps=3),
    "pgd-3 on ½, ε 0.08": attacked("pgd", 0.08, share=0.5, steps=3),
    "freelb-2, ε 0.04": attacked("freelb", 0.04, steps=2),
    "freelb-2, ε 0.08": attacked("freelb", 0.08, steps=2),
    "freelb-3, ε 0.04": attacked("freelb", 0.04, steps=3),
    "freelb-3, ε 0.08": attacked("freelb", 0.08, steps=3),
    "pgd-3, ε 0.02": attacked("pgd", 0.02, steps=3),
    "pgd-3, ε 0.04": attacked("pgd", 0.04, steps=3),
    "pgd-3, ε 0.08": attacked("pgd", 0.08, steps=3),
    "pgd-10 on ½, ε 0.08": attacked("pgd", 0.08, share=0.5, steps=10),
    "pgd-10, ε 0.02": attacked("pgd", 0.02, steps=10),
    "pgd-10, ε 0.08": attacked("pgd", 0.08, steps=10),
}
# These ended in one answer for all texts with the first seeds; more seeds are run on request alone.
CONSTANT = {
    "fgm on ½, ε 0.08, inner passes without dropout",
    "fgm on ¾, ε 0.08",
    "fgm on all, no clean loss, ε 0.08",
    "pgd-2 on ½, ε 0.08",
    "fgm, ε 0.08",
    "pgd-3 on ½, ε 0.08",
    "freelb-3, ε 0.08",
    "pgd-3, ε 0.08",
    "pgd-10 on ½, ε 0.08",
    "pgd-10, ε 0.08",
}
TRAINING = {
    "num_train_epochs": 1,
    "per_device_train_batch_size": 16,
    "learning_rate": 1e-4,
    "warmup_steps": 0.1,
    "train_sampling_strategy": "group_by_length",
    "save_strategy": "no",
    "logging_steps": 50,
    "report_to": "none",
}


class Texts:
    """The rows of one data set, as a model takes them."""

    def __init__(self, folder: Path, tokenizer: Any, args: argparse.Namespace) -> None:
        self.tokenizer, self.collate = tokenizer, DataCollatorWithPadding(tokenizer)
        self._encode = lambda row: {
            **tokenizer(row["text"], truncation=True, max_length=args.max_length),
            "labels": row["label"],
        }
        self._train = read_file(next(folder.glob("train.*"))).shuffle(seed=0)
        test = read_file(next(folder.glob("test.*"))).shuffle(seed=0)
        self.test = self._encoded(test.select(range(min(len(test), args.test_examples))))
        self.attacked = self.test.select(range(args.examples))
        self.classes = len(set(self._train["label"]))
        self._samples = args.train_samples

    def train(self, seed: int) -> Dataset:
        """Another draw of the rows for each seed."""
        drawn = self._train.shuffle(seed=seed + 1).select(range(self._samples))
        return self._encoded(drawn)

    @property
    def labels(self) -> str:
        """Of the attacked texts, as digits, in the order of the cells' digits."""
        batches = self.batches(self.attacked)
        return "".join(str(int(one)) for batch in batches for one in batch["labels"])

    def batches(self, rows: Dataset) -> Iterator[dict[str, torch.Tensor]]:
        """Of like lengths, so that little of the work is padding."""
        order = sorted(range(len(rows)), key=lambda at: len(rows[at]["input_ids"]))
        for at in range(0, len(order), 50):
            yield dict(self.collate([rows[one] for one in order[at : at + 50]]))

    def _encoded(self, rows: Dataset) -> Dataset:
        return rows.map(self._encode, remove_columns=rows.column_names)


def measured(model: Any, texts: Texts) -> dict[str, Any]:
    """Right answers to the test texts, and which of the attacked ones are robust, as 0 and 1."""
    right = torch.cat([_right(model, batch) for batch in texts.batches(texts.test)])
    ball, unit = L2Ball(EPSILON), "relative"
    # Where there are two classes, all losses have gradients of one direction: the second is a
    # restart, which begins elsewhere.
    starts = (
        APGD(ball, ATTACK_STEPS, "margin", unit=unit),
        APGDT(ball, ATTACK_STEPS, random_start=True, unit=unit),
    )
    found = embedding_robustness(
        model, texts.batches(texts.attacked), Ladder(starts, (EPSILON,)), progress="Attacking"
    )
    digits = {"right": found.right, "robust": found.robust(EPSILON)}
    return {"clean": right.double().mean().item()} | {
        key: "".join(str(int(one)) for one in values) for key, values in digits.items()
    }


@torch.no_grad()
def _right(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    model.eval()
    labels = batch.pop("labels")
    return model(**batch).logits.argmax(-1) == labels


class OnTheWay(TrainerCallback):
    """Measures a model at quarters of its training, and how long that took."""

    def __init__(self, texts: Texts) -> None:
        self.texts = texts
        self.found: dict[str, Any] = {}
        self.seconds = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        """Attack the model, where a quarter is done."""
        for share in (0.25, 0.5, 0.75):
            if state.global_step == round(share * state.max_steps):
                began = time.process_time()
                self.found[f"{share:g}"] = measured(model, self.texts)
                self.seconds += time.process_time() - began


def cell(
    name: str, point: str, seed: int, texts: Texts, args: argparse.Namespace
) -> dict[str, Any]:
    """Train and attack one model."""
    set_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(
        args.model_name_or_path, num_labels=texts.classes
    )
    watch = OnTheWay(texts)
    with tempfile.TemporaryDirectory() as folder:
        settings = {**TRAINING, "seed": seed, "output_dir": folder, "use_cpu": args.use_cpu}
        trainer = AdversarialTrainer(
            model=model,
            args=AdversarialTrainingArguments(**{**settings, **POINTS[point]}),
            train_dataset=texts.train(seed),
            data_collator=texts.collate,
            processing_class=texts.tokenizer,
            callbacks=[watch] if point == "plain" else [],
        )
        began = time.process_time()
        trainer.train()
        seconds = time.process_time() - began - watch.seconds
        if args.keep_models:
            trainer.save_model(f"{args.keep_models}/{name}/{point}-seed{seed}")
    return {
        **measured(model, texts),
        "on_the_way": watch.found,
        "flops": trainer.state.total_flos,
        "cpu_seconds": round(seconds, 1),
        "loss": trainer.state.log_history[-1]["train_loss"],
    }


def setting(args: argparse.Namespace) -> dict[str, Any]:
    """What all cells have alike; numbers of another setting are not mixed in."""
    return {
        "training": TRAINING,
        "epsilon": EPSILON,
        "attack_steps": ATTACK_STEPS,
        "train_samples": args.train_samples,
        "test_examples": args.test_examples,
        "examples": args.examples,
        "max_length": args.max_length,
    }


def kept(path: Path, args: argparse.Namespace) -> dict[str, Any]:
    """What the file of finished cells holds."""
    if not path.exists():
        return {"setting": setting(args), "labels": {}, "cells": {}}
    found = json.loads(path.read_text(encoding="utf-8"))
    if found["setting"] != setting(args):
        raise SystemExit(f"{path} holds cells of another setting; name a new file with --cells.")
    return found


def keep(path: Path, name: str, labels: str, key: str, cell: Any, args: argparse.Namespace) -> None:
    """Write one more cell; processes that share the file do so in turn."""
    with FileLock(_lock(path, "file")):
        found = kept(path, args)
        found["labels"] = found["labels"] | {name: labels}
        found["cells"] = dict(sorted((found["cells"] | {key: cell}).items()))
        # A line a cell, so that a new one is one line of a difference.
        text = json.dumps(found, ensure_ascii=False).replace('}, "', '},\n"')
        write_whole(path, text.replace('{"', '{\n"', 1) + "\n")


def make(name: str, point: str, seed: int, texts: Texts, args: argparse.Namespace) -> None:
    """A cell, unless it is there, or another process is at it."""
    key = f"{name} / {point} / {seed}"
    try:
        with FileLock(_lock(args.cells, key), blocking=False):
            if key not in kept(args.cells, args)["cells"]:
                print(key, flush=True)
                found = cell(name, point, seed, texts, args)
                keep(args.cells, name, texts.labels, key, found, args)
    except Timeout:
        print(f"{key}: another process is at it.", flush=True)


def _lock(path: Path, what: str) -> str:
    """The operating system releases it when its process ends, however that ends."""
    digest = hashlib.sha256(f"{path.resolve()} {what}".encode()).hexdigest()[:16]
    return f"{tempfile.gettempdir()}/frontier-{digest}.lock"


def main() -> None:
    """Train and attack what is missing, and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_name_or_path")
    parser.add_argument("--data", nargs="+", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    wanted = [point for point in POINTS if point not in CONSTANT]
    parser.add_argument("--points", nargs="+", choices=POINTS, default=wanted)
    parser.add_argument("--train_samples", type=int, default=2400)
    parser.add_argument("--test_examples", type=int, default=1000, help="for clean accuracy")
    parser.add_argument("--examples", type=int, default=500, help="test texts under attack")
    parser.add_argument("--max_length", type=int, default=48)
    parser.add_argument("--cells", type=Path, default=CELLS, help="where finished cells are kept")
    parser.add_argument(
        "--keep_models", help="a folder for the trained models; none are kept without"
    )
    parser.add_argument("--use_cpu", action="store_true")
    parser.add_argument("--table_only", action="store_true")
    args = parser.parse_args()
    if not args.table_only and not (args.model_name_or_path and args.data):
        parser.error("name a model and data, or ask for the table of what there is (--table_only).")
    args.cells.parent.mkdir(parents=True, exist_ok=True)
    folders = dict(one.split("=", 1) for one in args.data)
    if not args.table_only:
        tokenizer = AutoTokenizer.from_pretrained(args.model_name_or_path)
        data = {name: Texts(Path(folder), tokenizer, args) for name, folder in folders.items()}
        for seed in args.seeds:
            for name, texts in data.items():
                for point in args.points:
                    make(name, point, seed, texts, args)
    write_results(kept(args.cells, args), list(POINTS))


if __name__ == "__main__":
    main()
