"""A trained model keeps the names and the order of its classes when it is trained further."""

import json
from pathlib import Path

import pytest
import torch
from commands import BRIEF, SPLITS, call, write
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from nlp_adv.data.labels import in_classes_of

pytestmark = pytest.mark.fault("U6")
TEXTS = [row["text"] for row in SPLITS["train"]]
SENTIMENT = ("negative", "positive")
ENTAILMENT = ("CONTRADICTION", "NEUTRAL", "ENTAILMENT")


def config(names: tuple[str, ...]) -> BertConfig:
    return BertConfig(id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)})


# names of the model, names of the data → their numbers in the model, its names when trained
RULES = {
    "numbered": (SENTIMENT, ("0", "1"), (0, 1), SENTIMENT),
    "truth": (SENTIMENT, ("False", "True"), (0, 1), SENTIMENT),
    "truth as text": (SENTIMENT, ("false", "true"), (0, 1), SENTIMENT),
    "same": (SENTIMENT, SENTIMENT, (0, 1), SENTIMENT),
    "another order": (SENTIMENT, SENTIMENT[::-1], (1, 0), SENTIMENT),
    "another case": (ENTAILMENT, ("entailment", "neutral", "contradiction"), (2, 1, 0), ENTAILMENT),
    "some of them": (ENTAILMENT, ("contradiction", "entailment"), (0, 2), ENTAILMENT),
    "others": (SENTIMENT, ("ham", "spam"), (0, 1), ("ham", "spam")),
    "one other": (SENTIMENT, ("negative", "neutral"), (0, 1), ("negative", "neutral")),
    "from one on": (SENTIMENT, ("1", "2"), (0, 1), ("1", "2")),
    "more numbers": (SENTIMENT, ("0", "1", "2"), (0, 1, 2), ("0", "1", "2")),
    "numbers by name": (("1", "0"), ("0", "1"), (1, 0), ("1", "0")),
    "numbers backwards": (SENTIMENT, ("1", "0"), (1, 0), SENTIMENT),
    "placeholders": (("LABEL_0", "LABEL_1"), ("bad", "good"), (0, 1), ("bad", "good")),
    "placeholders, numbers": (("LABEL_0", "LABEL_1"), ("0", "1"), (0, 1), ("0", "1")),
    "placeholders in both": (("LABEL_0", "LABEL_1"), ("LABEL_1", "LABEL_0"), (1, 0), None),
}


@pytest.mark.parametrize("case", RULES)
def test_the_rule(case):
    known, names, numbers, after = RULES[case]
    assert in_classes_of(config(known), names) == (numbers, after or known)


@pytest.fixture
def model(work, files):
    """Makes a model folder whose classes have these names; its weights are its own."""

    def make(*names: str) -> str:
        tokenizer = AutoTokenizer.from_pretrained(files["model_name_or_path"])
        size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        size |= {"intermediate_size": 32, "vocab_size": len(tokenizer), "num_labels": len(names)}
        shape = BertConfig(**size)
        shape.id2label = dict(enumerate(names))
        shape.label2id = {name: number for number, name in enumerate(names)}
        torch.manual_seed(0)
        BertForSequenceClassification(shape).save_pretrained(work / "named")
        tokenizer.save_pretrained(work / "named")
        return str(work / "named")

    return make


def trained(name: str, **data: object) -> dict:
    """The configuration that a training run saves."""
    run = call(model_name_or_path=name, output_dir="out", **BRIEF, **data)
    assert run.code == 0, run.err
    saved = json.loads(Path("out/config.json").read_text())
    assert {int(k): v for k, v in saved["id2label"].items()} == {
        number: label for label, number in saved["label2id"].items()
    }
    return saved | {"note": run.err}


@pytest.mark.parametrize(
    "labels",
    [(0, 1), ("0", "1"), (0.0, 1.0), (False, True), ("positive", "negative"), ("Negative ", "x")],
    ids=str,
)
def test_names_of_a_model_are_kept(work, model, labels):
    if labels[1] == "x":
        labels = ("NEGATIVE", "Positive")
    rows = [{"text": text, "label": labels[n % 2]} for n, text in enumerate(TEXTS)]
    saved = trained(model(*SENTIMENT), train_file=write(work / "train.jsonl", rows))
    assert saved["id2label"] == {"0": "negative", "1": "positive"}
    assert saved["problem_type"] == "single_label_classification"
    assert "become those of the data" not in saved["note"]


def test_other_names_replace_the_models_and_that_is_said(work, model):
    rows = [{"text": text, "label": ("ham", "spam")[n % 2]} for n, text in enumerate(TEXTS)]
    saved = trained(model(*SENTIMENT), train_file=write(work / "train.jsonl", rows))
    assert saved["id2label"] == {"0": "ham", "1": "spam"}
    note = "Note: the model's classes negative, positive become those of the data: ham, spam."
    assert note in saved["note"].splitlines()


def test_a_score_keeps_its_name(work, model):
    rows = [{"text": text, "label": n / 7} for n, text in enumerate(TEXTS)]
    saved = trained(model("score"), train_file=write(work / "train.jsonl", rows))
    assert saved["id2label"] == {"0": "score"}
    assert saved["problem_type"] == "regression"


def test_declared_classes_are_trained_on_the_models_own_logits(work, model):
    """One order in the data, the reverse in the model: a right answer stays right."""
    declared = Features(
        {"text": Value("string"), "label": ClassLabel(names=["Positive", "Negative"])}
    )
    rows = {"text": TEXTS, "label": [n % 2 for n in range(len(TEXTS))]}
    split = Dataset.from_dict(rows, declared)
    DatasetDict(train=split, validation=split).save_to_disk(str(work / "data"))
    run = call(
        model_name_or_path=model(*SENTIMENT),
        dataset_name=str(work / "data"),
        output_dir="out",
        **BRIEF | {"max_steps": 60, "learning_rate": 1e-2, "max_grad_norm": 100},
    )
    assert run.code == 0, run.err
    saved = BertForSequenceClassification.from_pretrained("out").eval()
    tokenizer = AutoTokenizer.from_pretrained("out")
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        answers = saved(**batch).logits.argmax(1).tolist()
    told = [saved.config.id2label[answer] for answer in answers]
    right = [["positive", "negative"][label] for label in rows["label"]]
    accuracy = sum(one == other for one, other in zip(told, right, strict=True)) / len(right)
    reported = json.loads(Path("out/nlp_adv_report.json").read_text())["runs"][0]["metrics"]
    assert accuracy == pytest.approx(reported["validation_accuracy"])
    assert saved.config.id2label == {0: "negative", 1: "positive"}
