"""AutoAttack here and in its authors' code: the same images, verdict by verdict, and what it costs.

    pip install git+https://github.com/fra31/auto-attack@a392200
    python scripts/bench_autoattack.py --results recipes/results/autoattack.md

Two small networks are trained here on MNIST of 15 × 15 pixels, plainly and by PGD. Each of the four
attacks is run on all images that a network has right: what any of them fools, the ensemble does.
Where only one side fools an image, the other is given more starts, and then a radius that is 2 %
larger: an image on which the two still differ would be a difference between the attacks.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy, pad

from nlp_adv.attacks import APGD, APGDT, FABT, Square
from nlp_adv.data.idx import read_idx
from nlp_adv.methods import PGD
from nlp_adv.perturbation import L2Ball, LInfBall, Output
from nlp_adv.perturbation.evaluating import answers
from nlp_adv.sites.objective import image_objective

BALLS = {"L∞": (LInfBall, "Linf", torch.inf), "L2": (L2Ball, "L2", 2)}
RADII = {"plain": {"L∞": 0.09, "L2": 0.7}, "PGD": {"L∞": 0.17, "L2": 1.0}}
TRAINED_IN = LInfBall(0.15)
QUERIES = 1000  # of Square on both sides, instead of 5000: most of the time would be its own
OURS: dict[str, Callable[..., Any]] = {
    "apgd-ce": partial(APGD, steps=100, random_start=True),
    "apgd-t": partial(APGDT, random_start=True),
    "fab-t": partial(FABT, until_fooled=True),
    "square": partial(Square, queries=QUERIES),
}
STARTS = range(1, 6)  # the seeds of more starts
FARTHER = 1.02


class Counting(nn.Module):
    """A frozen network that counts images: all that pass, and those from which a gradient may."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.forwards = self.gradients = 0

    def forward(self, x: Tensor) -> Tensor:
        """Its logits."""
        self.forwards += len(x)
        self.gradients += len(x) * (x.requires_grad and torch.is_grad_enabled())
        return self.model(x)


@dataclass(frozen=True)
class Case:
    """A network, images that it has right, and a ball."""

    model: Counting
    x: Tensor
    y: Tensor
    norm: str
    epsilon: float

    def some(self, rows: Tensor, factor: float = 1.0) -> Case:
        """Some of the images, in a larger ball."""
        return Case(self.model, self.x[rows], self.y[rows], self.norm, factor * self.epsilon)

    def fooled(self, adv: Tensor) -> Tensor:
        """(B,): wrong, and in ball and box up to rounding."""
        length = torch.linalg.vector_norm((adv - self.x).flatten(1), BALLS[self.norm][2], dim=1)
        inside = (length <= self.epsilon * (1 + 1e-5)) & (adv >= 0).flatten(1).all(1)
        with torch.no_grad():
            wrong = answers(self.model.model(adv)) != self.y
        return wrong & inside & (adv <= 1).flatten(1).all(1)


def ours(name: str, case: Case, seed: int = 0) -> Tensor:
    """What one of our attacks made of the images; FAB-T starts at x, and with a seed beside it."""
    ball = BALLS[case.norm][0](case.epsilon)
    again = {"random_start": True} if name == "fab-t" and seed else {}
    return OURS[name](ball, seed=seed, **again)(case.model, case.x, case.y).adv


def theirs(name: str, case: Case, seed: int = 0) -> Tensor:
    """The same of the authors' code, in batches as large as ours."""
    from autoattack import AutoAttack as Theirs

    norm = BALLS[case.norm][1]
    attack = Theirs(case.model, norm=norm, eps=case.epsilon, seed=seed, verbose=False, device="cpu")
    # Windows shrink over the queries that there are, as in the paper; its standard version has them
    # shrink as if there were 10 000.
    attack.square.n_queries, attack.square.rescale_schedule = QUERIES, True
    with torch.random.fork_rng():
        if name == "fab-t" and seed:
            attack.fab.targeted, attack.fab.n_restarts, attack.fab.seed = True, 2, seed
            return attack.fab.perturb(case.x, case.y)
        attack.attacks_to_run = [name]
        return attack.run_standard_evaluation(case.x, case.y, bs=len(case.x))


@dataclass
class Side:
    """What came of one side's run."""

    fooled: Tensor
    seconds: float
    forwards: int
    gradients: int

    @classmethod
    def of(cls, run: Callable[..., Tensor], name: str, case: Case) -> Side:
        """Run it."""
        model = case.model
        model.forwards = model.gradients = 0
        began = time.process_time()
        adv = run(name, case)
        seconds = time.process_time() - began
        return cls(case.fooled(adv), seconds, model.forwards, model.gradients)

    @classmethod
    def together(cls, sides: Sequence[Side]) -> Side:
        """Fooled by any."""
        fooled = torch.stack([one.fooled for one in sides]).any(0)
        sums = zip(*((one.seconds, one.forwards, one.gradients) for one in sides), strict=True)
        return cls(fooled, *map(sum, sums))


def explained(run: Callable[..., Tensor], names: Sequence[str], case: Case, rows: Tensor) -> str:
    """How many images only the other side fooled, and what this one needs to fool them."""
    count = int(rows.sum())
    if not count:
        return "0"
    case = case.some(rows)
    again = torch.zeros(count, dtype=torch.bool)
    for name in names:
        for seed in STARTS:
            again |= case.fooled(run(name, case, seed))
    wider = case.some(~again, FARTHER)
    near = torch.zeros_like(wider.y, dtype=torch.bool)
    for name in names if len(near) else ():
        near |= wider.fooled(run(name, wider))
    numbers = {"with more starts": int(again.sum()), "at 1.02·ε": int(near.sum())}
    numbers["neither"] = count - sum(numbers.values())
    return f"{count}: " + ", ".join(f"{n} {how}" for how, n in numbers.items() if n)


def rows_of(title: str, case: Case) -> list[str]:
    """Of the table: each attack, and any of them."""
    rows, sides = [], []
    for name in OURS:
        sides.append((Side.of(ours, name, case), Side.of(theirs, name, case)))
        rows.append(row(title, name, [name], case, *sides[-1]))
    here, there = (Side.together(one) for one in zip(*sides, strict=True))
    return [*rows, row(title, "any of them", list(OURS), case, here, there)]


def row(title: str, said: str, names: Sequence[str], case: Case, here: Side, there: Side) -> str:
    """One of these."""
    count = len(case.y)
    cells = [
        title,
        said,
        *(f"{100 * (~side.fooled).double().mean():.1f}" for side in (here, there)),
        explained(theirs, names, case, here.fooled & ~there.fooled),
        explained(ours, names, case, there.fooled & ~here.fooled),
        f"{here.seconds:.1f}",
        f"{there.seconds / here.seconds:.2f}",
        f"{here.gradients / count:.0f}, {there.gradients / count:.0f}",
        f"{here.forwards / count:.0f}, {there.forwards / count:.0f}",
    ]
    print(f"| {' | '.join(cells)} |", file=sys.stderr, flush=True)
    return f"| {' | '.join(cells)} |"


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 7 * 7, 50),
        nn.ReLU(),
        nn.Linear(50, 10),
    )


def trained(kind: str, x: Tensor, y: Tensor, seed: int, passes: int) -> nn.Module:
    """Plainly in two passes, or half by PGD with five steps."""
    model = network(seed)
    method = PGD(TRAINED_IN, step_size=0.05, steps=5, clean_weight=0.5)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    mean, std = torch.zeros(1), torch.ones(1)

    def forward(model: nn.Module, batch: Any) -> Output:
        logits = model(batch["pixel_values"])
        return Output(cross_entropy(logits, batch["labels"]), logits)

    for epoch in range(2 if kind == "plain" else passes):
        for step, rows in enumerate(torch.randperm(len(x)).split(100)):
            optimizer.zero_grad()
            batch = {"pixel_values": x[rows], "labels": y[rows]}
            if kind == "plain":
                forward(model, batch).loss.backward()
            else:
                now = 1000 * epoch + step
                method.step(
                    image_objective(model, batch, mean=mean, std=std, seed=now, forward=forward)
                )
            optimizer.step()
    return model


def machine() -> str:
    """The processor and the versions."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.machine()
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{processor}, 1 thread, float32; {versions}"


LEGEND = """Robust is the share of the images that were right without attack, in per cent.
“Only ours” counts images that this package fools and the authors' code does not, and what it takes
until the authors' code does: more starts (the seeds 1 to 5), a radius larger by 2 %, or neither;
“only theirs” the other way round. Each attack is run on all images, so that “any of them” is the
ensemble's verdict, at the cost of the four; in turn each has only what those before it left.
CPU s is this package's, beside it the ratio of the authors' code to it; on a network as small as
this the attack's own work is a good part of both. Gradients and forward passes are counted by the
network, for each image, ours first. Ours leave an image with its first δ in the ball that fools
where the authors' FAB goes on to its last step, and look at the finished images once more, rounded
to 256 levels as well."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=os.environ.get("NLP_ADV_DATA", "data"), help="has mnist/")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the networks")
    parser.add_argument("--passes", type=int, default=4, help="through the images, by PGD")
    parser.add_argument("--only", default="", help="cases whose title begins with this")
    parser.add_argument("--results", help="a Markdown file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    folder = Path(args.data) / "mnist"
    x, y, test_x, test_y = (
        read_idx(folder / f"{name}-ubyte.gz")
        for name in (
            "train-images-idx3",
            "train-labels-idx1",
            "t10k-first3000-images-idx3",
            "t10k-first3000-labels-idx1",
        )
    )
    # A row and a column more than half as many: the authors' Square tiles an image of 14 × 14
    # beyond its edge in L2.
    x, test_x = (
        pad(avg_pool2d(one[:, None].float() / 255, 2), (0, 1, 0, 1)) for one in (x, test_x)
    )
    rows = []
    for kind, radii in RADII.items():
        model = Counting(trained(kind, x[:10000], y[:10000].long(), args.seed, args.passes))
        with torch.no_grad():
            right = answers(model(test_x)) == test_y
        print(f"{kind}: {right.double().mean():.3f} right", file=sys.stderr, flush=True)
        chosen = right.nonzero().flatten()[: args.images]
        for norm, epsilon in radii.items():
            title = f"{kind}, {norm} {epsilon:g}"
            case = Case(model, test_x[chosen], test_y[chosen].long(), norm, epsilon)
            if title.startswith(args.only):
                rows += rows_of(title, case)
    head = "| model, ball | attack | robust, ours | robust, theirs | only ours | only theirs "
    head += "| CPU s | theirs ÷ ours | gradients | forward passes |"
    table = "\n".join([head, "|" + "---|" * 10, *rows])
    command = shlex.join(["python", "scripts/bench_autoattack.py", *sys.argv[1:]])
    page = (
        f"# AutoAttack, beside its authors' code\n\n`{command}`\n\n{machine()}; "
        f"{args.images} images, Square with {QUERIES} queries.\n\n{table}\n\n{LEGEND}\n"
    )
    print(page)
    if args.results:
        Path(args.results).write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
