"""SFT and DPO with LoRA under `--adv freelb`, beside trl's own Trainers.

    python recipes/trl_lora.py

A Llama of two layers, built from a configuration, learns to count: "n4 n5 n6 n7". In DPO the chosen
completion counts on, the rejected one is random. Nothing is downloaded; needs `nlp_adv[trl]`. The
numbers show that everything runs and is counted once, not that a method helps.
"""

import argparse
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path

import peft
import torch
import transformers
import trl
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import HfArgumentParser, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from nlp_adv import AdversarialArguments, AdversarialMixin

NUMBERS = 50
FLAGS = """--use_cpu --bf16 false --per_device_train_batch_size 8 --learning_rate 1e-2
  --logging_steps 1 --save_strategy no --report_to none --disable_tqdm true"""
TASKS = {
    "SFT": (trl.SFTTrainer, trl.SFTConfig, ""),
    "DPO": (trl.DPOTrainer, trl.DPOConfig, "--precompute_ref_log_probs"),
}
HEADER = """# SFT and DPO with LoRA, adversarially

`{command}` on a CPU, with {versions}.
The means of the first and of the last tenth of the steps; of num_tokens the last value, which is
trl's count of tokens: a method's passes do not add to it. `loss` is what was trained on, under
freelb the mean over its three points, `delta_norm` in units of the embedding.

"""
KEYS = ("loss", "adv_loss", "delta_norm", "num_tokens")


def texts(task: str, rows: int = 128) -> Dataset:
    """Prompts that begin to count, and how they go on."""
    draw = random.Random(0)

    def count(start: int, length: int) -> str:
        return " ".join(f"n{(start + i) % NUMBERS}" for i in range(length))

    made = []
    for _ in range(rows):
        start, given, asked = draw.randrange(NUMBERS), draw.randint(2, 5), draw.randint(3, 6)
        prompt, right = count(start, given), " " + count(start + given, asked)
        wrong = " " + " ".join(f"n{draw.randrange(NUMBERS)}" for _ in range(asked))
        pair = {"chosen": right, "rejected": wrong} if task == "DPO" else {"completion": right}
        made.append({"prompt": prompt} | pair)
    return Dataset.from_list(made)


def tokenizer() -> PreTrainedTokenizerFast:
    """One id a number."""
    names = ["<pad>", "<unk>", "<eos>"]
    vocabulary = {w: i for i, w in enumerate(names + [f"n{i}" for i in range(NUMBERS)])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = dict(zip(("pad_token", "unk_token", "eos_token"), names, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=words, **special)


def train(task: str, adv: str, seed: int, steps: int) -> list[dict[str, float]]:
    """The log of a run; "" trains with trl's own Trainer."""
    base, config, more = TASKS[task]
    arguments = dataclass(type("Arguments", (AdversarialArguments, config), {}))
    adversarial = type("Adversarial", (AdversarialMixin, base), {})
    transformers.set_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": 0}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=NUMBERS + 3, eos_token_id=2, **sizes, **heads))
    with tempfile.TemporaryDirectory() as folder:
        flags = f"--output_dir {folder} --seed {seed} --max_steps {steps} {FLAGS} {more} {adv}"
        parser = HfArgumentParser(arguments if adv else config)
        trainer = (adversarial if adv else base)(
            model=model,
            args=parser.parse_args_into_dataclasses(flags.split())[0],
            train_dataset=texts(task),
            processing_class=tokenizer(),
            peft_config=peft.LoraConfig(task_type="CAUSAL_LM", r=8, target_modules="all-linear"),
        )
        trainer.train()
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def row(task: str, adv: str, seed: int, steps: int) -> str:
    log, tenth = train(task, adv, seed, steps), max(steps // 10, 1)
    means = {
        key: [sum(e[key] for e in part) / tenth if key in part[0] else None for part in ends]
        for key in KEYS
        for ends in [(log[:tenth], log[-tenth:])]
    }
    cells = [
        "–" if first is None else f"{first:.3f} → {last:.3f}" for first, last in means.values()
    ]
    cells[-1] = str(int(log[-1]["num_tokens"]))
    return f"| {task} | {seed} | {adv or 'trl alone'} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--adv", default="freelb", help="of nlp_adv")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--output", type=Path, default=Path("recipes/results/trl_lora.md"))
    args = parser.parse_args()
    lines = [f"| task | seed | run | {' | '.join(KEYS)} |", "|---" * 7 + "|"]
    for task in TASKS:
        for seed in args.seeds:
            lines += [row(task, adv, seed, args.steps) for adv in ("", f"--adv {args.adv}")]
    print("\n".join(lines))
    seeds = " ".join(map(str, args.seeds))
    command = f"python recipes/trl_lora.py --adv {args.adv} --steps {args.steps} --seeds {seeds}"
    versions = ", ".join(f"{m.__name__} {m.__version__}" for m in (torch, transformers, trl, peft))
    text = HEADER.format(command=command, versions=versions) + "\n".join(lines) + "\n"
    args.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
