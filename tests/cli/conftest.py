"""What the tests of the command line share: rough pictures, tiny data, an empty folder."""

from pathlib import Path

import datasets
import pytest
import torch
import transformers
from commands import SPLITS, TEXTS, write
from matplotlib.figure import Figure
from roughly import savefig_roughly
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, BertModel

from nlp_adv.data.text_demo import demo_tokenizer


@pytest.fixture(scope="module", autouse=True)
def _quiet(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        cache = str(tmp_path_factory.mktemp("cache"))
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
        patch.setattr(Figure, "savefig", savefig_roughly)
        datasets.disable_progress_bars()
        transformers.utils.logging.disable_progress_bar()
        yield
        datasets.enable_progress_bars()
        transformers.utils.logging.enable_progress_bar()


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> dict[str, str]:
    """A model folder and one file a split, by flag."""
    folder = tmp_path_factory.mktemp("given")
    tokenizer = demo_tokenizer([row["text"] for rows in SPLITS.values() for row in rows])
    tokenizer.save_pretrained(folder / "model")
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder / "model")
    return {
        "model_name_or_path": str(folder / "model"),
        **{f"{name}_file": write(folder / f"{name}.jsonl", SPLITS[name]) for name in SPLITS},
    }


@pytest.fixture(scope="session")
def reader(files, tmp_path_factory) -> Path:
    """A trained classifier that looks at adjectives, and its tokenizer."""
    folder = tmp_path_factory.mktemp("reader")
    tokenizer = AutoTokenizer.from_pretrained(files["model_name_or_path"])
    torch.manual_seed(0)  # of the head
    model = BertForSequenceClassification.from_pretrained(
        files["model_name_or_path"],
        num_labels=2,
        id2label={0: "bad", 1: "good"},
        label2id={"bad": 0, "good": 1},
    )
    torch.manual_seed(1)
    rows = tokenizer([row["text"] for row in TEXTS], padding=True, return_tensors="pt")
    labels = torch.tensor([int(row["label"] == "good") for row in TEXTS])
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(40):
        model(**rows, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    """An empty current directory."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder
