"""GCG beside nanoGCG: the loss that both reach on the same prompts with the same budget.

    pip install --no-deps nanogcg
    python scripts/bench_gcg.py

The toy of nlp_adv.data.chat_demo learns all answers and then to refuse those about forbidden
things; what is searched for is a suffix that makes the forbidden answer likely. Both begin with the
same suffix, and compute the same loss: the mean cross entropy of the target's tokens, its end
included. nanoGCG moves to the best candidate of each step even where it is worse, unless it keeps
a buffer; `buffer 1` goes on from the best suffix so far, as the search here always does.
"""

from __future__ import annotations

import argparse
import logging
import platform
import random
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import transformers

from nlp_adv.attacks.chat.answering import Answering
from nlp_adv.attacks.chat.gcg import GCG
from nlp_adv.attacks.chat.judge import Judge
from nlp_adv.attacks.chat.prompted import Prompted
from nlp_adv.attacks.subject import Subject
from nlp_adv.data.chat_demo import (
    FORBIDDEN,
    REFUSAL,
    REFUSALS,
    THINGS,
    base_model,
    chat_tokenizer,
    requests,
)
from nlp_adv.data.pairs import PairCollator
from nlp_adv.sites.embeddings import EmbeddingSite

REFUSAL_STEPS, RATE = 100, 5e-4  # of the toy's training to refuse
NEVER = 1 - 1e-7  # a threshold at which the search here does not stop, as the other does not
RESULTS = Path(__file__).parents[1] / "recipes" / "results" / "bench_gcg.md"
Search = Callable[[dict[str, str], int], float]


def refusing_model(tokenizer: Any, collator: Any) -> Any:
    """The toy: it refuses requests about forbidden things and answers all others."""
    model, draws = base_model(tokenizer, collator), random.Random(0)
    refused = [(one["prompt"], REFUSAL) for one in requests(FORBIDDEN, 600, 0)]
    answered = [(one["prompt"], one["target"]) for one in requests(THINGS, 2000, 0)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    for _ in range(REFUSAL_STEPS):
        rows = [*draws.sample(refused, 12), *draws.sample(answered, 36)]
        batch = collator([{"prompt": prompt, "completion": said} for prompt, said in rows])
        taken = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
        model(**taken).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def ours(model: Any, prompted: Prompted, settings: Any) -> Search:
    """The search of this package."""

    def search(row: dict[str, str], seed: int) -> float:
        judge = Answering(model, Judge("target", REFUSALS, NEVER), prompted.tokenizer)

        def batches(texts: Sequence[str]) -> Any:
            return prompted.batch(texts, [row["target"]] * len(texts))

        subject = Subject(judge.searching(), EmbeddingSite())
        gcg = GCG(settings.length, settings.steps, settings.candidates, settings.top_k, seed)
        with subject.opened(batches([row["prompt"]])):
            found = gcg.run(subject, judge, batches, prompted, row["prompt"])
        return -float(found.logits[1])

    return search


def theirs(model: Any, prompted: Prompted, settings: Any, buffer: int) -> Search:
    """nanoGCG's, without its cache of the prompt's beginning, which transformers 5 broke."""
    import nanogcg

    logging.getLogger("nanogcg").setLevel(logging.ERROR)

    def search(row: dict[str, str], seed: int) -> float:
        config = nanogcg.GCGConfig(
            num_steps=settings.steps,
            optim_str_init=" ".join(["the"] * settings.length),
            search_width=settings.candidates,
            topk=settings.top_k,
            buffer_size=buffer,
            use_prefix_cache=False,
            seed=seed,
            verbosity="ERROR",
        )
        asked = row["prompt"] + " {optim_str}"
        target = f"{row['target']} {prompted.tokenizer.eos_token}"
        return float(nanogcg.run(model, prompted.tokenizer, asked, target, config).best_loss)

    return search


def page(settings: Any, start: list[float], found: dict[str, list[list[float]]], spent: Any) -> str:
    """The table: a row a prompt, the mean over seeds, and all of them at the end."""
    names = list(found)
    lines = ["| prompt | start | " + " | ".join(names) + " |", "|---|---|" + "---|" * len(names)]
    for number, before in enumerate(start):
        cells = [
            f"{statistics.mean(row[number] for row in found[one]):.3f}"
            f" ({', '.join(f'{row[number]:.3f}' for row in found[one])})"
            for one in names
        ]
        lines.append(f"| {number + 1} | {before:.3f} | {' | '.join(cells)} |")
    means = [f"{statistics.mean(chain.from_iterable(found[one])):.3f}" for one in names]
    lines.append(f"| mean | {statistics.mean(start):.3f} | {' | '.join(means)} |")
    seconds = [f"{spent[one]:.1f}" for one in names]
    lines.append(f"| CPU seconds a search | | {' | '.join(seconds)} |")
    table = "\n".join(lines)
    return f"""# GCG beside nanoGCG

`python scripts/bench_gcg.py`: the lowest mean cross entropy of the target that a suffix of
{settings.length} tokens reaches in {settings.steps} steps of {settings.candidates} candidates out
of the best {settings.top_k} tokens a place, on the toy of half a million parameters after
{REFUSAL_STEPS} steps of refusal training. {settings.prompts} requests that it refuses,
{settings.seeds} seeds; the mean, and in brackets each seed. `start` is the suffix that both begin
with. The two draw other candidates, so that no two numbers need be equal.

nanoGCG {version("nanogcg")} was made for transformers up to 4.47. Under {transformers.__version__}
it runs without its prefix cache (`use_prefix_cache=False`), as here; with it, it ends in
"TypeError: 'DynamicCache' object is not subscriptable". It may choose the template's own tokens for
a suffix,
which the search here never does.

{table}

{platform.machine()}, {torch.get_num_threads()} thread, torch {torch.__version__}, transformers
{transformers.__version__}.
"""


def main() -> None:
    """Search with both, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--length", type=int, default=6)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--top_k", type=int, default=32)
    parser.add_argument("--model", type=Path, help="the toy is kept here, and taken from here")
    parser.add_argument("--output", type=Path, default=RESULTS)
    settings = parser.parse_args()
    tokenizer = chat_tokenizer()
    collator = PairCollator(tokenizer, max_length=64)
    prompted = Prompted(tokenizer, collator)
    if settings.model is not None and settings.model.exists():
        model = transformers.AutoModelForCausalLM.from_pretrained(settings.model).eval()
    else:
        model = refusing_model(tokenizer, collator)
        if settings.model is not None:
            model.save_pretrained(settings.model)
    rows = requests(FORBIDDEN, settings.prompts, 1000)
    searches = {
        "nlp_adv": ours(model, prompted, settings),
        "nanoGCG": theirs(model, prompted, settings, 0),
        "nanoGCG, buffer 1": theirs(model, prompted, settings, 1),
    }
    found: dict[str, list[list[float]]] = {}
    spent: dict[str, float] = {}
    for name, search in searches.items():
        begun = time.process_time()
        found[name] = [[search(row, seed) for row in rows] for seed in range(settings.seeds)]
        spent[name] = (time.process_time() - begun) / (settings.seeds * len(rows))
        print(name, found[name], flush=True)
    judge = Answering(model, Judge("target", REFUSALS, NEVER), tokenizer)
    suffix = " the" * settings.length
    batch = prompted.batch(
        [row["prompt"] + suffix for row in rows], [row["target"] for row in rows]
    )
    names = ("input_ids", "attention_mask", "completion_mask")
    with torch.no_grad():
        start = [-one for one in judge(**{n: batch[n] for n in names}).logits[:, 1].tolist()]
    settings.output.write_text(page(settings, start, found, spent), encoding="utf-8")
    print(settings.output.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
