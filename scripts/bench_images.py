"""What attacks on images cost, beside naive loops and beside torchattacks and foolbox.

    python scripts/bench_images.py --results recipes/results/bench_images.md

In every round each contender attacks the same images of the same model once, so that a disturbance
of the machine hits all alike; ratios are taken within a round. CPU time of this process on one
thread; on an accelerator (`--device cuda`) wall clock, until all of its work is finished. The model
is a small convolutional network, trained here on scikit-learn's digits; PGD is measured on a
residual network with random weights as well. torchattacks and foolbox take part where they are
installed.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import importlib.util
import logging
import math
import platform
import shlex
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from nlp_adv.attacks import FGSM, PGD, AttackResult, CarliniWagner, DeepFool
from nlp_adv.attacks.entering import pixel_rows
from nlp_adv.attacks.quiet import quiet
from nlp_adv.perturbation import LInfBall
from nlp_adv.sites.normalisation import logits_of

RADII = [0.02 * k for k in range(1, 11)]
CW = {"steps": 200, "search_steps": 9, "step_size": 0.05, "initial_constant": 1e-3}
LEGEND = """CPU time of the process on one thread (wall clock on an accelerator); each number is a
median over the rounds, and the ratio is taken to this package's time in the same round, its range
in brackets. This package's times include what its result holds beyond the images: two forward
passes for answers, confidences and rounding, the loss and ‖δ‖₂ along the way. ‖δ‖₂ is the mean over
those fooled. No random starts."""


class Problem(NamedTuple):
    """A model in eval mode, and images that it has right."""

    model: nn.Module
    x: Tensor
    y: Tensor

    def on(self, device: str) -> Problem:
        """The same there."""
        return Problem(self.model.to(device), self.x.to(device), self.y.to(device))


Run = Callable[[Problem], Tensor]


@dataclass
class Group:
    """Contenders for one attack; the first is this package's."""

    title: str
    problem: Problem
    contenders: dict[str, Run]


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 10),
    )


def digits() -> Problem:
    """The network, trained on 1297 digits, and those of the other 500 that it reads right."""
    data = load_digits()
    x = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    y = torch.tensor(data.target)
    torch.manual_seed(0)
    order = torch.randperm(len(x))
    x, y, model = x[order], y[order], network()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(12):
        for rows in torch.randperm(1297).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    model.zero_grad()
    model.eval()
    with torch.no_grad():
        right = model(x[1297:]).argmax(1) == y[1297:]
    return Problem(model, x[1297:][right], y[1297:][right])


class Logits(nn.Module):
    """What a Hugging Face classifier answers, as a tensor: others know no `.logits`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """(B, K)."""
        return self.model(x).logits


def residual(images: int) -> Problem:
    """A residual network of 8 blocks with random weights, 3 × 64 × 64 pixels."""
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    config = ResNetConfig(
        embedding_size=32,
        hidden_sizes=[32, 64, 128, 256],
        depths=[2, 2, 2, 2],
        layer_type="basic",
    )
    # The wrapper as well: torchattacks puts all of a model whose own flag says so in training mode.
    model = Logits(ResNetForImageClassification(config)).eval()
    x = torch.rand(images, 3, 64, 64)
    with torch.no_grad():
        return Problem(model, x, model(x).argmax(1))


# The naive loops: what snippets in circulation do, in as few lines.


def loop_pgd(epsilon: float, step_size: float, steps: int, *, backward: bool) -> Run:
    def run(problem: Problem) -> Tensor:
        model, x, y = problem
        adv = x.clone()
        for _ in range(steps):
            adv = adv.detach().requires_grad_()
            loss = functional.cross_entropy(model(adv), y)
            if backward:
                loss.backward()
                grad = adv.grad
            else:
                (grad,) = torch.autograd.grad(loss, adv)
            adv = adv.detach() + step_size * grad.sign()
            adv = (x + (adv - x).clamp(-epsilon, epsilon)).clamp(0, 1)
        model.zero_grad()
        return adv

    return run


def loop_deepfool(problem: Problem) -> Tensor:
    """One image after the other, a backward pass for each class; else the same steps."""
    model, images, labels = problem
    found = []
    for x, y in zip(images.split(1), labels.tolist(), strict=True):
        adv, total = x.clone(), torch.zeros_like(x)
        for _ in range(50):
            leaf = adv.clone().requires_grad_()
            logits = model(leaf)[0]
            if int(logits.argmax()) != y:
                break
            nearest, step = math.inf, torch.zeros_like(x)
            for k in range(len(logits)):
                if k == y:
                    continue
                f = logits[k] - logits[y]
                (w,) = torch.autograd.grad(f, leaf, retain_graph=True)
                distance = float(f.detach().abs() / w.norm())
                if distance < nearest:
                    nearest, step = distance, (distance + 1e-4) * w / w.norm()
            total = total + step
            adv = (x + 1.02 * total).clamp(0, 1)
        found.append(adv)
    return torch.cat(found)


def loop_carlini_wagner(problem: Problem) -> Tensor:
    """The whole batch makes all steps of all searches; autograd through tanh, torch's Adam."""
    model, x, y = problem
    c = torch.full((len(x),), CW["initial_constant"], device=x.device)
    lower, upper = torch.zeros_like(c), torch.full_like(c, torch.inf)
    closest, distance = x.clone(), torch.full_like(c, torch.inf)
    for _ in range(int(CW["search_steps"])):
        w = torch.atanh((2 * x - 1) * 0.999999).requires_grad_()
        optimizer = torch.optim.Adam([w], lr=CW["step_size"])
        hit = torch.zeros_like(c, dtype=torch.bool)
        for _ in range(int(CW["steps"])):
            adv = (torch.tanh(w) + 1) / 2
            logits = model(adv)
            right = logits.gather(1, y[:, None]).squeeze(1)
            rest = logits.scatter(1, y[:, None], -torch.inf).amax(1)
            squares = ((adv - x) ** 2).flatten(1).sum(1)
            fooled = logits.argmax(1) != y
            closer = fooled & (squares < distance)
            distance = torch.where(closer, squares, distance).detach()
            closest = torch.where(closer[:, None, None, None], adv, closest).detach()
            hit |= fooled
            optimizer.zero_grad()
            (squares + c * (right - rest).clamp_min(0)).sum().backward()
            optimizer.step()
        upper, lower = torch.where(hit, c, upper), torch.where(hit, lower, c)
        c = torch.where(upper.isinf(), 10 * c, (lower + upper) / 2)
    model.zero_grad()
    return closest


# Every radius with its images and whether they fool: what a curve over ε is drawn from.


def sweep_one_gradient(problem: Problem) -> Tensor:
    with quiet(problem.model):
        batch = pixel_rows(*problem)
        results = FGSM(RADII[0]).sweep(batch, RADII)
    assert all(len(result.success) == len(problem.x) for result in results)
    return results[-1].adv


def sweep_anew(problem: Problem) -> Tensor:
    return [FGSM(radius)(*problem) for radius in RADII][-1].adv


def sweep_loop(problem: Problem) -> Tensor:
    model, x, y = problem
    for radius in RADII:
        leaf = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(functional.cross_entropy(model(leaf), y), leaf)
        adv = (x + radius * grad.sign()).clamp(0, 1)
        with torch.no_grad():
            model(adv).argmax(1).ne(y)
    return adv


# Other libraries, each built as its own documentation shows.


def ours(attack: Callable[..., AttackResult]) -> Run:
    return lambda problem: attack(*problem).adv


def torchattacks(name: str, **options: Any) -> Run:
    def run(problem: Problem) -> Tensor:
        import torchattacks as library

        return getattr(library, name)(problem.model, **options)(problem.x, problem.y)

    return run


def torchattacks_sweep(problem: Problem) -> Tensor:
    import torchattacks as library

    for radius in RADII:
        adv = library.FGSM(problem.model, eps=radius)(problem.x, problem.y)
        with torch.no_grad():
            problem.model(adv).argmax(1).ne(problem.y)
    return adv


def foolbox(name: str, epsilons: float | list[float] | None, **options: Any) -> Run:
    def run(problem: Problem) -> Tensor:
        import foolbox as library

        model = library.PyTorchModel(problem.model, bounds=(0, 1))
        attack = getattr(library.attacks, name)(**options)
        clipped = attack(model, problem.x, problem.y, epsilons=epsilons)[1]
        return clipped[-1] if isinstance(clipped, list) else clipped

    return run


def groups(args: argparse.Namespace) -> list[Group]:
    every = digits().on(args.device)
    small = Problem(every.model, every.x[: args.images], every.y[: args.images])
    few = Problem(every.model, every.x[:64], every.y[:64])
    still, from_x = {"random_start": False}, {"random_start": False, "steps": 10}
    fb_cw = {"binary_search_steps": 9, "steps": 200, "stepsize": 0.05}
    pgd = {
        "this package": ours(PGD(LInfBall(0.1), 0.02, 10, **still)),
        "loop, gradient of the images alone": loop_pgd(0.1, 0.02, 10, backward=False),
        "loop, loss.backward()": loop_pgd(0.1, 0.02, 10, backward=True),
        "torchattacks PGD": torchattacks("PGD", eps=0.1, alpha=0.02, **from_x),
        "foolbox LinfPGD": foolbox("LinfPGD", 0.1, abs_stepsize=0.02, **from_x),
    }
    early = PGD(LInfBall(0.2), 0.02, 40, until_fooled=True, **still)
    long = {
        "this package, until fooled": ours(early),
        "this package, all steps": ours(PGD(LInfBall(0.2), 0.02, 40, **still)),
        "loop, gradient of the images alone": loop_pgd(0.2, 0.02, 40, backward=False),
        "torchattacks PGD": torchattacks("PGD", eps=0.2, alpha=0.02, steps=40, **still),
        "foolbox LinfPGD": foolbox("LinfPGD", 0.2, abs_stepsize=0.02, steps=40, **still),
    }
    sweep = {
        "this package, one gradient": sweep_one_gradient,
        "this package, a gradient a radius": sweep_anew,
        "loop, a gradient a radius": sweep_loop,
        "torchattacks FGSM": torchattacks_sweep,
        "foolbox LinfFastGradientAttack": foolbox("LinfFastGradientAttack", RADII, **still),
    }
    deepfool = {
        "this package": ours(DeepFool()),
        "loop, one image at a time": loop_deepfool,
        "torchattacks DeepFool": torchattacks("DeepFool", steps=50),
        "foolbox L2DeepFoolAttack": foolbox("L2DeepFoolAttack", None),
    }
    carlini_wagner = {
        "this package": ours(CarliniWagner(**CW)),
        "this package, all steps": ours(CarliniWagner(**CW, abort_early=False)),
        "loop, all steps": loop_carlini_wagner,
        "foolbox L2CarliniWagnerAttack": foolbox("L2CarliniWagnerAttack", None, **fb_cw),
        "torchattacks CW, one c = 1": torchattacks("CW", c=1, steps=200, lr=0.05),
    }
    n = len(small.x)
    return [
        Group(f"PGD, 10 steps, {n} digits", small, pgd),
        Group("PGD, 10 steps, 8 images, residual network", residual(8).on(args.device), pgd),
        Group(f"PGD, 40 steps, ε = 0.2, {n} digits", small, long),
        Group(f"FGSM at 10 radii, {n} digits; images of the last", small, sweep),
        Group(f"DeepFool, {len(few.x)} digits", few, deepfool),
        Group(f"Carlini and Wagner, 9 · 200 steps, {len(few.x)} digits", few, carlini_wagner),
    ]


def installed(name: str) -> bool:
    library = name.split()[0]
    return library not in ("torchattacks", "foolbox") or bool(importlib.util.find_spec(library))


def measure(group: Group, rounds: int) -> list[str]:
    """Rows of the table, one a contender."""
    names = [name for name in group.contenders if installed(name)]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    images: dict[str, Tensor] = {}
    for number in range(rounds + 1):  # the first is not counted
        for name in names:
            gc.collect()
            began = clock(group.problem)
            images[name] = group.contenders[name](group.problem).detach()
            if number:
                seconds[name].append(clock(group.problem) - began)
        print(f"{group.title}: round {number} of {rounds}", file=sys.stderr, flush=True)
    base = seconds[names[0]]
    rows = []
    for name in names:
        ratios = [mine / first for mine, first in zip(seconds[name], base, strict=True)]
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        rows.append(
            f"| {group.title} | {name} | {statistics.median(seconds[name]):.3f} "
            f"| {'1' if name == names[0] else ratio} | {outcome(group.problem, images[name])} |"
        )
    return rows


def clock(problem: Problem) -> float:
    """Seconds: of this process on a CPU, of the wall on an accelerator that has finished."""
    if problem.x.device.type == "cpu":
        return time.process_time()
    torch.accelerator.synchronize()
    return time.perf_counter()


def outcome(problem: Problem, adv: Tensor) -> str:
    """Fooled, %, and mean ‖δ‖₂ of those."""
    with torch.no_grad():
        fooled = logits_of(problem.model(adv)).argmax(1) != problem.y
    norms = (adv - problem.x).flatten(1).norm(dim=1)[fooled]
    return f"{100 * fooled.double().mean():.1f} | {norms.mean():.4f}" if len(norms) else "0.0 | "


def machine(device: str) -> str:
    """The device and the versions."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    versions = [f"Python {platform.python_version()}", f"torch {torch.__version__}"]
    for library in ("torchattacks", "foolbox"):
        if importlib.util.find_spec(library):
            versions.append(f"{library} {importlib.metadata.version(library)}")
        else:
            versions.append(f"{library} not installed")
    processor = names[0] if names else platform.machine()
    where = torch.cuda.get_device_name() if device == "cuda" else f"{processor}, 1 thread"
    return f"{where}, float32; {', '.join(versions)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=256, help="digits in the cheaper attacks")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", default="", help="groups whose title begins with this")
    parser.add_argument("--results", help="a Markdown file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    rows = [
        row
        for group in groups(args)
        if group.title.startswith(args.only)
        for row in measure(group, args.rounds)
    ]
    head = [
        "attack",
        "how",
        "CPU s" if args.device == "cpu" else "s",
        "÷ this package",
        "fooled, %",
        "‖δ‖₂",
    ]
    table = "\n".join([f"| {' | '.join(head)} |", "|" + "---|" * len(head), *rows])
    command = shlex.join(["python", "scripts/bench_images.py", *sys.argv[1:]])
    page = (
        f"# Cost of attacks on images\n\n`{command}`\n\n{machine(args.device)}; "
        f"{args.rounds} rounds.\n\n{table}\n\n{LEGEND}\n"
    )
    print(page)
    if args.results:
        Path(args.results).write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
