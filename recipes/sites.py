"""FreeLB on the word embeddings and on a hidden layer, attacked there and elsewhere; robust radii.

    python recipes/sites.py --model_name_or_path MODEL --dataset_name SST2_FOLDER

Three models are trained on SST-2, each once a seed: plain, FreeLB on the word embeddings, FreeLB
on the output of layer 3. Each is attacked on the embeddings and on that layer, by PGD and APGD at
some radii, and each text's robust radius is measured at both: the smallest ‖δ‖, as a share of the
norm of what the model computes there, that changes a right answer (the smaller one of DeepFool and
of bisecting PGD's radius). Models and measurements are kept in the output folder, so that a stopped
recipe goes on where it was; tables, numbers and the figure end in `recipes/results/sites`.
"""

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

from nlp_adv.attacks import APGD, PGD, Bisection, DeepFool, Ladder, Measured, ladder
from nlp_adv.cli.main import main as nlp_adv
from nlp_adv.data.files import read_file
from nlp_adv.drawing import line_style, new_figure, saved, tidy
from nlp_adv.folders import write_whole
from nlp_adv.perturbation import L2Ball
from nlp_adv.robustness import embedding_robustness
from nlp_adv.robustness.seeds import difference_over_seeds, mean_over_seeds
from nlp_adv.sites import EmbeddingSite, LayerSite

RESULTS = Path(__file__).parent / "results" / "sites"
EPSILONS = (0.02, 0.05, 0.1)
SITES = {"embeddings": None, "layer 3": "bert.encoder.layer.3"}
START = ["--adv_start_step", "0.1", "--adv_ramp_steps", "0.3"]
MODELS = {
    "plain": ["--adv", "none"],
    "FreeLB, embeddings": ["--adv", "freelb", *START],
    "FreeLB, layer 3": ["--adv", "freelb", "--adv_site", f"layer:{SITES['layer 3']}", *START],
}
TRAINING = {
    "per_device_train_batch_size": 16,
    "learning_rate": 5e-5,
    "warmup_steps": 0.1,
    "save_strategy": "no",
    "logging_steps": 50,
}


def ladders() -> dict[str, Ladder]:
    """What is measured, by name."""
    unit = {"unit": "relative"}
    pgd = PGD(L2Ball(1.0), 2.0, 20, random_start=False, loss="margin", shorten=True, **unit)
    return {
        "PGD-20": ladder(pgd, EPSILONS),
        "APGD-20": ladder(APGD(L2Ball(1.0), 20, "margin", **unit), EPSILONS),
        "DeepFool": ladder(DeepFool()),
        "bisection": ladder(Bisection(pgd)),
    }


def trained(name: str, seed: int, args: argparse.Namespace) -> Path:
    """The folder of a model, which is trained where it is missing."""
    folder = args.output_dir / f"{name.replace(', ', '_').replace(' ', '')}-seed{seed}"
    if not (folder / "config.json").exists():
        given = {"model_name_or_path": args.model_name_or_path, "dataset_name": args.dataset_name}
        sizes = {"max_train_samples": args.train_samples, "num_train_epochs": args.epochs}
        settings = {**given, **TRAINING, **sizes, "output_dir": folder, "seed": seed}
        flags = [str(part) for key, value in settings.items() for part in (f"--{key}", value)]
        if nlp_adv(["train", *MODELS[name], *flags, "--overwrite_output_dir"]):
            raise SystemExit(f"{name}, seed {seed}: not trained, as was said above.")
    return folder


def batches(folder: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """The first test texts as the model takes them."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = read_file(next(Path(args.dataset_name).glob("test.*"))).select(range(args.examples))
    encoded = [
        {**tokenizer(text, truncation=True, max_length=128), "labels": label}
        for text, label in zip(rows["text"], rows["label"], strict=True)
    ]
    collate = DataCollatorWithPadding(tokenizer)
    return [dict(collate(encoded[at : at + 50])) for at in range(0, len(encoded), 50)]


def measured(name: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """All numbers of one model, kept as they are finished."""
    folder = trained(name, seed, args)
    path = folder / "sites.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    data = None
    for site, module in SITES.items():
        for attack, one in ladders().items():
            key = f"{site}/{attack}/{args.examples}"
            if key in known:
                continue
            data = data or batches(folder, args)
            where = EmbeddingSite() if module is None else LayerSite(module)
            print(f"{name}, seed {seed}: {attack} on {site}", flush=True)
            known[key] = numbers(embedding_robustness(model, data, one, site=where))
            write_whole(path, json.dumps(known) + "\n")
    return {key: value for key, value in known.items() if key.endswith(f"/{args.examples}")}


def numbers(found: Measured) -> dict[str, Any]:
    """What is kept of an attack."""
    radii = [radius for radius in found.radii if radius is not None]
    smallest = [None if math.isinf(one) else one for one in found.smallest().tolist()]
    return {
        "right": found.right.tolist(),
        "robust": {f"{radius:g}": found.robust(radius).tolist() for radius in radii},
        "smallest": smallest,
        "gradients": found.gradient_passes[:, -1].double().mean().item(),
    }


def answers(values: list[bool]) -> dict[int, bool]:
    return dict(enumerate(values))


def row_of(label: str, seeds: list[list[bool]], plain: list[list[bool]]) -> str:
    """Mean accuracy, its interval, and the difference from the plain models."""
    mine = [answers(one) for one in seeds]
    low, high = mean_over_seeds(mine)
    mean = statistics.fmean(statistics.fmean(one) for one in seeds)
    cell = f"{100 * mean:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
    if seeds is plain:
        return f"| {label} | {cell} | |"
    gap = difference_over_seeds(mine, [answers(one) for one in plain])
    shown = f"{100 * gap.difference:+.1f} [{100 * gap.low:+.1f}, {100 * gap.high:+.1f}]"
    return f"| {label} | {cell} | {shown} |"


def robust_radii(found: dict[str, Any], site: str, args: argparse.Namespace) -> list[float]:
    """Of each right answer, the smaller of what both attacks found."""
    both = [found[f"{site}/{attack}/{args.examples}"] for attack in ("DeepFool", "bisection")]
    pairs = zip(both[0]["right"], *(one["smallest"] for one in both), strict=True)
    return [
        min(math.inf if one is None else one for one in lengths)
        for right, *lengths in pairs
        if right
    ]


def written(cells: dict[tuple[str, int], dict[str, Any]], args: argparse.Namespace) -> str:
    """The page."""
    seeds = sorted({seed for _, seed in cells})
    lines = [
        "# FreeLB on embeddings and on a layer, attacked on both",
        "",
        f"A BERT of 6 layers on SST-2 ({args.train_samples} training texts, {args.epochs} epochs), "
        f"the first {args.examples} test texts, seeds "
        f"{', '.join(map(str, seeds))}, one processor, torch {torch.__version__}. ε and robust "
        "radii are shares of the L2 norm of what the model computes at the site. Intervals: t over "
        "seeds and texts, 95 %; differences are from the plain models.",
        "",
    ]

    def of(name: str, key: str, part: str, radius: str | None = None) -> list[list[bool]]:
        found = [cells[name, seed][f"{key}/{args.examples}"][part] for seed in seeds]
        return [one[radius] for one in found] if radius else found

    lines += ["| without attack | accuracy, % | difference |", "|---|---|---|"]
    plain = of("plain", "embeddings/PGD-20", "right")
    for name in MODELS:
        mine = plain if name == "plain" else of(name, "embeddings/PGD-20", "right")
        lines.append(row_of(name, mine, plain))
    for site in SITES:
        for attack in ("PGD-20", "APGD-20"):
            for epsilon in EPSILONS:
                head = f"{attack} on {site}, ε = {epsilon:g}"
                lines += ["", f"| {head} | accuracy, % | difference |", "|---|---|---|"]
                plain = of("plain", f"{site}/{attack}", "robust", f"{epsilon:g}")
                for name in MODELS:
                    mine = of(name, f"{site}/{attack}", "robust", f"{epsilon:g}")
                    lines.append(row_of(name, plain if name == "plain" else mine, plain))
    lines += ["", "## Robust radii of right answers", ""]
    lines += ["| model | site | seed | first quartile | median | third quartile |", "|---|" * 1]
    lines[-1] = "|---|---|---:|---:|---:|---:|"
    for name, seed in cells:
        for site in SITES:
            radii = robust_radii(cells[name, seed], site, args)
            low, middle, high = statistics.quantiles(radii, n=4)
            shown = f"{low:.4f} | {middle:.4f} | {high:.4f}"
            lines.append(f"| {name} | {site} | {seed} | {shown} |")
    lines += ["", "![Distribution of robust radii](radii.svg)", "", "Command:", ""]
    lines.append(
        f"    python recipes/sites.py --model_name_or_path MODEL --dataset_name SST2_FOLDER "
        f"--train_samples {args.train_samples} --epochs {args.epochs} "
        f"--examples {args.examples} --seeds {' '.join(map(str, seeds))}"
    )
    return "\n".join(lines) + "\n"


def draw(cells: dict[tuple[str, int], dict[str, Any]], args: argparse.Namespace) -> None:
    """The share of right answers whose robust radius is larger, over the radius."""
    figure = new_figure(9.0, 4.0)
    for axes, site in zip(figure.subplots(1, 2, sharey=True), SITES, strict=True):
        for number, name in enumerate(MODELS):
            radii = sorted(
                radius
                for (model, _), found in cells.items()
                if model == name
                for radius in robust_radii(found, site, args)
            )
            left = [100 * (1 - at / len(radii)) for at in range(len(radii))]
            axes.plot(radii, left, drawstyle="steps-post", label=name, **line_style(number))
        axes.set_xlabel(f"‖δ‖ on the {site}, share of the norm")
        axes.set_xlim(0, 0.25)
        tidy(axes)
    figure.axes[0].set_ylabel("right answers not changed, %")
    figure.axes[0].legend(frameon=False)
    saved(figure, str(RESULTS / "radii.svg"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_name_or_path", required=True)
    parser.add_argument("--dataset_name", required=True, help="a folder with train and test files")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/sites"))
    parser.add_argument("--train_samples", type=int, default=1200)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    cells = {(name, seed): measured(name, seed, args) for seed in args.seeds for name in MODELS}
    RESULTS.mkdir(parents=True, exist_ok=True)
    write_whole(RESULTS / "README.md", written(cells, args))
    draw(cells, args)


if __name__ == "__main__":
    main()
