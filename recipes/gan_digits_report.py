"""How `gan_digits.py` judges its samples, and the tables and figures that it ends in."""

import argparse
import base64
import math
import platform
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import trange

Runs = dict[int, dict[str, Any]]  # by seed
KEPT = "\n## What came out\n"  # and what follows it is written by hand; a new page keeps it
BLOCKS = 100  # of steps, that the smooth curves are means over


def share(condition: Tensor) -> float:
    return condition.double().mean().item()


@dataclass
class Judge:
    """A classifier trained on the real digits, and the law of its features on them."""

    features: nn.Module
    head: nn.Module
    mean: Tensor
    covariance: Tensor
    accuracy: float = math.nan  # on the test digits

    @torch.no_grad()
    def measure(self, images: Tensor) -> dict[str, float]:
        """What (N, 784) images are worth.

        `confident`: the share with a class probability of at least 0.9. `entropy`: of the classes
        given to them, in nats; ln 10 at best, 0 if all are one digit. `frechet`: the distance of
        the features to those of the training digits, ‖μ − μ'‖² + tr(C + C' − 2(C·C')^½), which
        also sees what is wrong inside a class (Heusel et al., NeurIPS 2017, with other features).
        """
        features = self.features(images)
        confidence, digit = self.head(features).softmax(-1).max(-1)
        classes = digit.bincount() / len(digit)
        mean, covariance = moments(features)
        root = torch.linalg.eigvals(covariance @ self.covariance).real.clamp(min=0).sqrt()
        spread = covariance.trace() + self.covariance.trace() - 2 * root.sum()
        return {
            "confident": share(confidence >= 0.9),
            "entropy": torch.special.entr(classes).sum().item(),
            "frechet": ((mean - self.mean).square().sum() + spread).item(),
        }


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    return features.double().mean(0), features.double().T.cov()


def judge_of(data: dict[str, Tensor], path: Path) -> Judge:
    """The judge whose weights are in a file; without one they are trained, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        convolutions = (nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU())
        hidden = (nn.Flatten(), nn.Linear(32 * 7 * 7, 64), nn.ReLU())
        features = nn.Sequential(nn.Unflatten(1, (1, 28, 28)), *convolutions, *hidden)
        network = nn.Sequential(features, nn.Linear(64, 10))
        if not path.exists():
            fit(network, data["train"], data["train_labels"])
            torch.save(network.state_dict(), path.with_suffix(".partial"))
            path.with_suffix(".partial").replace(path)
    network.load_state_dict(torch.load(path, weights_only=True))
    with torch.no_grad():
        of_train = torch.cat([features(rows / 255) for rows in data["train"].split(1000)])
        accuracy = share(network(data["test"] / 255).argmax(-1) == data["test_labels"])
    return Judge(features, network[1], *moments(of_train), accuracy)


def fit(network: nn.Module, images: Tensor, labels: Tensor) -> None:
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in trange(4, desc="classifier, epochs"):
        for rows in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            cross_entropy(network(images[rows] / 255), labels[rows]).backward()
            optimizer.step()


def packed(images: Tensor) -> str:
    """Pixels in [0, 1] as text, a byte each."""
    return base64.b64encode(bytes((images * 255).round().byte().flatten().tolist())).decode()


def unpacked(text: str) -> Tensor:
    """uint8, (N, 28, 28)."""
    return torch.tensor(list(base64.b64decode(text)), dtype=torch.uint8).reshape(-1, 28, 28)


def shown(values: list[float], digits: int) -> str:
    """Mean ± standard deviation over seeds."""
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def row(*cells: object, head: bool = False) -> str:
    return f"| {' | '.join(map(str, cells))} |\n" + head * f"|{'---|' * len(cells)}\n"


def tables(runs: dict[str, Runs], references: dict[str, dict[str, float]]) -> str:
    """What the last samples and the last discriminator are worth, and the way there."""
    measures = {  # title, scale, decimals
        "confident": ("confident, %", 100, 1),
        "entropy": ("class entropy, nats", 1, 2),
        "frechet": ("Fréchet distance", 1, 1),
    }
    sides, titles = ["training", "test", "generated"], [m[0] for m in measures.values()]
    right = [f"D right on {side}, %" for side in sides]
    text = row("", "seeds", *titles, *right, "loss of D", "loss of G", head=True)
    for name, seeds in runs.items():
        done = list(seeds.values())
        last = [list(run["measures"].values())[-1] for run in done]
        cells = [shown([k * m[key] for m in last], d) for key, (_, k, d) in measures.items()]
        cells += [shown([100 * run["aright"][side] for run in done], 1) for side in sides]
        ends = [torch.tensor(run["trace"])[-math.ceil(len(run["trace"]) / 10) :] for run in done]
        cells += [shown([end[:, player].mean().item() for end in ends], 2) for player in range(2)]
        text += row(name, len(done), *cells)
    for name, measured in references.items():
        cells = [shown([k * measured[key]], d) for key, (_, k, d) in measures.items()]
        text += row(name, "", *cells, *[""] * 5)
    steps = list(next(iter(next(iter(runs.values())).values()))["measures"])
    for key, (title, k, d) in measures.items():
        text += f"\n{title}, after so many steps:\n\n" + row("", *steps, head=True)
        for name, seeds in runs.items():
            values = [[k * run["measures"][s][key] for run in seeds.values()] for s in steps]
            text += row(name, *(shown(v, d) for v in values))
    return text


def smooth(trace: Tensor) -> Tensor:
    """Means over blocks of steps. (T, 4) → (at most 100, 4)"""
    return torch.stack([part.mean(0) for part in trace.tensor_split(min(BLOCKS, len(trace)))])


def draw_losses(runs: dict[str, Runs], steps: int, path: Path) -> None:
    """Losses, and the discriminator's accuracy: means over seeds, their range, one seed raw."""
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "gan_digits"
    size = (3 * len(runs) + 0.8, 5.2)
    grid: dict[str, Any] = {"sharex": True, "sharey": "row", "squeeze": False}
    figure, axes = plt.subplots(2, len(runs), figsize=size, layout="constrained", **grid)
    curves = [(0, 0, "discriminator"), (0, 1, "generator"), (1, 2, "real"), (1, 3, "generated")]
    for column, (name, seeds) in enumerate(runs.items()):
        traces = torch.stack([torch.tensor(run["trace"]) for run in seeds.values()])
        means = torch.stack([smooth(trace) for trace in traces]).numpy()
        blocks, ticks = means.shape[1], traces.shape[1]
        times = [(block + 0.5) * steps / blocks for block in range(blocks)]
        raw = range(0, ticks, math.ceil(ticks / 500))
        for which, k, label in curves:
            axis, color, values = axes[which, column], f"C{k}", means[..., k]
            if which == 0:
                single = [traces[0, tick, k].item() for tick in raw]
                axis.plot([t * steps / ticks for t in raw], single, color, lw=0.4, alpha=0.35)
            axis.fill_between(times, values.min(0), values.max(0), color=color, alpha=0.3, lw=0)
            axis.plot(times, values.mean(0), color, lw=1.4, label=label)
        for axis, level in zip(axes[:, column], (math.log(2), 0.5), strict=True):
            axis.axhline(level, color="0.4", lw=0.8, ls=":")
            axis.grid(alpha=0.3)
        axes[0, column].set_title(name)
        axes[1, column].set(xlabel="step", ylim=(0, 1))
    axes[0, 0].set(ylabel="loss, nats", ylim=(0, axes[0, 0].get_ylim()[1]))
    axes[1, 0].set_ylabel("D is right on, share")
    for axis in axes[:, -1]:
        axis.legend(fontsize=8)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def draw_samples(runs: dict[str, Runs], path: Path) -> None:
    """Samples of the first seed, the same latents at every checkpoint."""
    import matplotlib.pyplot as plt
    from PIL import Image

    first = {name: next(iter(seeds.values()))["samples"] for name, seeds in runs.items()}
    steps = list(next(iter(first.values())))
    size = (1.75 * len(steps), 1.75 * len(runs) + 0.2)
    grid: dict[str, Any] = {"squeeze": False, "layout": "constrained"}
    figure, axes = plt.subplots(len(runs), len(steps), figsize=size, **grid)
    for line, (name, samples) in zip(axes, first.items(), strict=True):
        line[0].set_ylabel(name)
        for axis, step in zip(line, steps, strict=True):
            digits = unpacked(samples[step])
            side = math.isqrt(len(digits))
            picture = digits.reshape(side, side, 28, 28).transpose(1, 2).reshape(2 * [28 * side])
            axis.imshow(picture.numpy(), cmap="gray", vmin=0, vmax=255)
            axis.set(xticks=[], yticks=[])
    for axis, step in zip(axes[0], steps, strict=True):
        axis.set_title(f"step {step}", fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    Image.open(path).convert("L").quantize(16).save(path, optimize=True)  # a quarter of the size


def write_results(
    runs: dict[str, Runs],
    references: dict[str, dict[str, float]],
    accuracy: float,
    args: argparse.Namespace,
    folder: Path,
) -> None:
    """`gan_digits.md`, `samples.png` and `losses.svg`."""
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "gan_digits.md"
    old = page.read_text(encoding="utf-8") if page.exists() else ""
    by_hand = "".join(old.partition(KEPT)[1:])
    command = "python recipes/gan_digits.py --data_dir MNIST_FOLDER"
    for flag in ("initialisations", "seeds", "steps", "batch_size", "learning_rate"):
        value = getattr(args, flag)
        command += f" --{flag} {' '.join(map(str, value)) if isinstance(value, list) else value}"
    seconds = [run["seconds"] for seeds in runs.values() for run in seeds.values()]
    text = f"""# A GAN on handwritten digits

{tables(runs, references)}
Mean ± standard deviation over seeds. Confident: the share of 3000 samples to which a classifier of
the real digits ({100 * accuracy:.1f} % right on the test digits) gives a class with at least 0.9.
Class entropy: of its answers; ln 10 = 2.30 where all digits are equally frequent, 0 where all
samples are one digit. Fréchet distance: between Gaussians fitted to the classifier's features of
the samples and of the training digits. Test digits: the first 3000. Mixed pixels: each from a
training digit of its own. D right on: 3000 training digits, the test digits and the samples, at the
end. Losses: means over the last tenth of the steps, in nats; ln 2 = 0.69 where D cannot tell the
two apart (its loss is the mean of its two halves).

![samples of each initialisation over time](samples.png)

![losses and the discriminator's accuracy over time](losses.svg)

Samples: of the first seed, from the same latents at each step. Curves: means over blocks of steps
and over seeds; bands: the seeds' range; thin: single minibatches of the first seed; dotted: ln 2
and one half.

{platform.machine()} CPU, {torch.get_num_threads()} thread(s), torch {torch.__version__};
a run took {min(seconds):.0f} to {max(seconds):.0f} s.

    {command}
"""
    page.write_text(text + by_hand, encoding="utf-8")
    draw_samples(runs, folder / "samples.png")
    draw_losses(runs, args.steps, folder / "losses.svg")
    print(tables(runs, references))
