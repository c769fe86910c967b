"""Whether the attack of `frontier.py` finds what AutoAttack finds.

    python recipes/frontier.py … --seeds 0 --points plain "fgm on ½, ε 0.04" --cells FILE \
        --keep_models FOLDER
    python recipes/frontier_attack.py --models FOLDER/sst2 --data FOLDER_OF_SST2

The frontier attacks with APGD on the margin and APGD-T from another start, 20 steps each.
AutoAttack takes more steps, looks for the nearest boundary too (FAB-T) and searches without
gradients (Square). Both get the same texts, and the table counts those on which they differ.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import frontier
from frontier_report import RESULTS
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from nlp_adv.attacks import APGD, APGDT, AutoAttack, Ladder
from nlp_adv.folders import write_whole
from nlp_adv.perturbation import L2Ball
from nlp_adv.robustness import embedding_robustness


def main() -> None:
    """Attack every model of the folder twice, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--steps", type=int, default=50, help="of AutoAttack's first three")
    parser.add_argument("--queries", type=int, default=500, help="of its Square")
    parser.add_argument("--output", type=Path, default=RESULTS / "attack.md")
    args = parser.parse_args()
    # What `frontier.Texts` reads of the recipe's settings.
    args.train_samples, args.test_examples, args.max_length = 1, args.examples, 48
    rows = []
    for folder in sorted(path for path in args.models.iterdir() if path.is_dir()):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        texts = frontier.Texts(args.data, tokenizer, args)
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        both = [_robust(model, texts, attack) for attack in _attacks(args)]
        (usual, cheap), (auto, dear) = both
        rows.append(
            f"| {folder.name} | {_share(usual)} | {_share(auto)} | {int((usual & ~auto).sum())} | "
            f"{int((auto & ~usual).sum())} | {dear / cheap:.1f} |"
        )
        print(rows[-1], flush=True)
    text = f"""# The attack of the frontier beside AutoAttack

`recipes/frontier_attack.py`: {args.examples} test texts, ε = {frontier.EPSILON} of their
embeddings' norm. The frontier's: APGD on the margin, {frontier.ATTACK_STEPS} steps, then APGD-T
from a random start. AutoAttack: {args.steps} steps for each of APGD, APGD-T and FAB-T,
{args.queries} queries for Square.

| model | robust, the frontier's, % | robust, AutoAttack, % | AutoAttack alone fools | \
the frontier's alone fools | CPU time, ratio |
|---|---:|---:|---:|---:|---:|
"""
    write_whole(args.output, text + "\n".join(rows) + "\n")


def _attacks(args: argparse.Namespace) -> list[Any]:
    ball, unit = L2Ball(frontier.EPSILON), "relative"
    usual = (
        APGD(ball, frontier.ATTACK_STEPS, "margin", unit=unit),
        APGDT(ball, frontier.ATTACK_STEPS, random_start=True, unit=unit),
    )
    auto = AutoAttack(ball, args.steps, queries=args.queries, unit=unit)
    return [Ladder(starts, (frontier.EPSILON,)) for starts in (usual, (auto,))]


def _robust(model: Any, texts: Any, attack: Any) -> tuple[Any, float]:
    """(which texts are robust, CPU seconds)."""
    begun = time.process_time()
    found = embedding_robustness(model, texts.batches(texts.attacked), attack, progress="Attacking")
    return found.robust(frontier.EPSILON), time.process_time() - begun


def _share(robust: Any) -> str:
    return f"{100 * robust.double().mean().item():.1f}"


if __name__ == "__main__":
    main()
