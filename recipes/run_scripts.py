"""transformers' example scripts under `nlp-adv run`, and the same scripts changed by hand.

    python recipes/run_scripts.py /path/to/transformers [--only run_glue run_ner] [--processes 2]

Each script of `examples/pytorch` runs as it is under `nlp-adv run --adv freelb`, on a tiny model
and a few dozen rows made here; a copy of it, in which the three lines of the README are changed,
runs by itself with the same flags. Both must end in the same weights. No network is needed: metrics
are looked up in the current folder first, where this writes one that computes nothing. Some scripts
need packages of their own (nltk, torchvision); what is missing stands in the table.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file

from nlp_adv.data.text_demo import demo_dataset, demo_tokenizer

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
METHOD = ("--adv", "freelb", "--adv_steps", "2")
FLAGS = {
    "do_train": True,
    "max_steps": 3,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "logging_steps": 1,
    "learning_rate": 1e-3,
    "save_strategy": "no",
    "report_to": "none",
    "use_cpu": True,
    "disable_tqdm": True,
}
# script: its folder, the model, the data, and flags of its own
SCRIPTS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "run_glue": ("text-classification", "bert", "labelled.json", {"max_seq_length": 32}),
    "run_classification": (
        "text-classification",
        "bert",
        "labelled.json",
        {"max_seq_length": 32, "text_column_names": "sentence", "shuffle_train_dataset": True},
    ),
    "run_ner": ("token-classification", "bert", "tagged.json", {}),
    "run_qa": (
        "question-answering",
        "bert",
        "questions.json",
        {"max_seq_length": 48, "doc_stride": 16},
    ),
    "run_swag": ("multiple-choice", "bert", "choices.json", {"max_seq_length": 32}),
    "run_clm": ("language-modeling", "gpt2", "plain.txt", {"block_size": 16}),
    "run_mlm": ("language-modeling", "bert", "plain.txt", {"max_seq_length": 16}),
    "run_summarization": (
        "summarization",
        "t5",
        "summaries.json",
        {"max_source_length": 32, "max_target_length": 16, "text_column": "text"},
    ),
    "run_image_classification": (
        "image-classification",
        "vit",
        "images",
        {"remove_unused_columns": False, "ignore_mismatched_sizes": True},
    ),
}
METRIC = '''"""Computes nothing: these runs do not evaluate."""
import datasets
import evaluate


class Nothing(evaluate.Metric):
    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("int32"),
                                      "references": datasets.Value("int32")})
        return evaluate.MetricInfo(description="", citation="", features=features)

    def _compute(self, **given):
        return {}
'''


def write_inputs(folder: Path) -> None:
    """Models, data and metrics."""
    rows = [dict(row) for row in demo_dataset()["train"].select(range(48))]
    texts = [row["text"] for row in rows]
    tokenizer = demo_tokenizer(texts)
    ids = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    gpt2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
    t5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    t5 |= {"decoder_start_token_id": 0, "eos_token_id": tokenizer.sep_token_id}
    models = {
        "bert": transformers.BertModel(transformers.BertConfig(**ids, **SIZES)),
        "gpt2": transformers.GPT2LMHeadModel(transformers.GPT2Config(**ids, **gpt2)),
        "t5": transformers.T5ForConditionalGeneration(transformers.T5Config(**ids, **t5)),
        "vit": transformers.ViTModel(
            transformers.ViTConfig(image_size=16, patch_size=8, num_channels=3, **SIZES)
        ),
    }
    for name, model in models.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    size = {"height": 16, "width": 16}
    transformers.ViTImageProcessor(size=size).save_pretrained(folder / "vit")
    _write_rows(
        folder / "labelled.json", [{"sentence": r["text"], "label": r["label"]} for r in rows]
    )
    tagged = [
        {"tokens": text.split(), "ner_tags": ["O", "B"] * (len(text.split()) // 2)}
        for text in texts
        if len(text.split()) % 2 == 0
    ]
    _write_rows(folder / "tagged.json", tagged)
    endings = {f"ending{place}": texts[place] for place in range(4)}
    choices = [
        {"sent1": t, "sent2": "it is", "label": i % 4} | endings for i, t in enumerate(texts)
    ]
    _write_rows(folder / "choices.json", choices)
    summaries = [{"text": text, "summary": " ".join(text.split()[:3])} for text in texts]
    _write_rows(folder / "summaries.json", summaries)
    questions = [
        {
            "id": str(place),
            "title": "",
            "context": text,
            "question": "what is it ?",
            "answers": {
                "text": [text.split()[-1]],
                "answer_start": [text.rindex(text.split()[-1])],
            },
        }
        for place, text in enumerate(texts)
    ]
    (folder / "questions.json").write_text(json.dumps({"data": questions}), encoding="utf-8")
    (folder / "plain.txt").write_text("\n".join(texts), encoding="utf-8")
    _write_images(folder / "images")
    for name in ("accuracy", "seqeval", "squad", "rouge", "glue"):
        (folder / name).mkdir()
        (folder / name / f"{name}.py").write_text(METRIC, encoding="utf-8")
    (folder / "nltk_data/tokenizers/punkt").mkdir(parents=True)  # nobody cuts sentences here


def _write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _write_images(folder: Path) -> None:
    from PIL import Image

    random = np.random.default_rng(0)
    for place in range(24):
        path = folder / "train" / ("dark", "light")[place % 2] / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 128, (16, 16, 3)) + 127 * (place % 2)
        Image.fromarray(pixels.astype("uint8")).save(path)


def by_hand(script: Path) -> str:
    """The script's text with the lines changed that the README changes."""
    text = script.read_text(encoding="utf-8")
    trainers = re.findall(r"^ *trainer = (\w*Trainer)\(", text, flags=re.MULTILINE)
    arguments = re.findall(r"HfArgumentParser\(\(.*, (\w*TrainingArguments)\)\)", text)
    if len(trainers) != 1 or len(arguments) != 1:
        raise SystemExit(f"{script.name} is not written as expected: {trainers}, {arguments}.")
    classes = (
        "from nlp_adv import AdversarialArguments, AdversarialMixin\n"
        f"class Adversarial(AdversarialMixin, {trainers[0]}): pass\n"
        f"class Arguments(AdversarialArguments, {arguments[0]}): pass\n"
    )
    text = text.replace(f"trainer = {trainers[0]}(", "trainer = Adversarial(")
    text = text.replace(f", {arguments[0]}))", ", Arguments))")
    return text.replace("\ndef main():", f"\n{classes}def main():", 1)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Those that a script has saved."""
    return load_file(folder / "model.safetensors")


def started(command: Sequence[str], environment: dict[str, str]) -> tuple[str, str, float]:
    """What went wrong, what nlp-adv said, and the seconds."""
    began = time.perf_counter()
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    lines = done.stderr.splitlines()
    said = " ".join(line for line in lines if line.startswith("nlp-adv run"))
    wrong = "" if done.returncode == 0 else (lines[-1] if lines else f"exit {done.returncode}")
    if wrong and os.environ.get("SHOW"):
        print(done.stderr[-4000:], file=sys.stderr)
    return wrong, said, time.perf_counter() - began


def compared(examples: Path, name: str, processes: int) -> dict[str, Any]:
    """One script, both ways, in the current folder."""
    place, model, data, own = SCRIPTS[name]
    script = examples / place / f"{name}.py"
    if data == "images":
        about_data: dict[str, Any] = {"train_dir": "images/train", "label_column_name": "label"}
    elif name in ("run_glue", "run_classification"):
        about_data = {"train_file": data, "validation_file": data}
    else:
        about_data = {"train_file": data}
    flags = {"model_name_or_path": model} | about_data | FLAGS | own
    words = [word for flag, value in flags.items() for word in (f"--{flag}", str(value))]
    copy = Path(f"{name}_by_hand.py")
    copy.write_text(by_hand(script), encoding="utf-8")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launcher = [*launcher, "--nproc_per_node", str(processes)] if processes > 1 else []
    python = launcher or [sys.executable]
    run = [
        *python,
        "-m",
        "nlp_adv.run",
        *METHOD,
        str(script),
        *words,
        "--output_dir",
        f"{name}-run",
    ]
    hand = [*python, str(copy), *words, *METHOD, "--output_dir", f"{name}-hand"]
    # Both find what stands beside the script, such as trainer_qa.py.
    path = os.pathsep.join(filter(None, [str(script.parent), os.environ.get("PYTHONPATH")]))
    here = {"NLTK_DATA": str(Path("nltk_data").resolve()), "HF_HUB_OFFLINE": "1"}
    wrong, said, seconds = started(run, here)
    row = {"script": name, "processes": processes, "seconds": seconds, "said": said, "wrong": wrong}
    if not wrong:
        row["wrong"], _, _ = started(hand, here | {"PYTHONPATH": path})
    if not row["wrong"]:
        got, want = weights(Path(f"{name}-run")), weights(Path(f"{name}-hand"))
        row["off"] = max(float((got[key] - want[key]).abs().max()) for key in want)
        row["numbers"] = sum(value.numel() for value in want.values())
    return row


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| script | processes | trained as | largest difference of a weight |",
        "| --- | --- | --- | --- |",
    ]
    for row in rows:
        trainer = row["said"].removeprefix("nlp-adv run: ").split(" trains ")[0]
        off = row["wrong"] or f"{row['off']:g} of {row['numbers']} weights"
        lines.append(f"| {row['script']}.py | {row['processes']} | {trainer} | {off} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("transformers", type=Path, help="a checkout of transformers")
    parser.add_argument("--only", nargs="+", choices=SCRIPTS, default=[*SCRIPTS])
    parser.add_argument("--processes", type=int, default=1)
    given = parser.parse_args()
    examples = (given.transformers / "examples" / "pytorch").resolve()
    rows = []
    with TemporaryDirectory() as folder:
        os.chdir(folder)
        torch.manual_seed(0)
        write_inputs(Path())
        os.environ["HF_DATASETS_CACHE"] = str(Path("cache").resolve())
        for name in given.only:
            rows.append(compared(examples, name, given.processes))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
        os.chdir("/")
    print(table(rows))


if __name__ == "__main__":
    main()
