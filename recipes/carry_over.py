"""Does what adversarial training gains on embeddings carry over to words, and at which radius?

    python recipes/carry_over.py --model_name_or_path MODEL --dataset_name AG_FOLDER \
        --neighbours counterfitted_neighbors.json.gz --wordnet WORDNET_FOLDER

PGD training with K = 1, 3 and 10 ascents at radii from 0.01 to 0.3 (a share of the norm of a text's
embeddings; one constraint an example, or a token), and without a ball, beside plain training and
its states on the way. Everything is attacked on *validation* texts, since this is how a setting is
chosen. It ends in the report of `nlp-adv compare`, whose flags it takes as well (`--methods`,
`--seeds`, `--archive`, `--report_only`, `--dry_run` …), and in `carry_over.svg`.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import yaml

from nlp_adv.cli.main import main as nlp_adv
from nlp_adv.drawing import COLOURS, new_figure, saved
from nlp_adv.folders import write_whole

RADII = (0.01, 0.02, 0.04, 0.08, 0.16, 0.3)
STEPS = {1: 1.0, 3: 0.5, 10: 0.25}  # K → α/ε: long enough together to cross the ball
ATTACKED = 0.04  # the radius of the attack on embeddings
TRAINING = {
    "max_train_samples": 2000,
    "max_seq_length": 64,
    "num_train_epochs": 2,
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 64,
    "learning_rate": 1e-4,
    "warmup_steps": 0.1,
    "train_sampling_strategy": "group_by_length",
    "save_strategy": "no",
    "bf16": True,
}
ATTACK = {
    "split": "validation",
    "attacks": ["textfooler", "pwws"],
    "max_examples": 200,
    "epsilons": [ATTACKED],
    "embedding_steps": 20,
    "embedding_examples": 100,
    "checks": False,
    "inference_precision": "bf16",
    "seed": 0,
}


def pgd(steps: int, length: float, **more: Any) -> dict[str, Any]:
    """Flags of PGD training whose steps have a length of their own; all are warmed up alike."""
    start = {"adv_unit": "relative", "adv_start_step": 0.1, "adv_ramp_steps": 0.3}
    return {"adv": "pgd", "adv_steps": steps, "adv_step_size": length, **start, **more}


def lines() -> dict[str, dict[float, str]]:
    """What is drawn: a line's name → radius of the training → the method that is its point."""
    found = {f"pgd-{k}": {e: f"pgd-{k}, ε {e:g}" for e in RADII} for k in STEPS}
    found["pgd-3, per token"] = {e: f"pgd-3, ε {e:g}, per token" for e in RADII}
    # Three steps of ε/2 without a ball: as long as those that the ball of ε holds back.
    found["pgd-3, no ball"] = {e: f"pgd-3, α {e / 2:g}, no ball" for e in RADII}
    return found


def methods() -> dict[str, dict[str, Any]]:
    """Plain training, its states on the way, and every point of every line."""
    found: dict[str, dict[str, Any]] = {"plain": {"adv": "none"}}
    found |= {f"plain at {at}": {"of": "plain", "at": at} for at in (0.2, 0.4)}
    every = lines()
    for steps, share in STEPS.items():
        for epsilon, name in every[f"pgd-{steps}"].items():
            found[name] = pgd(steps, share * epsilon, adv_epsilon=epsilon)
    for epsilon, name in every["pgd-3, per token"].items():
        found[name] = pgd(3, epsilon / 2, adv_epsilon=epsilon, adv_per="token")
    for epsilon, name in every["pgd-3, no ball"].items():
        found[name] = pgd(3, epsilon / 2, adv_epsilon="inf")
        del found[name]["adv_ramp_steps"]  # it is ε that would grow
    return found


def draw(report: dict[str, Any], path: Path) -> None:
    """Accuracy under each attack over the radius of training; dashed the plain model's."""
    scores = {one["name"]: one["accuracy"] for one in report["methods"]}
    attacks = [name for name in report["attacks"] if name != "worst case"]
    measures = ["clean", *attacks]
    figure = new_figure(3.4 * len(measures), 3.8)
    for axes, measure in zip(figure.subplots(1, len(measures)), measures, strict=True):
        for colour, (line, points) in zip(COLOURS, lines().items(), strict=False):
            known = {e: name for e, name in points.items() if name in scores}
            if known:
                heights = [100 * scores[name][measure]["mean"] for name in known.values()]
                axes.plot(list(known), heights, "o-", color=colour, label=line)
        if "plain" in scores:
            height = 100 * scores["plain"][measure]["mean"]
            axes.axhline(height, color="black", linestyle="--", label="plain")
        axes.set(xscale="log", title=measure, xlabel="ε of training", ylim=(0, 100))
        axes.set_xticks(RADII, [f"{e:g}" for e in RADII])
        axes.minorticks_off()
    figure.axes[0].set_ylabel("accuracy, %")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    saved(figure, str(path))


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/carry_over"))
    args, rest = parser.parse_known_args(argv)
    recipe = {
        "title": "From embeddings to words, on validation texts",
        "train": TRAINING,
        "attack": ATTACK,
        "methods": methods(),
        "seeds": [0, 1, 2],
    }
    args.output_dir.mkdir(parents=True, exist_ok=True)
    path = args.output_dir / "recipe.yaml"
    write_whole(path, yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))
    code = nlp_adv(["compare", str(path), "--output_dir", str(args.output_dir), *rest])
    if code == 0 and "--dry_run" not in rest:
        report = json.loads((args.output_dir / "report.json").read_text(encoding="utf-8"))
        draw(report, args.output_dir / "carry_over.svg")
        print(f"The figure is {args.output_dir / 'carry_over.svg'}.")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
