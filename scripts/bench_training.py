"""What a training step costs, method by method, beside naive versions of the same methods.

    python scripts/bench_training.py                       # the reference setting, a few minutes
    python scripts/bench_training.py --repeats 3 --length 32 --json bench.json

One run, interleaved: in every round each contender makes one step on the same batch, so that a
disturbance of the machine hits all alike; ratios are taken within a round. `floor` is the least a
step can cost in clean steps (one forward and two half backwards each; a pass for ∇δ alone skips
the weight gradients). Nothing but forward and backward is timed: the optimizer's step is the same
for all.
"""

import argparse
import gc
import json
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from nlp_adv import (
    AWP,
    FGM,
    FGSM,
    PGD,
    SMART,
    TAVAT,
    TRADES,
    VAT,
    YOPO,
    FGMMatrix,
    FGMRemembered,
    FreeAT,
    FreeLB,
    InnerPasses,
    L2Ball,
    LayerSite,
    LInfBall,
    Memory,
    Noise,
    RDrop,
    SomeRows,
    objective,
)
from nlp_adv.methods import Method, floor_cost
from nlp_adv.sites.embeddings import EmbeddingSite, EmbeddingTap, find_embedding
from nlp_adv.sites.site import Site

STEPS = 3
BLOCKS = 6
LEGEND = """Forward and backward passes only, CPU seconds of all threads (wall clock on a GPU),
each divided by the clean step of its own round. Passes: full ones, ones for ∇δ alone, ones through
the first of the six blocks alone, and forward ones without gradient, as the tests count them; where
half of the rows are attacked, the ones for ∇δ alone run on these. At half depth δ enters behind the
third of the six blocks; "prefix once", what lies below is computed in the first ∇δ pass alone.
Floor: the least the method can cost, in clean steps; adding one pass's gradient to another's, which
it leaves out, is in the accumulated clean steps. Naive versions: full backwards in the inner steps,
or the embedding matrix perturbed, as snippets in circulation do. Peak memory: resident, of a
process of its own, the interpreter and its libraries included."""


def methods() -> dict[str, Method]:
    ball = L2Ball(0.3)
    return {
        "noise": Noise(ball),
        "fgsm (clean + adv)": FGSM(LInfBall(0.01), 0.01),
        "fgm (clean + adv)": FGM(ball),
        "fgm (adv only)": FGM(ball, clean_weight=0.0),
        "fgm_matrix": FGMMatrix(1.0),
        "fgm_remembered, label and word": FGMRemembered(ball),
        "fgm_remembered, example": FGMRemembered(ball, by="example"),
        "fgm, half of the rows": SomeRows(FGM(ball), 0.5),
        "pgd-3 (adv only)": PGD(ball, 0.1, STEPS, random_start=False),
        "pgd-3 (clean + adv)": PGD(ball, 0.1, STEPS, random_start=False, clean_weight=0.5),
        "pgd-3, ascents in bf16": InnerPasses(PGD(ball, 0.1, STEPS, False), "bf16"),
        "pgd-3, ascents without dropout": InnerPasses(PGD(ball, 0.1, STEPS, False), dropout=False),
        "pgd-3, half of the rows": SomeRows(PGD(ball, 0.1, STEPS, False, clean_weight=0.5), 0.5),
        "pgd-3 at half depth": PGD(ball, 0.1, STEPS, random_start=False),
        "pgd-3 at half depth, prefix once": InnerPasses(
            PGD(ball, 0.1, STEPS, False), prefix="once"
        ),
        "freelb-3": FreeLB(ball, 0.1, STEPS, init_magnitude=0.1),
        "freelb-1, reuse": FreeLB(ball, 0.1, 1, reuse=True),
        "freeat (a replay)": FreeAT(ball, 0.3, replays=3),
        "yopo-3-3 (6 ascents)": YOPO(ball, 0.1, rounds=3, steps=3),
        "pgd-6 (6 ascents, adv only)": PGD(ball, 0.1, 6, random_start=False),
        "freelb-7 (6 ascents)": FreeLB(ball, 0.1, 7),
        "tavat-2": TAVAT(ball, 0.1, 2, init_magnitude=0.1),
        "vat": VAT(ball, xi=0.1),
        "smart": SMART(LInfBall(0.01), 0.01, 1, beta=1.0, init_magnitude=0.01),
        "smart, proximal": SMART(LInfBall(0.01), 0.01, 1, 1.0, 0.01, proximal_weight=1.0),
        "trades-3": TRADES(ball, 0.1, STEPS, beta=6.0, init_magnitude=0.01),
        "rdrop": RDrop(),
        "awp": AWP(ball, 0.3, 1, gamma=0.005),
    }


# The naive versions: what the snippets in circulation do, in as few lines.


def naive_matrix_fgm(model: nn.Module, batch: dict[str, Tensor]) -> None:
    model(**batch).loss.backward()
    weight = find_embedding(model).weight
    backup = weight.data.clone()
    weight.data.add_(weight.grad / weight.grad.norm())
    model(**batch).loss.backward()
    weight.data = backup


def naive_matrix_pgd(model: nn.Module, batch: dict[str, Tensor]) -> None:
    """K ascents on the embedding matrix, every one with a full backward, the last on top."""
    model(**batch).loss.backward()
    weight = find_embedding(model).weight
    backup = weight.data.clone()
    kept = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    for step in range(STEPS):
        weight.data.add_(0.3 * weight.grad / weight.grad.norm())
        shift = weight.data - backup
        if shift.norm() > 1:
            weight.data = backup + shift / shift.norm()
        if step < STEPS - 1:
            model.zero_grad()
        else:
            for name, parameter in model.named_parameters():
                if name in kept:
                    parameter.grad = kept[name]
        model(**batch).loss.backward()
    weight.data = backup


def naive_delta_pgd(model: nn.Module, batch: dict[str, Tensor]) -> None:
    """δ on the embedding output, but inner steps compute all weight gradients and drop them."""
    module = find_embedding(model)
    ids = batch["input_ids"]
    delta = torch.zeros(*ids.shape, module.embedding_dim, device=ids.device)
    for step in range(STEPS + 1):
        delta = delta.detach().requires_grad_()
        handle = module.register_forward_hook(lambda m, a, out, d=delta: out + d)
        model(**batch).loss.backward()
        handle.remove()
        if step < STEPS:
            norm = delta.grad.flatten(1).norm(dim=1)[:, None, None]
            delta = delta.detach() + 0.1 * delta.grad / (norm + 1e-8)
            model.zero_grad()


NAIVE: dict[str, tuple[Callable[[nn.Module, dict[str, Tensor]], None], float]] = {
    "naive fgm, matrix": (naive_matrix_fgm, 2.0),
    "naive pgd-3, matrix": (naive_matrix_pgd, STEPS + 1.0),
    "naive pgd-3, full backward": (naive_delta_pgd, STEPS + 1.0),
}


class Bench:
    """The model, one batch, and everyone who makes a step on it."""

    def __init__(self, args: argparse.Namespace) -> None:
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=30522,
            hidden_size=384,
            num_hidden_layers=BLOCKS,
            num_attention_heads=6,
            intermediate_size=1536,
        )
        self.model = BertForSequenceClassification(config).to(args.device).train()
        ids = torch.randint(1000, 30000, (args.batch, args.length))
        labels = torch.randint(0, 2, (args.batch,))
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
        self.batch = {key: value.to(args.device) for key, value in batch.items()}
        tap = EmbeddingTap(find_embedding(self.model))
        tap.install()
        words = EmbeddingSite.of(self.model, tap)
        layer = LayerSite(f"bert.encoder.layer.{BLOCKS // 2 - 1}")
        self.memories: dict[str, Memory] = defaultdict(Memory)
        self.bf16, self.on_cpu = args.bf16, args.device == "cpu"
        self.contenders: dict[str, tuple[Callable[[], None], float]] = {
            "clean": (self._clean, 1.0),
            f"clean × {STEPS}, accumulated": (self._clean_accumulated, float(STEPS)),
        }
        for name, method in methods().items():
            if args.bf16 and getattr(method, "precision", None):
                continue  # all passes are in bfloat16 then
            site, below = (layer, 0.5) if "half depth" in name else (words, 0.0)
            floor = floor_cost(method, BLOCKS, below)
            self.contenders[name] = (lambda m=method, s=site: self._ours(m, s), floor)
        for name, (step, floor) in NAIVE.items():
            self.contenders[name] = (lambda s=step: s(self.model, self.batch), floor)

    def _clean(self) -> None:
        self.model(**self.batch).loss.backward()

    def _clean_accumulated(self) -> None:
        """What several passes cost when each adds its gradient to the last one's."""
        for _ in range(STEPS):
            self._clean()

    def _ours(self, method: Method, site: Site) -> None:
        memory = self.memories[repr(method)]
        method.step(objective(self.model, self.batch, site, seed=0, memory=memory))
        memory.replay = (memory.replay + 1) % getattr(method, "replays", 1)

    def run(self, name: str) -> float:
        """Seconds of one step: CPU seconds of all threads, or wall clock on an accelerator."""
        step, _ = self.contenders[name]
        self.model.zero_grad(set_to_none=True)
        gc.collect()
        _wait()
        clock = time.process_time if self.on_cpu else time.perf_counter
        start = clock()
        with torch.autocast(self.batch["input_ids"].device.type, enabled=self.bf16):
            step()
        _wait()
        return clock() - start


def counted_passes(name: str) -> str:
    """As the conformance suite counts them; a pass through the first block is 1/6 of a ∇δ one."""
    method = methods().get(name)
    if method is None:
        return ""
    kinds = ("passes", "inner_passes", "prefix_passes", "forward_passes")
    return ", ".join(str(getattr(method, kind, 0)) for kind in kinds)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def table(rows: list[dict[str, float | str]]) -> str:
    lines = [
        "| step | passes: full, ∇δ, block, forward | seconds | ÷ clean: median | min–max | floor "
        "| ÷ floor | peak memory ÷ clean |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        memory = row.get("memory")
        lines.append(
            f"| {row['name']} | {row['passes']} | {row['seconds']:.3f} | {row['ratio']:.2f} "
            f"| {row['low']:.2f}–{row['high']:.2f} "
            f"| {row['floor']:.2f} | {row['of_floor']:.2f} "
            f"| {'' if memory is None else f'{memory:.2f}'} |"
        )
    return "\n".join(lines)


def measure(args: argparse.Namespace) -> list[dict[str, float | str]]:
    bench = Bench(args)
    names = list(bench.contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for round_number in range(args.warmup + args.repeats):
        for name in names:
            second = bench.run(name)
            if round_number >= args.warmup:
                seconds[name].append(second)
        done = round_number + 1
        print(f"round {done} of {args.warmup + args.repeats}", file=sys.stderr, flush=True)
    rows: list[dict[str, float | str]] = []
    for name in names:
        pairs = zip(seconds[name], seconds["clean"], strict=True)
        ratios = [mine / clean for mine, clean in pairs]
        floor = bench.contenders[name][1]
        ratio = statistics.median(ratios)
        rows.append(
            {
                "name": name,
                "passes": counted_passes(name),
                "seconds": statistics.median(seconds[name]),
                "ratio": ratio,
                "low": min(ratios),
                "high": max(ratios),
                "floor": floor,
                "of_floor": ratio / floor,
            }
        )
    return rows


def peak_memory(args: argparse.Namespace, name: str) -> float:
    """Peak resident memory of a process of its own that makes two steps, in MiB."""
    command = [sys.executable, __file__, "--peak-of", name, "--device", args.device]
    command += ["--batch", str(args.batch), "--length", str(args.length)]
    command += ["--bf16"] if args.bf16 else []
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--no-memory", action="store_true", help="skip the memory column")
    parser.add_argument("--json", help="write the numbers here as well")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak_of:
        bench = Bench(args)
        for _ in range(2):
            bench.run(args.peak_of)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    rows = measure(args)
    if not args.no_memory and args.device == "cpu":
        base = peak_memory(args, "clean")
        for row in rows:
            row["memory_mib"] = peak_memory(args, str(row["name"]))
            row["memory"] = row["memory_mib"] / base
    setting = (
        f"BERT of 6 layers, 384 wide, vocabulary 30522; batch {args.batch}, length {args.length}, "
        f"dropout 0.1, {'bf16 autocast' if args.bf16 else 'float32'}; {args.device}, "
        f"{torch.get_num_threads()} threads; torch {torch.__version__}, Python "
        f"{platform.python_version()}; {args.repeats} rounds"
    )
    command = shlex.join(["python", "scripts/bench_training.py", *sys.argv[1:]])
    print(f"# What a training step costs\n\n`{command}`\n\n{setting}.\n\n{table(rows)}\n\n{LEGEND}")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"setting": setting, "rows": rows}, file, indent=2)


if __name__ == "__main__":
    main()
