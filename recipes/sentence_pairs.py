"""A sentence encoder fine-tuned with and without adversarial training, and attacked.

    python recipes/sentence_pairs.py --model_name_or_path MODEL --data RTE_FOLDER

Task: find the sentence that entails a hypothesis among 150 (RTE's premises). The score is the share
of hypotheses whose own premise comes first: it is what a search is for, chance is below 1 %, and an
attack on it is an attack on a classifier, whose logits are the cosines with all documents and whose
right class is the premise. (Whether a pair is entailed a cosine hardly tells: average precision
0.64, and 0.53 by chance.) The attack moves the hypothesis' word embeddings; the documents' vectors
stay.

all-MiniLM-L6-v2 itself has nothing to learn from such pairs (it finds 92 % of 80 among 300, and its
ranking loss is 0.003), so that its last two layers begin anew. Cells (method, seed) are kept in the
output folder, so that a stopped recipe goes on where it was; the page is written after each.
"""

import argparse
import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentence_transformers as st
import torch
from datasets import Dataset
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers.modeling_outputs import SequenceClassifierOutput

from nlp_adv import AdversarialArguments, AdversarialMixin
from nlp_adv.data.files import read_file
from nlp_adv.drawing import line_style, mark, new_figure, saved, tidy
from nlp_adv.folders import write_whole
from nlp_adv.robustness import embedding_pgd, embedding_robustness
from nlp_adv.robustness.seeds import difference_over_seeds, mean_over_seeds

RESULTS = Path(__file__).parent / "results" / "sentence_pairs"
EPSILONS = (0.02, 0.05, 0.1)
BEFORE, PLAIN = "at the start", "none"
WORDS = 24  # of the longest premise: the others cost more and say the same


@dataclass
class Flags(AdversarialArguments, st.SentenceTransformerTrainingArguments):
    """Their flags and ours."""


class AdversarialTrainer(AdversarialMixin, st.SentenceTransformerTrainer):
    """Their Trainer under ours."""


class Retrieval(nn.Module):
    """A classifier of queries: one class a document, the logits 20·cosine."""

    def __init__(self, encoder: st.SentenceTransformer, documents: Tensor) -> None:
        super().__init__()
        self.encoder, self.documents = encoder, normalize(documents, dim=-1)

    def forward(self, **query: Tensor) -> SequenceClassifierOutput:
        """(B, documents)."""
        vectors = normalize(self.encoder(query)["sentence_embedding"], dim=-1)
        return SequenceClassifierOutput(logits=20 * vectors @ self.documents.T)


def split(args: argparse.Namespace) -> tuple[list[dict[str, Any]], list[str], list[str], list[int]]:
    """Pairs to train on; documents, queries, and each query's document, from other rows."""
    train, rest = (
        [
            row
            for row in read_file(next(args.data.glob(name)))
            if len(row["sentence1"].split()) <= WORDS
        ]
        for name in ("train.*", "validation.*")
    )
    entailed = [row for row in train if row["label"] == 0]
    pairs = entailed[: args.pairs]
    seen = {row["sentence1"] for row in pairs}
    rest = [row for row in [*rest, *train] if row["sentence1"] not in seen]
    asked = [row for row in rest if row["label"] == 0][: args.queries]
    documents = list(dict.fromkeys(row["sentence1"] for row in [*asked, *rest]))[: args.documents]
    right = [documents.index(row["sentence1"]) for row in asked]
    return pairs, documents, [row["sentence2"] for row in asked], right


def fine_tuned(method: str, seed: int, args: argparse.Namespace) -> st.SentenceTransformer:
    """The encoder, under a ranking loss on hypotheses and their premises."""
    model = st.SentenceTransformer(args.model_name_or_path, device="cpu")
    torch.manual_seed(seed)
    layers = model[0].model.encoder.layer
    for module in layers[len(layers) - args.fresh_layers :].modules():
        if isinstance(module, nn.Linear | nn.LayerNorm):
            module.reset_parameters()
    if method == BEFORE:
        return model
    rows = [{"anchor": p["sentence2"], "positive": p["sentence1"]} for p in split(args)[0]]
    flags = Flags(
        output_dir=str(args.output_dir / "trainer"),
        adv=method,
        seed=seed,
        use_cpu=True,
        per_device_train_batch_size=8,
        num_train_epochs=args.epochs,
        learning_rate=1e-4,
        warmup_steps=0.1,
        batch_sampler="no_duplicates",
        save_strategy="no",
        report_to="none",
    )
    loss = MultipleNegativesRankingLoss(model)
    trainer = AdversarialTrainer(
        model=model, args=flags, train_dataset=Dataset.from_list(rows), loss=loss
    )
    trainer.train()
    return model.eval()


def measured(method: str, seed: int, args: argparse.Namespace) -> dict[str, list[bool]]:
    """Which queries are answered right, without attack and at each ε; kept as it is finished."""
    sizes = f"{args.pairs}x{args.epochs}-{args.fresh_layers}-{args.queries}of{args.documents}"
    path = args.output_dir / f"{method.replace(' ', '_')}-{sizes}-seed{seed}.json"
    if not path.exists():
        encoder = fine_tuned(method, seed, args)
        _, documents, queries, right = split(args)
        with torch.no_grad():
            model = Retrieval(encoder, encoder.encode(documents, convert_to_tensor=True)).eval()
        batches = [
            {**encoder.tokenizer(queries[at : at + 40], padding=True, return_tensors="pt"),
             "labels": torch.tensor(right[at : at + 40])}
            for at in range(0, len(queries), 40)
        ]  # fmt: skip
        attack = embedding_pgd(EPSILONS, steps=10)
        found = embedding_robustness(model, batches, attack, progress=f"{method}, seed {seed}")
        cell = {"0": found.right.tolist()}
        cell |= {f"{radius:g}": found.robust(radius).tolist() for radius in EPSILONS}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(cell) + "\n")
    known: dict[str, list[bool]] = json.loads(path.read_text())
    return known


Cells = dict[str, list[dict[str, list[bool]]]]


def summary(cells: Cells) -> dict[str, dict[str, dict[str, Any]]]:
    """By method and ε: the mean, its interval, and the difference from plain fine-tuning."""

    def answers(method: str, radius: str) -> list[dict[int, bool]]:
        return [dict(enumerate(cell[radius])) for cell in cells[method]]

    made: dict[str, dict[str, dict[str, Any]]] = {method: {} for method in cells}
    for method, radius in ((m, r) for m in cells for r in cells[m][0]):
        mine = answers(method, radius)
        seeds = [statistics.fmean(one.values()) for one in mine]
        one = made[method][radius] = {"mean": statistics.fmean(seeds), "seeds": seeds}
        one["interval"] = mean_over_seeds(mine)
        if method not in (BEFORE, PLAIN) and PLAIN in cells:
            gap = difference_over_seeds(mine, answers(PLAIN, radius))
            one["from_plain"] = [gap.difference, gap.low, gap.high]
    return made


def written(found: dict[str, Any], args: argparse.Namespace) -> str:
    """The page."""
    lines = [
        "# A sentence encoder, fine-tuned and attacked",
        "",
        f"all-MiniLM-L6-v2, its last {args.fresh_layers} layers begun anew (by the seed), "
        f"fine-tuned on {args.pairs} entailed pairs of RTE (MultipleNegativesRankingLoss, "
        f"{args.epochs} epoch, 8 a batch, learning rate 1e-4), asked for the premise of "
        f"{args.queries} other hypotheses among {args.documents} premises. Share, in %, whose own "
        "premise comes first: clean, and under PGD of 10 steps on the hypothesis' word "
        "embeddings, ε a share of their L2 norm. Mean over seeds and its 95 % interval over seeds "
        "and texts (with one seed over texts alone); in the second table the difference from "
        f"plain fine-tuning (`{PLAIN}`). `{BEFORE}` is the model before it was fine-tuned. Every "
        f"method has its preset. torch {torch.__version__}, one thread.",
        "",
        "| method | seeds | clean |" + "".join(f" ε = {e:g} |" for e in EPSILONS),
        "|---|---:|" + "---|" * (1 + len(EPSILONS)),
    ]
    for method, by_radius in found.items():
        shown = [
            f"{100 * one['mean']:.1f} [{', '.join(f'{100 * end:.1f}' for end in one['interval'])}]"
            for one in by_radius.values()
        ]
        lines.append(f"| {method} | {len(by_radius['0']['seeds'])} | {' | '.join(shown)} |")
    lines += ["", "| difference | clean |" + "".join(f" ε = {e:g} |" for e in EPSILONS)]
    lines.append("|---|" + "---|" * (1 + len(EPSILONS)))
    for method, by_radius in found.items():
        gaps = [
            [100 * v for v in one["from_plain"]]
            for one in by_radius.values()
            if "from_plain" in one
        ]
        if gaps:
            shown = [f"{gap:+.1f} [{low:+.1f}, {high:+.1f}]" for gap, low, high in gaps]
            lines.append(f"| {method} | {' | '.join(shown)} |")
    command = "    python recipes/sentence_pairs.py --model_name_or_path MODEL --data RTE_FOLDER"
    return "\n".join([*lines, "", "![Share found over ε](found.svg)", "", command, ""])


def draw(found: dict[str, Any]) -> None:
    """The share over ε, each seed as a mark."""
    figure = new_figure(6.0, 4.0)
    axes = figure.subplots()
    for number, (method, by_radius) in enumerate(found.items()):
        x = [float(radius) for radius in by_radius]
        axes.plot(
            x, [100 * one["mean"] for one in by_radius.values()], label=method, **line_style(number)
        )
        for at, one in zip(x, by_radius.values(), strict=True):
            style = {"color": line_style(number)["color"], "marker": mark(number), "alpha": 0.5}
            axes.plot([at] * len(one["seeds"]), [100 * s for s in one["seeds"]], ls="", **style)
    axes.set_xlabel("ε on the query's embeddings, share of their norm")
    axes.set_ylabel("right premise first, %")
    axes.legend(frameon=False)
    tidy(axes)
    saved(figure, str(RESULTS / "found.svg"))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model_name_or_path", required=True)
    parser.add_argument("--data", type=Path, required=True, help="RTE: train and validation files")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/sentence_pairs"))
    parser.add_argument("--methods", nargs="+", default=[PLAIN, "fgm"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--pairs", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--fresh_layers", type=int, default=2)
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--documents", type=int, default=150)
    args = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    cells: Cells = {}
    planned = [(method, seed) for seed in args.seeds for method in args.methods]
    for method, seed in [*planned, (BEFORE, args.seeds[0])]:
        cells.setdefault(method, []).append(measured(method, seed, args))
        found = summary(cells)
        write_whole(RESULTS / "sentence_pairs.json", json.dumps(found, indent=1) + "\n")
        write_whole(RESULTS / "README.md", written(found, args))
        draw(found)


if __name__ == "__main__":
    main()
