"""Every recipe of `nlp-adv compare`, by its own command with a tiny model under the same name.

What the Hub would give lies in folders of the same names, and flags alone make the runs small.
"""

import json
import sys
from pathlib import Path

import datasets
import pytest
import torch
import transformers
import yaml
from roughly import savefig_roughly
from transformers import BertConfig, BertForMaskedLM, RobertaConfig, RobertaModel

from nlp_adv.cli.main import main
from nlp_adv.data.text_demo import demo_tokenizer

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))
import carry_over

RECIPES = Path(carry_over.__file__).parent
GOOD, BAD = ("superb", "bright", "warm", "clever"), ("dull", "grey", "cold", "stale")
NOUNS = ("plot", "cast", "score", "end", "joke", "tune", "scene", "line")
TEXTS = [
    {"text": f"the {noun} is {word} and the {other} too", "label": label}
    for noun, other in zip(NOUNS, reversed(NOUNS), strict=True)
    for label, words in enumerate((BAD, GOOD))
    for word in words
]
PAIRS = [
    {"sentence1": row["text"], "sentence2": "this is good", "label": 1 - row["label"]}
    for row in TEXTS
]
# To the size of a test; the methods, attacks and controls are the recipe's.
SMALL = {
    "max_steps": 10,
    "max_train_samples": 24,
    "max_eval_samples": 8,
    "per_device_train_batch_size": 4,
    "warmup_steps": 1,
    "max_examples": 4,
    "embedding_steps": 2,
    "embedding_examples": 2,
    "checks": "false",
    "use_cpu": "true",
    "bf16": "false",
    "disable_tqdm": "true",
    "report_to": "none",
    "output_dir": "out",
}
TABLE = ["--neighbours", "words.json"]
# As the head of each recipe says.
COMMANDS = {
    "main": [
        "--model_name_or_path",
        "encoder",
        "--dataset_name",
        "texts",
        *TABLE,
        "--wordnet",
        "words.json",
        "--archive",
        "finished",
    ],
    "main_small": ["--model_name_or_path", "encoder", "--dataset_name", "texts", *TABLE],
    "mr_bert_base": ["--dataset_name", "texts", "--wordnet", "words.json", *TABLE],
    "ag_news_freelbpp": [
        "--dataset_name",
        "texts",
        "--encoder",
        "encoder",
        *TABLE,
        "--masked_lm",
        "bert-base-uncased",
    ],
    "glue_freelb_rte": [],
    "glue_freelb_sst2": [],
    "advglue": [
        "--model_name_or_path",
        "encoder",
        "--dataset_name",
        "texts",
        "--attack.test_file",
        "texts/test.jsonl",
    ],
    "imdb_counterfactual": [
        "--model_name_or_path",
        "encoder",
        "--dataset_name",
        "texts",
        "--attack.test_file",
        "texts/test.jsonl",
    ],
}


def flags(settings: dict) -> list[str]:
    return [word for key, value in settings.items() for word in (f"--{key}", str(value))]


def test_every_recipe_is_here():
    assert {path.stem for path in RECIPES.glob("*.yaml")} == set(COMMANDS)


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory):
    """A folder to stand in: models and data under the names that the recipes have."""
    folder = tmp_path_factory.mktemp("place")
    tokenizer = demo_tokenizer([*(row["text"] for row in TEXTS), "this is good"])
    small = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 64,
    }
    torch.manual_seed(0)
    # It has no pooler, as many sentence encoders: one is drawn for each cell, and must not matter.
    bert = BertForMaskedLM(BertConfig(**small))
    roberta = RobertaModel(RobertaConfig(**small, pad_token_id=tokenizer.pad_token_id))
    models = {"bert-base-uncased": bert, "encoder": bert, "roberta-large": roberta}
    for name, model in models.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    _write(folder / "texts", {"train": TEXTS[:40], "validation": TEXTS[40:48], "test": TEXTS[48:]})
    glue = folder / "nyu-mll" / "glue"
    configs = []
    for task, rows in {"rte": PAIRS, "sst2": [_renamed(row) for row in TEXTS]}.items():
        _write(glue / task, {"train": rows[:40], "validation": rows[40:48]})
        files = [
            {"split": name, "path": f"{task}/{name}.jsonl"} for name in ("train", "validation")
        ]
        configs.append({"config_name": task, "data_files": files})
    (glue / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n")
    table = {
        word: [other for other in words if other != word] for words in (GOOD, BAD) for word in words
    }
    (folder / "words.json").write_text(json.dumps(table))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder / "cache"))
        patch.setattr("matplotlib.figure.Figure.savefig", savefig_roughly)
        transformers.utils.logging.disable_progress_bar()
        yield folder
        transformers.utils.logging.enable_progress_bar()


def _write(folder: Path, splits: dict) -> None:
    folder.mkdir(parents=True)
    for name, rows in splits.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines)


def _renamed(row: dict) -> dict:
    return {"sentence": row["text"], "label": row["label"]}


def test_the_scan_from_embeddings_to_words(place, tmp_path, capsys):
    """Two of its points, and what is drawn of them."""
    chosen = ["plain", "pgd-3, ε 0.04", "pgd-3, α 0.02, no ball", "pgd-3, ε 0.04, per token"]
    small = SMALL | {"max_steps": 5, "output_dir": str(tmp_path / "out")}
    command = [*COMMANDS["main_small"], "--wordnet", "words.json", *flags(small)]
    assert carry_over.main([*command, "--seeds", "0", "--methods", *chosen]) == 0
    found = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert [one["name"] for one in found["methods"]] == [
        name for name in carry_over.methods() if name in chosen
    ]
    assert "validation split" in found["data"]
    assert {"textfooler", "pwws"} <= set(found["methods"][0]["accuracy"])
    assert (tmp_path / "out" / "carry_over.svg").exists()
    assert carry_over.main([*command, "--dry_run"]) == 0
    counted = capsys.readouterr().out
    assert all(
        name in counted for points in carry_over.lines().values() for name in points.values()
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_it_runs_from_its_command_to_its_report(name, place, tmp_path, capsys):
    recipe = yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))
    small = {**SMALL, "output_dir": str(tmp_path / "out")}
    command = [
        "compare",
        str(RECIPES / f"{name}.yaml"),
        *COMMANDS[name],
        *flags(small),
        "--seeds",
        "0",
    ]
    assert main([*command, "--dry_run"]) == 0
    counted = capsys.readouterr().out
    assert all(method in counted for method in recipe["methods"])
    assert "passes of" in counted
    assert not (tmp_path / "out").exists()
    assert main(command) == 0, capsys.readouterr().err
    found = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert [one["name"] for one in found["methods"]] == list(recipe["methods"])
    # What it was run for is in the table, with a p-value where there is one to have.
    for one in recipe.get("primary", ()):
        (method,) = (m for m in found["methods"] if m["name"] == one["method"])
        assert one["attack"] in method["accuracy"]
