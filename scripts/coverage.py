"""How often the 95 % intervals over seeds and texts hold the truth, by simulation.

    python scripts/coverage.py --output recipes/results/interval_coverage.md

Two methods of the same law are compared: the true difference is 0. A text's difficulty is the same
for all models, a seed shifts all its texts, and each answer has a part of its own:

    right ⇔ μ + difficulty + seed + rest > 0

all normal with standard deviations 1.5, σ and 0.7, μ = 0.3. σ is set so that the accuracies of the
seeds of one method have the standard deviation in the table's first column. Beside the intervals
of the package stands the percentile bootstrap over seeds and texts that version 0.4.0 had.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from nlp_adv.robustness.seeds import difference_of_tables, mean_of_table

Table = NDArray[np.float64]

MEAN, TEXTS, REST = 0.3, 1.5, 0.7
SEEDS = ((2, 2), (3, 3), (5, 5), (10, 10), (3, 10))
SPREADS = (0.0, 1.2, 2.4, 4.8)  # standard deviations of the seeds' accuracies, in points
POINTS = 100 * norm.pdf(MEAN / np.hypot(TEXTS, REST)) / np.hypot(TEXTS, REST)  # a unit of σ


def answers(seeds: int, spread: float, difficulty: Table, random: np.random.Generator) -> Table:
    """(seeds, texts), 1 where right; the seeds' accuracies spread by so many points."""
    shift = random.normal(0, spread / POINTS, (seeds, 1))
    rest = random.normal(0, REST, (seeds, len(difficulty)))
    return np.where(MEAN + difficulty + shift + rest > 0, 1.0, 0.0)


def true_accuracy(spread: float) -> float:
    """The mean over all seeds and texts."""
    return float(norm.cdf(MEAN / np.sqrt(TEXTS**2 + REST**2 + (spread / POINTS) ** 2)))


def coverage(
    seeds: tuple[int, int],
    spreads: tuple[float, float],
    texts: int,
    repeats: int,
    *,
    resamples: int = 0,
    seed: int = 0,
) -> dict[str, float]:
    """Shares of intervals that hold the truth, and the mean width of those of the difference.

    Args:
        seeds: of the two methods.
        spreads: of their seeds' accuracies, in points.
        texts: N.
        repeats: of the whole experiment.
        resamples: of the bootstrap; 0 leaves it out.
        seed: of all that is random.
    """
    random = np.random.default_rng([seed, *seeds, texts, *(int(100 * s) for s in spreads)])
    counts = {"difference": 0.0, "mean": 0.0, "bootstrap": 0.0, "width": 0.0}
    truth = true_accuracy(spreads[0])
    drawn = random.multinomial(texts, np.full(texts, 1 / texts), resamples).astype(np.float64)
    for _ in range(repeats):
        difficulty = random.normal(0, TEXTS, texts)
        a, b = (
            answers(number, spread, difficulty, random)
            for number, spread in zip(seeds, spreads, strict=True)
        )
        found = difference_of_tables(a, b)
        gap = true_accuracy(spreads[0]) - true_accuracy(spreads[1])
        counts["difference"] += found.low <= gap <= found.high
        counts["width"] += 100 * (found.high - found.low)
        low, high = mean_of_table(a)
        counts["mean"] += low <= truth <= high
        if resamples:
            low, high = bootstrap(a, b, drawn, random)
            counts["bootstrap"] += low <= gap <= high
    return {name: count / repeats for name, count in counts.items()}


def bootstrap(a: Table, b: Table, texts: Table, random: np.random.Generator) -> tuple[float, float]:
    """Percentiles of the difference over seeds and texts drawn again, the texts for both alike.

    Args:
        a, b: answers of the two methods.
        texts: (resamples, N), how often each text was drawn.
        random: draws the seeds.
    """
    means = []
    for table in (a, b):
        number = len(table)
        seeds = random.multinomial(number, np.full(number, 1 / number), len(texts))
        means.append((texts @ table.T / texts.shape[1] * seeds).sum(1) / number)
    low, high = np.quantile(means[0] - means[1], [0.025, 0.975])
    return float(low), float(high)


def page(repeats: int, resamples: int, sizes: Sequence[int]) -> str:
    """The table as Markdown."""
    head = ("seeds", "sd of the seeds, points", "texts", "difference", "its width, points")
    head += ("mean", "bootstrap (0.4.0)")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    cells = [(s, (x, x), n) for s in SEEDS for n in sizes for x in SPREADS]
    cells += [(s, (4.8, 0.5), n) for s in SEEDS[:4] for n in sizes]
    for seeds, spreads, texts in cells:
        found = coverage(seeds, spreads, texts, repeats, resamples=resamples)
        both = [f"{one:g}" for one in dict.fromkeys(spreads)]
        row = [" and ".join(map(str, dict.fromkeys(seeds))), " and ".join(both), str(texts)]
        row += [f"{found['difference']:.3f}", f"{found['width']:.1f}", f"{found['mean']:.3f}"]
        row.append(f"{found['bootstrap']:.3f}")
        lines.append(f"| {' | '.join(row)} |")
    gap = 100 * abs(true_accuracy(4.8) - true_accuracy(0.5))
    error = 100 * np.sqrt(0.95 * 0.05 / repeats)
    return f"""# Coverage of the intervals over seeds and texts

{chr(10).join(lines)}

Shares of {repeats} simulated experiments in which the 95 % interval holds the truth: of the
difference of two methods of one law, and of the mean accuracy of the first one. The
standard error of a share of .95 is {error:.1f} points. "4.8 and 0.5": the seeds of one method
spread ten times as much as those of the other, which moves the truth by {gap:.2f} points. The
bootstrap is the percentile bootstrap over seeds and texts that version 0.4.0 of nlp_adv reported,
with {resamples} resamples.

Too high a share is the price of few seeds: two or three of them do not show how much seeds
differ, so the interval allows for more than they show.

    python scripts/coverage.py --repeats {repeats} --resamples {resamples}
"""


def main() -> None:
    """Simulate, print the page and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=200, help="of the bootstrap")
    parser.add_argument("--texts", type=int, nargs="+", default=[200, 1000])
    parser.add_argument("--output", type=Path, default=None, help="a Markdown file")
    args = parser.parse_args()
    text = page(args.repeats, args.resamples, args.texts)
    print(text)
    if args.output is not None:
        args.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
