"""CPU time of the same attacks in two checkouts, alternately, in one run on one machine.

    python scripts/bench_pair.py OLD_CHECKOUT NEW_CHECKOUT --results recipes/results/bench_pair.md

Each case runs in a process of its own with one thread, first in the one checkout, then in the
other, and so on; what is compared is the CPU time of the attack alone, without imports and
building. The ratio is of medians, and the range that of the ratios of neighbouring runs.
"""

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

# Names moved between versions: the newest address first.
_PREPARE = """
import sys, time, torch
torch.set_num_threads(1)
torch.manual_seed(0)
from nlp_adv import L2Ball, LInfBall
try:
    from nlp_adv.attacks import APGD, FGSM, PGD, CarliniWagner, DeepFool
except ImportError:
    from nlp_adv.images import APGD, FGSM, PGD, CarliniWagner, DeepFool
"""
_IMAGES = """
from torch import nn
model = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1),
                      nn.ReLU(), nn.Flatten(), nn.Linear(32 * 49, 10)).eval()
x = torch.rand(256, 1, 14, 14)
y = model(x).argmax(1)
"""
_TEXTS = """
from transformers import BertConfig, BertForSequenceClassification
config = BertConfig(vocab_size=500, hidden_size=128, num_hidden_layers=2, num_attention_heads=2,
                    intermediate_size=256)
model = BertForSequenceClassification(config).eval()
for weight in model.parameters():
    if weight.ndim > 1:
        nn_init = torch.nn.init.normal_(weight, std=0.15)
ids = torch.randint(5, 500, (96, 24))
batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
batch["labels"] = model(**batch).logits.argmax(-1)
from nlp_adv.robustness import embedding_robustness
try:
    from nlp_adv.robustness import embedding_pgd
except ImportError:
    from nlp_adv.robustness import EmbeddingPGD as embedding_pgd
"""
CASES = {
    "FGSM, 256 images": (_IMAGES, "FGSM(0.05)(model, x, y)", 20),
    "PGD-40, 256 images": (_IMAGES, "PGD(LInfBall(0.05), 0.01, 40)(model, x, y)", 2),
    "PGD-40 until fooled": (
        _IMAGES,
        "PGD(LInfBall(0.05), 0.01, 40, until_fooled=True)(model, x, y)",
        6,
    ),
    "APGD-40": (_IMAGES, "APGD(LInfBall(0.05), 40)(model, x, y)", 2),
    "DeepFool": (_IMAGES, "DeepFool()(model, x, y)", 2),
    "C&W, 3·50 steps": (_IMAGES, "CarliniWagner(50, search_steps=3)(model, x, y)", 1),
    "embedding PGD-20, 3 radii, 96 texts": (
        _TEXTS,
        "embedding_robustness(model, [batch], embedding_pgd((0.02, 0.05, 0.1)))",
        1,
    ),
    "embedding PGD-20 at a radius that fools none": (
        _TEXTS,
        "embedding_robustness(model, [batch], embedding_pgd((0.001,)))",
        1,
    ),
}


def seconds(checkout: Path, case: str) -> float:
    """CPU time of one run of a case."""
    prepare, call, times = CASES[case]
    code = (
        f"{_PREPARE}{prepare}\n{call}\nstart = time.process_time()\n"
        f"for _ in range({times}):\n    {call}\nprint(time.process_time() - start)\n"
    )
    own = {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | own
    )
    if done.returncode:
        raise SystemExit(f"{case} in {checkout}: {done.stderr.strip().splitlines()[-1]}")
    return float(done.stdout.split()[-1])


def version(checkout: Path) -> str:
    """What a checkout calls itself."""
    code = (checkout / "nlp_adv" / "__init__.py").read_text(encoding="utf-8")
    return code.split('__version__ = "')[1].split('"')[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--results", type=Path, help="a Markdown file that the table goes to")
    args = parser.parse_args()
    lines = [
        "| attack | before, s | after, s | after ÷ before | range |",
        "|---|---:|---:|---:|---|",
    ]
    for case in CASES:
        pairs = [
            (seconds(args.old.resolve(), case), seconds(args.new.resolve(), case))
            for _ in range(args.repeats)
        ]
        old, new = (statistics.median(one) for one in zip(*pairs, strict=True))
        ratios = sorted(after / before for before, after in pairs)
        span = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
        lines.append(f"| {case} | {old:.2f} | {new:.2f} | {new / old:.2f} | {span} |")
        print(lines[-1], flush=True)
    if args.results:
        head = (
            "# Attacks before and after they were written once\n\nCPU time of one thread, medians "
            f"of {args.repeats} runs in turn (version {version(args.old)}, then "
            f"{version(args.new)}).\n\n"
        )
        foot = "\n\n    python scripts/bench_pair.py OLD_CHECKOUT NEW_CHECKOUT\n"
        args.results.write_text(head + "\n".join(lines) + foot, encoding="utf-8")


if __name__ == "__main__":
    main()
