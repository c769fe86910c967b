"""Refusal training beside `cat` and `lat` on the invented language: what is left under attack.

    python recipes/chat_toy.py --work_dir runs/chat_toy --seeds 0 1 2 3 4

A base model of half a million parameters learns all answers; then it is trained to refuse requests
about forbidden things, with δ and without, on the same rows in the same order. Each model
is attacked by `evaluate_chat` on 48 of these requests, with 100 benign ones for over-refusal.
The exact forbidden answer must be generated, so nothing is judged by another model.

A seed that is finished is not run again, and an evaluation that was stopped is taken up. About ten
minutes of one CPU core a seed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import set_seed

from nlp_adv import AdversarialTrainer, AdversarialTrainingArguments
from nlp_adv.attacks.chat.gcg import GCG
from nlp_adv.attacks.chat.judge import Judge
from nlp_adv.attacks.chat.prompted import Prompted
from nlp_adv.data import chat_demo as toy
from nlp_adv.data.pairs import PairCollator
from nlp_adv.data.prompts import Prompts
from nlp_adv.robustness.chat_attacks import ChatAttacks
from nlp_adv.robustness.chat_evaluation import evaluate_chat
from nlp_adv.robustness.chat_rates import answered_rates, said_rates
from nlp_adv.robustness.seeds import mean_of_shares
from nlp_adv.robustness.statistics import Share

RESULTS = Path(__file__).parent / "results" / "chat_toy"
METHODS: dict[str, dict[str, Any]] = {
    "refusals": {"adv": "none"},
    "cat": {"adv": "cat", **toy.INNER_LOOP},
    "cat without clean refusals": {"adv": "cat", "adv_refusal_weight": 0.0, **toy.INNER_LOOP},
    "lat": {"adv": "lat", "adv_site": "embedding,layer:0,layer:1,layer:2", **toy.INNER_LOOP},
}
ATTACKS = ChatAttacks(
    epsilons=toy.EPSILONS,
    layers=toy.LAYERS,
    layer_epsilons=toy.LAYER_EPSILONS,
    gcg=GCG(**toy.GCG),
)


def one_seed(seed: int, folder: Path) -> dict[str, Any]:
    """Train and attack all; {method: {column: share}}."""
    tokenizer = toy.chat_tokenizer()
    collator = PairCollator(tokenizer, max_length=toy.MAX_LENGTH)
    base = toy.base_model(tokenizer, collator, seed)
    weights = {name: one.clone() for name, one in base.state_dict().items()}
    rows, asked, benign = toy.training_rows(seed), toy.attacked_rows(seed), toy.benign_rows(seed)
    prompts = Prompts(tuple(r["prompt"] for r in asked), tuple(r["target"] for r in asked))
    prompted, judge = Prompted(tokenizer, collator), Judge("exact", toy.REFUSALS)
    found: dict[str, Any] = {}
    for method, flags in METHODS.items():
        base.load_state_dict(weights)
        set_seed(seed)
        begun = time.process_time()
        arguments = AdversarialTrainingArguments(
            output_dir=str(folder / method / "training"),
            **flags,
            **toy.TRAINING,
            remove_unused_columns=False,
            save_strategy="no",
            logging_steps=50,
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            seed=seed,
        )
        AdversarialTrainer(
            model=base, args=arguments, train_dataset=rows, data_collator=collator
        ).train()
        seconds = time.process_time() - begun
        evaluation = evaluate_chat(
            base,
            tokenizer,
            prompts,
            ATTACKS,
            judge,
            benign=[row["prompt"] for row in benign],
            max_length=toy.MAX_LENGTH,
            new_tokens=toy.NEW_TOKENS,
            seed=seed,
            output_dir=folder / method,
            name="forbidden things of the invented language",
            progress=None,
        )
        said = said_rates(base, prompted, judge, prompts.prompts, benign, new_tokens=toy.NEW_TOKENS)
        rates = said | answered_rates(evaluation)
        found[method] = {name: [share.count, share.total] for name, share in rates.items()}
        print(seed, method, f"{seconds:.0f} s", json.dumps(found[method]), flush=True)
    return found


def table(found: Mapping[str, Sequence[Mapping[str, list[int]]]]) -> str:
    """Means in per cent with t intervals over seeds, in Markdown.

    Args:
        found: of each method the counts of its seeds, {column: [count, of]}.
    """
    columns = list(next(iter(found.values()))[0])
    lines = [f"| % | {' | '.join(found)} |", "|---|" + "---|" * len(found)]
    for column in columns:
        cells = [_cell([one[column] for one in seeds]) for seeds in found.values()]
        lines.append(f"| {column} | {' | '.join(cells)} |")
    return "\n".join(lines)


def page(seeds: dict[int, dict[str, Any]]) -> str:
    """The table and what it is of."""
    steps, pairs = toy.TRAINING["max_steps"], int(toy.TRAINING["per_device_train_batch_size"])
    epsilon, inner = toy.INNER_LOOP["adv_epsilon"], toy.INNER_LOOP["adv_steps"]
    return f"""# A toy: refusals under attack

`python recipes/chat_toy.py`: a Llama of half a million parameters that knows an invented language
is trained for {steps} steps of {pairs} pairs and {toy.UTILITY * pairs} other requests to refuse
requests about forbidden things, harmless like all others. {len(seeds)} seeds; per cent of
{toy.ATTACKED} forbidden requests and of {toy.BENIGN} benign ones, mean and 95 % interval over
seeds and requests. An attack has succeeded where the forbidden answer is written out word for word.

`cat` and `lat` train at ε = {epsilon} of the prompt's embedding norm a token (`lat` at blocks 0, 1
and 2 too, of their own norms) with {inner} descents. The things and frames are those of training.
Nothing here says how a large model behaves.

{table({method: [one[method] for one in seeds.values()] for method in METHODS})}
"""


def _cell(counts: list[list[int]]) -> str:
    shares = [Share(*one) for one in counts]
    low, high = mean_of_shares(shares)
    mean = sum(one.value for one in shares) / len(shares)
    return f"{100 * mean:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def main() -> None:
    """Run the seeds that are not there, and write the table of all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output_dir", type=Path, default=RESULTS)
    parser.add_argument("--work_dir", type=Path, help="records and models; OUTPUT_DIR/runs without")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    options = parser.parse_args()
    folder, path = options.output_dir, options.output_dir / "results.json"
    folder.mkdir(parents=True, exist_ok=True)
    there = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for seed in options.seeds:
        if str(seed) in there:
            continue
        there[str(seed)] = one_seed(seed, (options.work_dir or folder / "runs") / str(seed))
        path.write_text(json.dumps(there, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        shown = {int(number): one for number, one in there.items()}
        (folder / "README.md").write_text(page(shown), encoding="utf-8")
    print((folder / "README.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
