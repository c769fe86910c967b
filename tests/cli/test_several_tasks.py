"""`nlp-adv train --task`: tags of words, several classes a text, language models."""

import json
import math
import re
import shlex
from pathlib import Path

import pytest
from commands import BRIEF, NOUNS, WORDS, call, columns, refused, typed, write
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaModel,
)

from nlp_adv.training.records import REPORT_NAME

ADJECTIVES = [word for words in WORDS.values() for word in words]
TAGS = ["O", "B-noun", "B-good", "B-bad"]


def tagged(noun: str) -> list[dict]:
    rows = []
    for number, word in enumerate(ADJECTIVES):
        kind = 2 if word in WORDS["good"] else 3
        rows.append({"tokens": ["the", noun, "is", word], "ner_tags": [0, 1, 0, kind]})
        rows[-1]["tokens"] *= 1 + number % 2
        rows[-1]["ner_tags"] *= 1 + number % 2
    return rows


def several(noun: str) -> list[dict]:
    pairs = zip(WORDS["good"], WORDS["bad"], strict=True)
    both = [(f"the {noun} is {good} and {bad}", ["bad", "good"]) for good, bad in pairs]
    one = [(f"the {noun} is {word}", [name]) for name in WORDS for word in WORDS[name]]
    none = [(f"the {noun} is the {noun}", [])]
    return [{"text": text, "labels": labels} for text, labels in (*both, *one, *none)]


@pytest.fixture(scope="module")
def tasks(files, tmp_path_factory) -> dict[str, dict]:
    """Flags of each task: a model and one file a split."""
    folder = tmp_path_factory.mktemp("tasks")
    tokenizer = AutoTokenizer.from_pretrained(files["model_name_or_path"])
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=32)
    config.bos_token_id = config.eos_token_id = tokenizer.sep_token_id
    GPT2LMHeadModel(config).save_pretrained(folder / "lm")
    tokenizer.save_pretrained(folder / "lm")
    (folder / "names.json").write_text(json.dumps(TAGS))
    splits = {"train": NOUNS[:3], "validation": NOUNS[3:4], "test": NOUNS[4:]}
    found = {}
    for task, rows in (("token-classification", tagged), ("multi-label", several)):
        found[task] = {
            "task": task,
            "model_name_or_path": files["model_name_or_path"],
            **{
                f"{name}_file": write(
                    folder / f"{task}-{name}.jsonl", [row for noun in nouns for row in rows(noun)]
                )
                for name, nouns in splits.items()
            },
        }
    llama = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    llama |= {"num_attention_heads": 2, "vocab_size": len(tokenizer), "pad_token_id": 0}
    LlamaModel(LlamaConfig(**llama)).save_pretrained(folder / "tagger")
    found["tagger"] = folder / "tagger"
    found["token-classification"]["label_names_file"] = folder / "names.json"
    texts = {f"{name}_file": files[f"{name}_file"] for name in splits}
    found["causal-lm"] = {"task": "causal-lm", "model_name_or_path": folder / "lm", **texts}
    return found


LONGER = {**BRIEF, "max_steps": 40, "learning_rate": 1e-2}
ATTACK = {"attack_epsilons": [0.1, 0.5], "attack_steps": 5}


def report(folder="out") -> dict:
    with open(f"{folder}/{REPORT_NAME}") as file:
        return json.load(file)["runs"][-1]


def test_tags_of_words(tasks, work):
    run = call(**tasks["token-classification"], **LONGER, **ATTACK, adv="fgm", do_predict=True,
               compare_plain=True, do_train=True, do_eval=True, output_dir="out")  # fmt: skip
    assert run.code == 0, run.err
    plain, row = columns(run)
    assert (plain["training"], row["training"]) == ("plain", "fgm")
    assert float(row["f1"]) > 0.5
    for name in ("clean, first 8", "entity F1, clean, first 8", "PGD-5 ε=0.5"):
        assert name in row
    assert float(row["entity F1, PGD-5 ε=0.5"]) < float(row["entity F1, clean, first 8"])
    assert "as many of its words wrong" in " ".join(run.out.split())
    found = report()
    under = [found["accuracy_under_attack"][e] for e in ("0.1", "0.5")]
    assert found["accuracy_without_attack"] >= under[0] >= under[1]
    assert found["scores_without_attack"]["entity F1"] == found["metrics"]["test_f1"]
    lines = (work / "out" / "predict_results_test.txt").read_text().splitlines()
    assert lines[0] == "index\tprediction"
    words = [row["tokens"] for row in tagged(NOUNS[4])]
    assert [len(line.split("\t")[1].split()) for line in lines[1:]] == list(map(len, words))
    assert {tag for line in lines[1:] for tag in line.split("\t")[1].split()} <= {*TAGS}
    assert json.loads((work / "out" / "config.json").read_text())["id2label"]["1"] == "B-noun"
    again = {**tasks["token-classification"], "model_name_or_path": "out", "output_dir": "again"}
    again = call(**again, **ATTACK, do_train="false", do_eval="false")
    assert again.code == 0, again.err
    assert report("again")["accuracy_under_attack"] == found["accuracy_under_attack"]


def test_several_classes_a_text(tasks, work):
    run = call(**tasks["multi-label"], **LONGER, **ATTACK, adv="freelb", do_predict=True,
               do_train=True, do_eval=True, output_dir="out")  # fmt: skip
    assert run.code == 0, run.err
    (row,) = columns(run)
    assert float(row["f1"]) > 0.5
    assert {"exact_match", "accuracy", "f1, PGD-5 ε=0.1"} <= {*row}
    lines = (work / "out" / "predict_results_test.txt").read_text().splitlines()[1:]
    assert {name for line in lines for name in json.loads(line.split("\t")[1])} <= {*WORDS}
    config = json.loads((work / "out" / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"


def test_a_language_model(tasks, work):
    run = call(**tasks["causal-lm"], **LONGER, **ATTACK, adv="fgm", output_dir="out")
    assert run.code == 0, run.err
    (row,) = columns(run)
    found = report()
    loss = found["metrics"]["test_loss"]
    assert math.isclose(found["metrics"]["test_perplexity"], math.exp(loss))
    assert float(row["PGD-5 ε=0.5"]) < float(row["clean, first 8"])
    assert "largest answer" not in run.out
    assert "next tokens" in " ".join(run.out.split())


@pytest.mark.parametrize(
    ("task", "flags", "words"),
    [
        ("token-classification", {"watch_epsilon": 0.1, "metric_for_best_model": "f1"}, "f1"),
        ("multi-label", {"watch_epsilon": 0.1, "metric_for_best_model": "f1"}, "f1"),
        ("causal-lm", {"metric_for_best_model": "robust_accuracy", "watch_epsilon": 0.1}, "lm"),
    ],
)
def test_the_best_checkpoint_is_kept(tasks, work, task, flags, words):
    brief = {**BRIEF, "save_strategy": "epoch", "eval_strategy": "epoch", "max_steps": 12}
    brief |= {"load_best_model_at_end": True, "attack_steps": 3}
    run = call(**tasks[task], **brief, **flags, output_dir="out")
    assert run.code == 0, run.err
    state = json.loads((work / "out" / "trainer_state.json").read_text())
    assert state["best_metric"] is not None
    assert any("eval_robust_accuracy" in line for line in state["log_history"])


PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "tasks.md").read_text(encoding="utf-8")
COMMANDS = re.findall(
    r"^```bash\nnlp-adv train (.*?)^```$", PAGE.replace("\\\n", ""), flags=re.DOTALL | re.MULTILINE
)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.split()[1])
def test_the_commands_of_the_page(tasks, work, command):
    words = shlex.split(command)
    given = {k: v for k, v in tasks[words[1]].items() if f"--{k}" in words and k != "task"}
    run = call(*words, **given, **BRIEF, attack_steps=2)
    assert run.code == 0, run.err
    assert len(columns(run)) == 1


@pytest.mark.parametrize("task", ["token-classification", "multi-label"])
def test_a_sweep_compares_accuracies_of_answers(tasks, work, task):
    run = call(command="sweep", **tasks[task], **BRIEF, trials=1, adv="fgm",
               space="adv_epsilon=0.01:0.1", attack_epsilons=0.1, attack_steps=2)  # fmt: skip
    assert run.code == 0, run.err
    assert "PGD ε=0.1" in run.out


class TestRefusals:
    @pytest.mark.parametrize(
        ("task", "flags", "words"),
        [
            ("token-classification", {"task": "tagging"}, ["--task is one of", "'tagging'"]),
            ("token-classification", {"regression": True}, ["--regression"]),
            ("token-classification", {"label_names_file": "none.json"}, ["cannot be read"]),
            ("token-classification", {"label_column": "tags"}, ["no column 'tags'"]),
            ("multi-label", {"label_column": "text"}, ["different text columns"]),
            ("multi-label", {"label_names_file": "x.json"}, ["token-classification alone"]),
            ("causal-lm", {"do_predict": True}, ["--do_predict", "perplexity"]),
            ("causal-lm", {"label_column": "label"}, ["needs no labels"]),
            ("causal-lm", {"metric_for_best_model": "f1"}, ["There is no metric 'f1'"]),
            ("multi-label", {"task": "classification"}, ["labels"]),
        ],
    )
    def test_what_does_not_fit_the_task(self, tasks, work, task, flags, words):
        run = call(**{**tasks[task], **BRIEF, "output_dir": "out", **flags})
        refused(run, *words)
        assert not (work / "out").exists()

    @pytest.mark.parametrize("command", ["attack", "evaluate"])
    def test_attacks_on_texts_of_one_class(self, tasks, files, work, command):
        """A head of tags has weights that are called like those of a classifier."""
        tagger = AutoModelForTokenClassification.from_pretrained(tasks["tagger"])
        tagger.save_pretrained("tagger")
        labels = AutoModelForSequenceClassification.from_pretrained(tasks["tagger"])
        labels.config.problem_type = "multi_label_classification"
        labels.save_pretrained("labels")
        texts = {"test_file": files["test_file"], "output_dir": "out"}
        run = typed(command, model_name_or_path="tagger", **texts)
        refused(run, "LlamaForTokenClassification", "--task", command=command)
        run = typed(command, model_name_or_path="labels", **texts)
        refused(run, "yes or no", "--task multi-label", command=command)

    def test_an_encoder_is_no_language_model(self, tasks, files, work):
        """It loads as one, and reads the next token off its input."""
        given = {**tasks["causal-lm"], "model_name_or_path": files["model_name_or_path"]}
        run = call(**given, **BRIEF, output_dir="out")
        assert run.code == 2
        assert "sees the tokens that it is to predict" in run.err.splitlines()[-1]
        assert not (work / "out" / "config.json").exists()

    def test_there_is_no_demo(self, work):
        refused(call(task="causal-lm"), "The demo classifies sentences")

    def test_glue_is_classification(self, tasks, work):
        refused(call(**tasks["multi-label"], task_name="sst2"), "leave out --task")

    def test_images_have_one_task(self, work):
        refused(call(modality="image", task="causal-lm"), "--task is one of classification")

    def test_a_sweep_of_language_models(self, tasks, work):
        space = {"trials": 1, "adv": "fgm", "space": "adv_epsilon=0.01:0.1"} | ATTACK
        run = call(command="sweep", **tasks["causal-lm"], **BRIEF, **space)
        refused(run, "compares classifiers", command="sweep")
