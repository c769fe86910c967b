"""A GAN on handwritten digits: Xavier, sparse and orthogonal initialisation side by side.

    python recipes/gan_digits.py --data_dir MNIST_FOLDER

The game of Goodfellow et al. (NeurIPS 2014, algorithm 1),

    min_G max_D  E log D(x) + E log(1 − D(G(z))),   z ~ U(−1, 1)¹⁰⁰,

with a generator 100-128-784 and a discriminator 784-128-1; G descends −log D(G(z)), its
non-saturating form. In this min–max both players are networks, an equilibrium over their weights is
sought and the samples are new images, while with adversarial examples the inner player is a
perturbation of each given input, kept inside a ball and thrown away.

A run (initialisation × seed) ends in a JSON file in the output folder and is not made again unless
its settings changed, so a stopped recipe goes on where it was. A seed gives every initialisation
the same digits and latents. The figures need `nlp_adv[plots]`.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gan_digits_report import Judge, judge_of, packed, share, write_results
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from tqdm import tqdm

from nlp_adv.data.idx import read_idx
from nlp_adv.errors import UserError

LATENT, HIDDEN, PIXELS = 100, 128, 784
SPARSITY = 0.9  # the share of a unit's inputs whose weight is 0
PROBED = 3000  # samples, or test digits, behind every measurement
CHECKPOINTS = (0, 1 / 80, 1 / 20, 1 / 5, 1)  # of the steps: when samples are measured
SHOWN = 25  # samples kept at each
TRACE_EVERY = 10  # steps


def sparse(weight: Tensor, std: float = 0.01) -> Tensor:
    """Martens (ICML 2010), with PyTorch's default scale."""
    # `sparse_` empties a share of each column. Transposed, each unit loses a share of its inputs;
    # as it stands, the one row of the discriminator's last layer would be 0 altogether.
    return nn.init.sparse_(weight.T, SPARSITY, std)


def sparse_scaled(weight: Tensor) -> Tensor:
    """With the mean square of Xavier's, to tell the effect of zeros from that of scale."""
    return sparse(weight, math.sqrt(2 / sum(weight.shape) / (1 - SPARSITY)))


INITIALISATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "xavier": nn.init.xavier_normal_,
    "sparse": sparse,
    "orthogonal": nn.init.orthogonal_,
    "sparse_scaled": sparse_scaled,
}


def players(name: str, seed: int) -> tuple[nn.Sequential, nn.Sequential]:
    """G: (B, 100) → pixels in (0, 1), (B, 784). D: (B, 784) → logits, (B, 1). Biases are 0."""
    g = nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, PIXELS), nn.Sigmoid())
    d = nn.Sequential(nn.Linear(PIXELS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))
    # The global stream, as `sparse_` draws its zeros from it whatever generator it is given.
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in (g[0], g[2], d[0], d[2]):
            INITIALISATIONS[name](layer.weight)
            layer.bias.zero_()
    return g, d


def latents(rows: int, generator: torch.Generator) -> Tensor:
    return torch.rand(rows, LATENT, generator=generator) * 2 - 1


def loss(logits: Tensor, real: bool) -> Tensor:
    """Mean −log of the probability that D gives to "real" (or to "generated"); ln 2 at logit 0."""
    return binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))


def step_discriminator(
    g: nn.Module, d: nn.Module, optimizer: torch.optim.Optimizer, real: Tensor, z: Tensor
) -> tuple[float, float, float]:
    """D's loss (mean of both halves), and the shares of both that it told aright before."""
    with torch.no_grad():
        generated = g(z)
    on_real, on_generated = d(real), d(generated)
    value = (loss(on_real, True) + loss(on_generated, False)) / 2
    optimizer.zero_grad()
    value.backward()
    optimizer.step()
    return value.item(), share(on_real > 0), share(on_generated < 0)


def step_generator(
    g: nn.Module, d: nn.Module, optimizer: torch.optim.Optimizer, z: Tensor
) -> float:
    """G's loss."""
    value = loss(d(g(z)), True)
    optimizer.zero_grad()
    value.backward(inputs=list(g.parameters()))
    optimizer.step()
    return value.item()


def train(
    name: str, seed: int, args: argparse.Namespace, data: dict[str, Tensor], judge: Judge
) -> dict[str, Any]:
    """A run: both players' losses over time, samples on the way, what they are worth."""
    stream, probe = (torch.Generator().manual_seed(3 * seed + k) for k in (1, 2))
    g, d = players(name, 3 * seed)
    of_g, of_d = (torch.optim.Adam(p.parameters(), lr=args.learning_rate) for p in (g, d))
    z = latents(PROBED, probe)
    checkpoints = {round(part * args.steps) for part in CHECKPOINTS}
    trace, measures, samples, start = [], {}, {}, time.perf_counter()

    @torch.no_grad()
    def look(step: int) -> Tensor:
        generated = g(z)
        measures[str(step)] = judge.measure(generated)
        samples[str(step)] = packed(generated[:SHOWN])
        return generated

    for step in tqdm(range(args.steps), f"{name}, seed {seed}", mininterval=1):
        if step in checkpoints:
            look(step)
        rows = torch.randint(len(data["train"]), (args.batch_size,), generator=stream)
        real = data["train"][rows] / 255
        first, second = (latents(args.batch_size, stream) for _ in range(2))
        loss_d, *aright = step_discriminator(g, d, of_d, real, first)
        losses = loss_d, step_generator(g, d, of_g, second)
        if step % TRACE_EVERY == 0:
            trace.append([round(value, 5) for value in (*losses, *aright)])
    generated = look(args.steps)
    with torch.no_grad():
        by_side = {
            "training": share(d(data["train"][:PROBED] / 255) > 0),
            "test": share(d(data["test"] / 255) > 0),
            "generated": share(d(generated) < 0),
        }
    return {
        "settings": settings(args),
        "seconds": time.perf_counter() - start,
        "aright": by_side,
        "measures": measures,
        "trace": trace,
        "samples": samples,
    }


def settings(args: argparse.Namespace) -> dict[str, Any]:
    return {key: getattr(args, key) for key in ("steps", "batch_size", "learning_rate")}


def finished(path: Path, args: argparse.Namespace) -> dict[str, Any] | None:
    """A run's record, if it was made with these settings."""
    if not path.exists():
        return None
    run: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return run if run["settings"] == settings(args) else None


def save(path: Path, run: dict[str, Any]) -> None:
    """All of it or nothing."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(run), encoding="utf-8")
    partial.replace(path)


def load(folder: Path) -> dict[str, Tensor]:
    """MNIST's files, gzipped or not: all training digits, the first 3000 test digits, (N, 784)."""
    data = {}
    for split, pattern, rows in [("train", "train", None), ("test", "t10k*", PROBED)]:
        found = sorted(folder.glob(f"{pattern}-images-idx3-ubyte*"))
        if not found:
            raise UserError(f"{folder} has no file {pattern}-images-idx3-ubyte(.gz); check it.")
        labels = found[0].with_name(found[0].name.replace("images-idx3", "labels-idx1"))
        data[split] = read_idx(found[0]).flatten(1)[:rows]
        data[f"{split}_labels"] = read_idx(labels).long()[:rows]
    return data


def mixed_pixels(images: Tensor, rows: int) -> Tensor:
    """Each pixel from another image: every pixel has its law, and no digit is left."""
    generator = torch.Generator().manual_seed(0)
    source = torch.randint(len(images), (rows, images.shape[1]), generator=generator)
    return images.gather(0, source)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", type=Path, required=True, help="the folder of MNIST's files")
    parser.add_argument(
        "--initialisations", nargs="+", default=list(INITIALISATIONS)[:3], choices=INITIALISATIONS
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--steps", type=int, default=20000, help="of each player")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/gan_digits"))
    parser.add_argument(
        "--results", type=Path, help="folder of the page and figures (default: the output folder)"
    )
    args = parser.parse_args(argv)
    if min(args.steps, args.batch_size) < 1:
        parser.error("--steps and --batch_size must be at least 1")
    try:
        data = load(args.data_dir)
    except UserError as error:
        parser.error(str(error))
    args.output_dir.mkdir(parents=True, exist_ok=True)
    judge = judge_of(data, args.output_dir / "classifier.pt")
    runs: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in args.initialisations}
    for seed in args.seeds:
        for name in args.initialisations:
            path = args.output_dir / f"{name}-seed{seed}.json"
            run = finished(path, args)
            if run is None:
                run = train(name, seed, args, data, judge)
                save(path, run)
            runs[name][seed] = run
    references = {
        "test digits": judge.measure(data["test"] / 255),
        "mixed pixels": judge.measure(mixed_pixels(data["train"], PROBED) / 255),
    }
    write_results(runs, references, judge.accuracy, args, args.results or args.output_dir)


if __name__ == "__main__":
    main()
